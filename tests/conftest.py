"""For all tests: how they are spread over the cores."""

from pathlib import Path

import pytest

HERE = Path(__file__).parent


def group(item: pytest.Item) -> str:
    """Tests with real servers are one group, the others one for each file."""
    path = item.path.relative_to(HERE)
    return "real" if path.parts[0] == "real" or path.parts[:2] == ("flows", "platform") else str(path)


def pytest_itemcollected(item: pytest.Item) -> None:
    """Groups tests for pytest-xdist, which reads the mark before any `pytest_collection_modifyitems` of ours.

    Servers take Triton's, MLflow's and Prefect's usual ports when they are free; on one worker no two ask at once.
    Files stay whole, so that what a file trains or exports once is not made twice.
    """
    item.add_marker(pytest.mark.xdist_group(group(item)))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts the tests with real servers first: they wait more than they compute."""
    items.sort(key=lambda item: group(item) != "real")
