"""Which list of photographs is in use, and what a scan does to the other one."""

from pathlib import Path

import pytest
from PIL import Image

from relume.ingestion.lists import list_in_use, own_list, source_folders, update_list
from relume.ingestion.sources import PACKAGES, read_sources


@pytest.fixture
def places(tmp_path) -> tuple[Path, Path]:
    """A checkout that tracks the built-in photographs, and an empty home; two folders with a photograph lie beside."""
    root, home = tmp_path / "checkout", tmp_path / "home"
    root.mkdir()
    update_list(root, home, [PACKAGES], tracked=True)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        Image.new("RGB", (8, 8), "red").save(tmp_path / name / "red.png")
    return root, home


def test_own_sources_leave_the_tracked_list_alone(places, tmp_path):
    """A folder that is scanned is listed in the home; the tracked list keeps its bytes, and a rescan stays there."""
    root, home = places
    tracked = (root / "sources.json").read_bytes()
    change = update_list(root, home, [tmp_path / "a"])
    assert change.path == own_list(home) == list_in_use(root, home) == home / "sources.json"
    assert change.replaced == (PACKAGES,)
    assert len(change.removed) == 17
    Image.new("RGB", (8, 8), "blue").save(tmp_path / "a" / "blue.png")
    assert update_list(root, home).added == ((tmp_path / "a" / "blue.png").as_uri(),)
    assert (root / "sources.json").read_bytes() == tracked
    assert update_list(root, home, [tmp_path / "a", tmp_path / "b"]).replaced == ()
    assert update_list(root, home, [tmp_path / "b"]).replaced == ((tmp_path / "a").as_uri(),)


def test_without_an_own_list_the_tracked_one_is_scanned_again(places):
    """A rescan that finds the tracked list as it is writes nothing anywhere."""
    root, home = places
    before = (root / "sources.json").stat().st_mtime_ns
    change = update_list(root, home)
    assert not change
    assert change.path == list_in_use(root, home) == root / "sources.json"
    assert (root / "sources.json").stat().st_mtime_ns == before
    assert not home.exists()


def test_the_way_back_to_the_tracked_list(places, tmp_path):
    """An own list that says the same as the tracked one is not kept beside it."""
    root, home = places
    update_list(root, home, [tmp_path / "a"])
    assert update_list(root, home, [PACKAGES]).path == root / "sources.json"
    assert own_list(home) is None


def test_tracked_makes_the_own_list_the_checkouts(places, tmp_path):
    """Asked for, the list goes into the checkout, where git and `dvc repro` see it, and the home's is gone."""
    root, home = places
    update_list(root, home, [tmp_path / "a"])
    change = update_list(root, home, tracked=True)
    assert (change.path, change.replaced) == (root / "sources.json", ())
    assert read_sources(root / "sources.json")["sources"] == [(tmp_path / "a").as_uri()]
    assert own_list(home) is None


def test_source_folders_are_the_folders_of_this_machine(places, tmp_path):
    """A folder with blanks and signs in its name is found as it is; packages are no folder."""
    _, home = places
    folder = tmp_path / "my photos, 50% ünd more?"
    folder.mkdir()
    Image.new("RGB", (80, 80)).save(folder / "a.png")
    root = places[0]
    update_list(root, home, [folder, PACKAGES])
    assert source_folders(list_in_use(root, home)) == [folder]
