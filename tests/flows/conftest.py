"""The tiny graph, for every test of this folder."""

from pathlib import Path

import pytest

from tests.flows.toy import Toy, copy_toy, make_toy


@pytest.fixture(scope="session")
def toy_template(tmp_path_factory: pytest.TempPathFactory) -> Toy:
    """A toy repository that tests copy and do not change."""
    folder = tmp_path_factory.mktemp("template")
    return make_toy(folder / "toy", folder / "home")


@pytest.fixture
def toy(toy_template: Toy, tmp_path: Path) -> Toy:
    """The tiny graph in a fresh repository."""
    return copy_toy(toy_template, tmp_path)
