"""For all tests: how they are spread over the cores."""

from pathlib import Path

import pytest

HERE = Path(__file__).parent


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Groups tests for pytest-xdist: those with real servers together and first, the others by file.

    Servers take Triton's, MLflow's and Prefect's usual ports when they are free; on one worker no two ask at once.
    Files stay whole, so that what a file trains or exports once is not made twice.
    """
    for item in items:
        path = item.path.relative_to(HERE)
        group = "real" if path.parts[0] == "real" or path.parts[:2] == ("flows", "platform") else str(path)
        item.add_marker(pytest.mark.xdist_group(group))
    items.sort(key=lambda item: item.get_closest_marker("xdist_group").args[0] != "real")
