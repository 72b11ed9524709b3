"""The store of hard tiles, and what is made of it."""

import csv

import numpy as np
import pytest
from click.testing import CliRunner

from flows.monitoring import tiles
from flows.monitoring.tiles import DAYS, HardTiles, Tile
from relume.cli import main
from relume.errors import ConfigError
from relume.images import encode, read_image
from relume.ingestion.sources import image_files

NOW = 1_800_000_000.0


def tile(disagreement, *, kind="orientation", noise=1.0):
    pixels = np.full((8, 8, 3), int(disagreement), np.uint8)
    return Tile(kind=kind, release="denoise-1", disagreement=disagreement, noise=noise, png=encode(pixels, ".png"))


@pytest.fixture
def store(tmp_path):
    """The tiles of a new home."""
    store = HardTiles(tmp_path / "home")
    yield store
    store.close()


def rows(folder):
    with open(folder / "tiles.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_the_hardest_of_each_kind_are_kept(store, tmp_path, monkeypatch):
    """As many as there may be; the file is its user's alone."""
    monkeypatch.setattr(tiles, "TILES", 2)
    for disagreement in (5, 9, 7):
        store.add(tile(disagreement))
    store.add(tile(1, kind="candidate"))
    store.harvest(tmp_path / "harvest")
    assert [(row["kind"], row["disagreement"]) for row in rows(tmp_path / "harvest")] == [
        ("orientation", "9"),
        ("orientation", "7"),
        ("candidate", "1"),
    ]
    assert store.path.stat().st_mode & 0o777 == 0o600


def test_old_tiles_are_forgotten(store, tmp_path):
    """With the next one that is kept, and by the check of the monitoring when none is."""
    store.add(tile(9), now=NOW)
    store.add(tile(3), now=NOW + 86400 * DAYS + 1)
    store.forget(now=NOW + 86400 * DAYS + 1)
    with store._database() as database:
        assert database.execute("SELECT disagreement FROM tiles").fetchall() == [(3.0,)]
    store.forget(now=NOW + 86400 * (2 * DAYS) + 2)
    with store._database() as database:
        assert database.execute("SELECT COUNT(*) FROM tiles").fetchone() == (0,)


def test_a_harvest_is_a_source_of_what_is_clean(tmp_path, monkeypatch):
    """The command writes the pixels as they were sent; only those without noise are in the folder to train with, and a
    folder that is there is left as it is."""
    monkeypatch.setenv("RELUME_HOME", str(tmp_path / "home"))
    store = HardTiles(tmp_path / "home")
    store.add(tile(40))
    store.add(tile(90, noise=12.0))
    store.close()
    folder = tmp_path / "harvest"
    result = CliRunner().invoke(main, ["data", "harvest", str(folder)])
    assert (result.exit_code, result.output) == (0, f"{folder}: 1 clean tile, 1 degraded\n")
    (clean,) = image_files(folder / "clean")
    assert (read_image(clean).pixels == 40).all()
    (degraded,) = image_files(folder / "degraded")
    assert (read_image(degraded).pixels == 90).all()
    assert [row["file"] for row in rows(folder)] == [f"degraded/{degraded.name}", f"clean/{clean.name}"]
    with pytest.raises(ConfigError):
        HardTiles(tmp_path / "home").harvest(folder)


def test_without_tiles_there_is_nothing_to_harvest(store, tmp_path):
    """The folder is there, with an empty table, and no database is made."""
    assert store.harvest(tmp_path / "harvest") == (0, 0)
    assert rows(tmp_path / "harvest") == []
    assert not store.path.exists()
