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


@pytest.fixture(scope="session")
def built_template(toy_template: Toy, tmp_path_factory: pytest.TempPathFactory) -> Toy:
    """A toy whose graph `dvc repro` has run: cache, outs and dvc.lock are there, the journal is empty again."""
    toy = copy_toy(toy_template, tmp_path_factory.mktemp("built"))
    toy.shell("dvc", "repro")
    (toy.notes / "journal").unlink()
    return toy


@pytest.fixture
def built(built_template: Toy, tmp_path: Path) -> Toy:
    """A fresh copy of the toy whose graph has run."""
    return copy_toy(built_template, tmp_path / "built")
