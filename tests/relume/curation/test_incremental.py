"""New photographs only add work for themselves, and the result is that of a run from nothing, byte for byte."""

import contextlib
import errno
import os
import shutil
import tempfile
import threading
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from relume.curation import curate as curation
from relume.curation import measuring
from relume.curation.curate import curate
from relume.curation.settings import KeepBest
from relume.files import sha256_folder
from relume.images import save_image
from relume.ingestion import ingest as ingestion
from relume.ingestion.ingest import ingest
from relume.ingestion.sources import scan
from tests.relume.curation.photographs import skimage_photograph
from tests.relume.curation.test_split import settings

LIMITS = {"max_megapixels": 100.0, "min_side": 16, "shard_megabytes": 0.5}
SETTINGS = settings(
    patch=64, stride=64, min_test=1, scenes="hashes", min_sharpness=1.0, max_noise_sigma=99.0, shard_megabytes=0.1,
    patches_per_cluster=None, max_flat_fraction=1.0, held_out_side=160, keep=KeepBest(fraction=1.0, by=("niqe",)),
)  # fmt: skip
NAMES = ("astronaut.png", "brick.png", "chelsea.png", "coffee.png", "grass.png", "rocket.jpg", "motorcycle_left.png")


@pytest.fixture
def photos(tmp_path):
    """A folder of 14 photographs, and two pairs beside it."""
    for name in NAMES:
        pixels = skimage_photograph(name)
        save_image(tmp_path / "photos" / f"{Path(name).stem}-left.png", pixels[:200, :200])
        save_image(tmp_path / "photos" / f"{Path(name).stem}-right.png", pixels[-200:, -200:])
    rng = np.random.default_rng(0)
    for number, name in enumerate(("ihc.png", "motorcycle_right.png", "coins.png")):
        clean = np.ascontiguousarray(skimage_photograph(name)[40:232, 40:232])
        noisy = np.clip(clean + rng.normal(0, 20, clean.shape), 0, 255).astype(np.uint8)
        save_image(tmp_path / "pairs" / "clean" / f"{number}.png", clean)
        save_image(tmp_path / "pairs" / "noisy" / f"{number}.png", noisy)
    return tmp_path / "photos"


@pytest.fixture
def work(monkeypatch):
    """Counts the images that are decoded, measured, read to be cut, and encoded for the held-out sides."""
    counts, lock = Counter(), threading.Lock()  # several threads count

    def counting(module, name, kind):
        function = getattr(module, name)

        def counted(*args, **kwargs):
            with lock:
                counts[kind] += 1
            return function(*args, **kwargs)

        monkeypatch.setattr(module, name, counted)

    counting(ingestion, "encode", "ingested")
    counting(measuring, "_measure", "measured")
    counting(curation, "seen", "read to be cut")
    counting(curation, "encode", "encoded")
    return counts


def run(photos, out, cache):
    """Both steps, with a cache or None."""
    for name in ("ingested", "curated"):
        (out / name).mkdir(parents=True)
    listing = scan([photos, f"real=folders:{photos.parent / 'pairs'}"])
    quiet = {"progress": lambda *counted: None}
    ingest(listing, out / "ingested", **LIMITS, **quiet, cache=cache and cache / "ingest")
    curate(out / "ingested", out / "curated", SETTINGS, **quiet, cache=cache and cache / "curate")
    return sha256_folder(out)


def test_new_photographs_only_add_work_for_themselves(photos, work, tmp_path):
    """Of 17 and 2 more only the 2 are decoded, measured and cut; without any new one nothing is."""
    cache = tmp_path / "cache"
    run(photos, tmp_path / "first", cache)
    assert work["ingested"] == 14 + 2 * 3
    assert work["measured"] == 17
    work.clear()
    assert run(photos, tmp_path / "again", cache) == sha256_folder(tmp_path / "first")
    assert work == {}
    for name, pixels in {"aaa": skimage_photograph("ihc.png"), "zzz": skimage_photograph("gravel.png")}.items():
        save_image(photos / f"{name}.png", pixels[-180:, -180:])
    found = run(photos, tmp_path / "more", cache)
    assert (work["ingested"], work["measured"]) == (2, 2)
    assert work["read to be cut"] <= 2 + work["encoded"]
    assert work["encoded"] <= 4  # that are held out now
    work.clear()
    assert run(photos, tmp_path / "nothing", None) == found
    assert work["measured"] == 19


def test_photographs_that_go_or_change_leave_no_trace(photos, work, tmp_path):
    """One is removed and one has other pixels: as from nothing, with one photograph decoded and measured."""
    cache = tmp_path / "cache"
    run(photos, tmp_path / "first", cache)
    (photos / "brick-left.png").unlink()
    save_image(photos / "coffee-left.png", skimage_photograph("coffee.png")[100:300, 100:300])
    work.clear()
    found = run(photos, tmp_path / "second", cache)
    assert (work["ingested"], work["measured"]) == (1, 1)
    assert run(photos, tmp_path / "nothing", None) == found


def test_a_run_that_did_not_end_is_taken_up_where_it_was(photos, work, tmp_path):
    """Ended twice on its way, the next run decodes what is in no closed shard, with the bytes of a run from nothing."""
    whole, cache, listing = tmp_path / "whole", tmp_path / "cache", scan([photos])
    limits = LIMITS | {"shard_megabytes": 0.1}
    whole.mkdir()
    ingest(listing, whole, **limits, progress=lambda *_: None)
    decoded = []
    for attempt, end in enumerate((8, 12, 99)):
        folder = tmp_path / f"attempt-{attempt}"
        folder.mkdir()
        work.clear()

        def progress(what, done, total, end=end):
            if done == end:
                raise KeyboardInterrupt

        with contextlib.suppress(KeyboardInterrupt):
            ingest(listing, folder, **limits, progress=progress, cache=cache)
        decoded.append(work["ingested"])
        if end != 99:
            shutil.rmtree(folder)
            (cache / f"of-another-{attempt}.sqlite").write_bytes(b"no database" * attempt)
    assert sha256_folder(folder) == sha256_folder(whole)
    assert decoded[1] <= 14 - 5  # 8 were done, of which the last two or three were in no closed shard
    assert decoded[2] <= 14 - 9
    assert len(list(cache.glob("*.sqlite"))) == 1  # of the run that ended
    assert len(list(cache.glob("*.tar"))) == len(list(whole.glob("*.tar"))) > 4


def test_other_settings_or_code_compute_all_again(photos, work, tmp_path, monkeypatch):
    """What was kept by another version of the code is not used."""
    cache = tmp_path / "cache"
    run(photos, tmp_path / "first", cache)
    work.clear()
    monkeypatch.setattr(ingestion, "code_version", lambda *of: "other")
    monkeypatch.setattr("relume.curation.records.code_version", lambda *of: "other")
    run(photos, tmp_path / "second", cache)
    assert (work["ingested"], work["measured"]) == (20, 17)


@pytest.mark.parametrize("damage", ["shards", "index", "records", "links gone"])
def test_a_damaged_cache_changes_nothing(photos, tmp_path, damage):
    """Bytes that are others, files that are no database and files that are gone: computed again."""
    cache = tmp_path / "cache"
    found = run(photos, tmp_path / "first", cache)
    shutil.rmtree(tmp_path / "first")  # the cache has links to its files
    pattern = {
        "shards": "*.[tn][ap][ry]",
        "index": "index.sqlite",
        "records": "*.sqlite",
        "links gone": "*.[tn][ap][ry]",
    }
    files = [path for path in cache.rglob(pattern[damage]) if path.is_file()]
    assert files
    for path in files:
        if damage == "links gone":
            path.unlink()
        else:
            data = bytearray(path.read_bytes())
            data[len(data) // 3 :: 7] = bytes(len(data[len(data) // 3 :: 7]))
            data[:16] = bytes(16)
            path.write_bytes(data)
    assert run(photos, tmp_path / "second", cache) == found


def test_a_cache_on_another_file_system_has_copies(photos, work, tmp_path, capsys):
    """Where no link can be made, as between the mounts of a container, the next run has nothing to compute either."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as elsewhere:
        cache = Path(elsewhere) / "cache"
        if os.stat(elsewhere).st_dev == os.stat(tmp_path).st_dev:
            pytest.skip("/dev/shm is on the file system of the tests")
        first = run(photos, tmp_path / "first", cache)
        shutil.rmtree(tmp_path / "first")
        work.clear()
        assert run(photos, tmp_path / "second", cache) == first
        assert work == {}
    assert "nothing is kept" not in capsys.readouterr().out


def test_a_full_disk_of_the_cache_is_said_and_leaves_nothing(photos, tmp_path, monkeypatch, capsys):
    """The result is the same, a line says that the next run computes all again, and no file is half there."""

    def copies_half(source, target):
        target.write_bytes(source.read_bytes()[:1000])
        raise OSError(errno.ENOSPC, "No space left on device")

    def refused(*_):
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    whole = run(photos, tmp_path / "nothing", None)
    monkeypatch.setattr("relume.kept.os.link", refused)
    monkeypatch.setattr("relume.kept.shutil.copyfile", copies_half)
    cache = tmp_path / "cache"
    assert run(photos, tmp_path / "first", cache) == whole
    assert capsys.readouterr().out.count("No space left on device") == 2  # one of each step
    assert [path.name for path in cache.rglob("*") if path.suffix in (".tar", ".npy", ".png")] == []
    assert run(photos, tmp_path / "second", cache) == whole
