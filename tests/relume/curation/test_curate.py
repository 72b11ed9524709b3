"""Curation of a whole folder of real photographs."""

import csv

import cv2
import numpy as np
import pytest
from pyarrow import parquet

from relume import parallel
from relume.curation.curate import curate
from relume.curation.quality import shrink
from relume.errors import ServiceError, SourceError
from relume.files import sha256_folder
from relume.images import decode, encode, read_image
from tests.relume.curation.photographs import ingest_arrays, skimage_photograph
from tests.relume.curation.test_split import settings

SETTINGS = settings(patch=96, stride=64, clusters=3, patches_per_cluster=20, min_test=2, held_out_side=256)


def run(ingested, folder):
    folder.mkdir()
    return curate(ingested, folder, SETTINGS, progress=lambda *counted: None)


@pytest.fixture(scope="module")
def ingested(tmp_path_factory):
    """Ten photographs under names that say nothing, among them a copy, a stereo pair and what must be rejected."""
    rng = np.random.default_rng(0)
    coffee = skimage_photograph("coffee.png")
    noisy = np.clip(skimage_photograph("ihc.png") + rng.normal(0, 40, (512, 512, 1)), 0, 255).astype(np.uint8)
    pictures = {
        "a.png": skimage_photograph("astronaut.png"),
        "b.png": skimage_photograph("chelsea.png"),
        "c.png": coffee,
        "d.png": cv2.resize(decode(encode(coffee, ".jpg")).pixels, None, fx=0.8, fy=0.8),
        "e.png": skimage_photograph("motorcycle_left.png"),
        "f.png": skimage_photograph("motorcycle_right.png"),
        "g.png": cv2.GaussianBlur(skimage_photograph("rocket.jpg"), (0, 0), 8),
        "h.png": noisy,
        "i.png": skimage_photograph("brick.png"),
        "j.png": coffee[:80, :80],
    }
    return ingest_arrays(pictures, tmp_path_factory.mktemp("curate"))


@pytest.fixture(scope="module")
def curated(ingested, tmp_path_factory):
    folder = tmp_path_factory.mktemp("out") / "curated"
    counts = run(ingested, folder)
    with open(folder / "images.csv", newline="") as file:
        images = {row["address"].rsplit("/", 1)[1][0]: row for row in csv.DictReader(file)}
    return folder, counts, images


@pytest.mark.exhaustive
def test_a_dask_cluster_gives_the_same_bytes(ingested, curated, tmp_path, monkeypatch):
    """Two workers in processes of their own measure the photographs; without an answer there is one message."""
    from distributed import LocalCluster

    monkeypatch.setattr(parallel, "SECONDS_TO_CONNECT", 120)
    with LocalCluster(n_workers=2, threads_per_worker=1, host="127.0.0.1", dashboard_address=None) as cluster:
        monkeypatch.setenv(parallel.CLUSTER, cluster.scheduler_address)
        assert run(ingested, tmp_path / "curated") == curated[1]
        assert "measure_one" in cluster.scheduler.task_prefixes
    assert sha256_folder(tmp_path / "curated") == sha256_folder(curated[0])
    monkeypatch.setattr(parallel, "SECONDS_TO_CONNECT", 1)
    with pytest.raises(ServiceError, match="The Dask cluster does not answer"):
        run(ingested, tmp_path / "nothing")


def test_rejects_with_named_reasons(curated):
    """The copy, the blurred, the noisy and the tiny photograph are rejected, each for its own reason."""
    _, counts, images = curated
    reasons = {letter: row["reason"] for letter, row in images.items() if row["split"] == "rejected"}
    same_scene = {letter for letter, reason in reasons.items() if reason == "same_scene"}
    assert same_scene <= {"e", "f"}
    assert {letter: reason for letter, reason in reasons.items() if letter not in same_scene} == {
        "d": "near_duplicate",
        "g": "blurred",
        "h": "noisy",
        "j": "smaller_than_patch",
    }
    assert counts["near_duplicate"] == counts["blurred"] == counts["noisy"] == 1


def test_the_stereo_pair_and_the_copies_are_one_group_each(curated):
    """Groups are found in the pixels: e and f share one, c and d another, nothing else is joined."""
    images = curated[2]
    groups = {letter: row["group"] for letter, row in images.items()}
    assert groups["e"] == groups["f"]
    assert groups["c"] == groups["d"]
    assert len(set(groups.values())) == 8


def test_no_group_lies_on_two_sides(curated):
    """The accepted photographs of a group are all on one side, and a held-out group counts once."""
    sides: dict[str, list[str]] = {}
    for row in curated[2].values():
        if row["split"] != "rejected":
            sides.setdefault(row["group"], []).append(row["split"])
    for group in sides.values():
        assert group == ["train"] * len(group) or group in (["test"], ["validation"])


def test_patches_come_from_training_photographs_only(curated, ingested):
    """Every patch is cut, pixel for pixel, from a photograph that trains, within the quota of its cluster."""
    folder, counts, images = curated
    rows = parquet.read_table(folder / "patches.parquet").to_pylist()
    training = {row["image_id"]: (letter, row["cluster"]) for letter, row in images.items() if row["split"] == "train"}
    assert {row["image_id"] for row in rows} <= training.keys()
    per_cluster: dict[str, int] = {}
    for row in rows:
        letter, cluster = training[row["image_id"]]
        per_cluster[cluster] = per_cluster.get(cluster, 0) + 1
        picture = read_image(ingested.parent / "photos" / f"{letter}.png").pixels
        patch = np.load(folder / row["shard"], mmap_mode="r")[row["row"]]
        np.testing.assert_array_equal(patch, picture[row["y"] : row["y"] + 96, row["x"] : row["x"] + 96])
    assert max(per_cluster.values()) <= 20
    assert len(rows) == counts["patches"]


def test_held_out_photographs_are_written_as_they_are(curated, ingested):
    """The held-out folders hold exactly the photographs of the table, cut to the centre and otherwise unchanged."""
    folder, _, images = curated
    for side in ("validation", "test"):
        expected = {f"{row['image_id']}.png": letter for letter, row in images.items() if row["split"] == side}
        assert {path.name for path in (folder / "held_out" / side).iterdir()} == expected.keys()
        for name, letter in expected.items():
            picture = read_image(ingested.parent / "photos" / f"{letter}.png").pixels
            top, left = (picture.shape[0] - 256) // 2, (picture.shape[1] - 256) // 2
            np.testing.assert_array_equal(
                read_image(folder / "held_out" / side / name).pixels, picture[top : top + 256, left : left + 256]
            )


def test_curation_is_deterministic(curated, ingested, tmp_path, monkeypatch):
    """A second run on one core gives the same bytes."""
    monkeypatch.setattr("relume.parallel.cores", lambda: 1)
    run(ingested, tmp_path / "again")
    assert sha256_folder(tmp_path / "again") == sha256_folder(curated[0])


def test_too_few_photographs_are_refused(tmp_path):
    """With two photographs nothing could be held out: the message says how many are left and what to do."""
    pictures = {f"{name}.png": skimage_photograph(f"{name}.png") for name in ("coffee", "chelsea")}
    with pytest.raises(SourceError, match="2 scenes are left after curation"):
        run(ingest_arrays(pictures, tmp_path), tmp_path / "curated")


def test_photographs_are_shrunk_by_averaging(ingested, tmp_path):
    """A shrunk photograph holds the means of its areas, and everything is cut from shrunk ones when a side is given."""
    pixels = np.random.default_rng(0).integers(0, 256, (40, 64, 3), dtype=np.uint8)
    means = pixels.reshape(20, 2, 32, 2, 3).mean(axis=(1, 3))
    assert np.abs(shrink(pixels, 32) - means).max() <= 0.5 + 1e-9
    assert shrink(pixels, 64) is pixels

    (tmp_path / "curated").mkdir()
    curate(
        ingested, tmp_path / "curated", settings(**SETTINGS.model_dump() | {"max_side": 250}), progress=lambda *_: None
    )
    patches = parquet.read_table(tmp_path / "curated" / "patches.parquet").to_pydict()
    assert max(patches["x"]) <= 250 - 96
    assert {max(read_image(path).pixels.shape[:2]) for path in (tmp_path / "curated" / "held_out").rglob("*.png")} == {
        250
    }
