"""Curation of a whole folder of real photographs."""

import csv
from pathlib import Path

import cv2
import numpy as np
import pytest
import sklearn
from pyarrow import parquet

from relume import parallel
from relume.curation.curate import curate
from relume.curation.quality import shrink
from relume.curation.settings import KeepBest
from relume.errors import ServiceError, SourceError
from relume.files import sha256_folder
from relume.images import decode, encode, read_image, save_image
from relume.ingestion.ingest import Photographs, ingest
from relume.ingestion.sources import scan
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


def test_keeps_the_best_by_each_score_of_the_rule(ingested, curated, tmp_path):
    """Of 7 photographs the best 5 by sharpness and by BRISQUE are kept; the table says why the others are not."""
    rule = {"fraction": 0.65, "by": ("sharpness", "brisque")}
    (tmp_path / "curated").mkdir()
    few = SETTINGS.model_copy(update={"keep": KeepBest(**rule), "min_test": 1})
    curate(ingested, tmp_path / "curated", few, progress=lambda *counted: None)
    table = parquet.read_table(tmp_path / "curated" / "scores.parquet").to_pandas().set_index("image_id")
    left = table[table["brisque"].notna()]
    assert set(table.index.difference(left.index)) == {row["image_id"] for row in curated[2].values() if early(row)}
    best = {
        "sharpness": set(left["sharpness"].nlargest(5).index),
        "brisque": set(left["brisque"].nsmallest(5).index),
    }
    for name, row in left.iterrows():
        failed = [f"not_best_{score}" for score, names in best.items() if name not in names]
        assert row["reason"] == failed[0] if failed else not row["reason"].startswith("not_best")
        assert row["rank_brisque"] == (left["brisque"] < row["brisque"]).sum() + 1
    assert {"not_best_sharpness", "not_best_brisque"} <= set(left["reason"])
    with open(tmp_path / "curated" / "images.csv", newline="") as file:
        assert {row["image_id"]: row["reason"] for row in csv.DictReader(file)} == dict(table["reason"])
    assert not (curated[0] / "scores.parquet").exists()


def test_hashes_find_copies_but_no_other_views(ingested, curated, tmp_path):
    """With hashes the copy is dropped for the larger original as by keypoints, and the stereo pair is two scenes."""
    (tmp_path / "curated").mkdir()
    by_hashes = SETTINGS.model_copy(update={"scenes": "hashes"})
    curate(ingested, tmp_path / "curated", by_hashes, progress=lambda *counted: None)
    with open(tmp_path / "curated" / "images.csv", newline="") as file:
        images = {row["address"].rsplit("/", 1)[1][0]: row for row in csv.DictReader(file)}
    assert {letter: row["reason"] for letter, row in images.items()} == {
        letter: "" if letter in "ef" else row["reason"] for letter, row in curated[2].items()
    }
    assert images["d"]["reason"] == "near_duplicate"
    assert images["c"]["group"] == images["d"]["group"]
    assert images["e"]["group"] != images["f"]["group"]


def early(row):
    """Whether a photograph was rejected before the rule."""
    return row["reason"] in ("smaller_than_patch", "blurred", "noisy", "flat")


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
    """With two photographs nothing could be held out: the message says how many are left, and why others are not."""
    pictures = {f"{name}.png": skimage_photograph(f"{name}.png") for name in ("coffee", "chelsea")}
    pictures["flat.png"] = np.full((200, 200, 3), 90, np.uint8)
    with pytest.raises(SourceError, match=r"2 scenes are left after curation.*; rejected were 1 blurred"):
        run(ingest_arrays(pictures, tmp_path), tmp_path / "curated")


def test_a_set_that_is_too_small_is_named_with_what_was_rejected_of_it(tmp_path):
    """Of two sets the message counts the rejected photographs of the one that it names, and not those of the other."""
    enough = ("astronaut.png", "coffee.png", "chelsea.png", "rocket.jpg")
    for name in enough:
        save_image(tmp_path / "enough" / name, skimage_photograph(name))
    for number in range(3):
        save_image(tmp_path / "enough" / f"flat{number}.png", np.full((200, 200, 3), 60 * number, np.uint8))
    save_image(tmp_path / "small" / "cat.png", skimage_photograph("ihc.png"))
    save_image(tmp_path / "small" / "flat.png", np.full((200, 200, 3), 90, np.uint8))
    for name in ("ingested", "curated"):
        (tmp_path / name).mkdir()
    listing = scan([f"enough={tmp_path / 'enough'}", f"small={tmp_path / 'small'}"])
    limits = {"max_megapixels": 100.0, "min_side": 16, "shard_megabytes": 100.0}
    ingest(listing, tmp_path / "ingested", **limits, progress=lambda *counted: None)
    with pytest.raises(SourceError, match=r"set small\n.* 1 scenes are left .*; rejected were 1 blurred\n"):
        curate(tmp_path / "ingested", tmp_path / "curated", settings(min_test=1), progress=lambda *counted: None)


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


SHARE, AIRLIGHT = 0.7, 200  # of a haze: what it leaves of the scene, and its own gray value


@pytest.fixture(scope="module")
def with_pairs(tmp_path_factory):
    """Photographs and a set of pairs, ingested and curated: crops of one photograph twice among the pairs, one of
    them also among the photographs."""
    folder = tmp_path_factory.mktemp("pairs")
    own = {name: skimage_photograph(f"{name}.png")[:256, :256] for name in ("astronaut", "chelsea", "ihc", "brick")}
    real = {
        "left": skimage_photograph("motorcycle_left.png")[200:392, 100:292],
        "right": skimage_photograph("motorcycle_right.png")[200:392, 100:292],
        "rocket": skimage_photograph("rocket.jpg")[200:392, 200:392],
        "coffee": skimage_photograph("coffee.png")[100:292, 100:292],
        "flower": read_image(Path(sklearn.__file__).parent / "datasets" / "images" / "flower.jpg").pixels[
            :192, 200:392
        ],
    }
    for name, image in own.items():
        save_image(folder / "own" / f"{name}.png", image)
    save_image(folder / "own" / "twin.png", real["coffee"])
    for name, image in real.items():
        for number in (1, 2):
            hazy = np.rint(SHARE * image + (1 - SHARE) * AIRLIGHT + number).astype(np.uint8)
            save_image(folder / "real" / "hazy" / f"{name}_{number}.png", hazy)
        save_image(folder / "real" / "gt" / f"{name}.png", image)
    for name in ("ingested", "curated"):
        (folder / name).mkdir()
    limits = {"max_megapixels": 100.0, "min_side": 16, "shard_megabytes": 100.0}
    listing = scan([folder / "own", f"real=sots:{folder / 'real'}"])
    ingest(listing, folder / "ingested", **limits, progress=lambda *counted: None)
    chosen = settings(
        seed=1,  # two scenes of pairs train
        patch=64,
        stride=64,
        flush=False,
        clusters=2,
        patches_per_cluster=None,
        min_test=1,
        min_sharpness=0,
        max_side=128,
    )
    curate(folder / "ingested", folder / "curated", chosen, progress=lambda *counted: None)
    with open(folder / "curated" / "images.csv", newline="") as file:
        return folder / "curated", Photographs(folder / "ingested"), list(csv.DictReader(file))


def test_each_set_is_split_and_clustered_for_itself(with_pairs):
    """Both sets train, validate and test; no cluster has photographs of both; a scene is on one side only."""
    _, _, images = with_pairs
    used = [row for row in images if row["split"] != "rejected"]
    for name in ("photographs", "real"):
        assert {row["split"] for row in used if row["set"] == name} == {"train", "validation", "test"}
    clusters_of = {name: {row["cluster"] for row in used if row["set"] == name} for name in ("photographs", "real")}
    assert not clusters_of["photographs"] & clusters_of["real"]
    sides = {}
    for row in used:
        sides.setdefault(row["group"], set()).add(row["split"])
    assert all(len(side) == 1 for side in sides.values())


def test_duplicates_are_found_across_sets_but_not_between_pairs(with_pairs):
    """The photograph that is the clean image of a pair is out; two pairs of one clean image both train."""
    _, _, images = with_pairs
    (twin,) = [row for row in images if row["address"].endswith("twin.png")]
    assert twin["reason"] == "near_duplicate"
    assert {row["reason"] for row in images if row["set"] == "real"} <= {"", "same_scene"}
    trained = [row["address"] for row in images if row["set"] == "real" and row["split"] == "train"]
    assert len(trained) == 2 * len(set(trained))


def test_pairs_are_cut_alike_and_never_shrunk(with_pairs):
    """A row of a shard of pairs is both images at the place that the table names; photographs are in other shards."""
    folder, ingested, _ = with_pairs
    manifest = {photograph.image_id: photograph for photograph in ingested.manifest}
    rows = parquet.read_table(folder / "patches.parquet").to_pylist()
    shards = {name: np.load(folder / name) for name in {row["shard"] for row in rows}}
    assert [row["shard"][:5] for row in rows] == sorted((row["shard"][:5] for row in rows), reverse=True)
    for row in rows:
        photograph, found = manifest[row["image_id"]], shards[row["shard"]][row["row"]]
        assert row["set"] == photograph.set
        assert row["y"] % 64 == row["x"] % 64 == 0
        if row["set"] == "real":
            place = np.s_[row["y"] : row["y"] + 64, row["x"] : row["x"] + 64]
            for cut, image in zip(found, (ingested.degraded_pixels, ingested.pixels), strict=True):
                np.testing.assert_array_equal(cut, image(photograph)[place])
        else:
            assert found.shape == (64, 64, 3)
            assert max(row["y"], row["x"]) + 64 <= 128
    assert len({row["image_id"] for row in rows if row["set"] == "real"}) >= 4


def test_held_out_pairs_have_their_degraded_image_beside_them(with_pairs):
    """Every held-out pair, and no photograph, has an image of its size in the subfolder `degraded`."""
    folder, _, images = with_pairs
    for side in ("validation", "test"):
        pairs = {row["image_id"] for row in images if (row["set"], row["split"]) == ("real", side)}
        assert {path.stem for path in (folder / "held_out" / side / "degraded").iterdir()} == pairs
        for name in pairs:
            clean, degraded = (
                read_image(folder / "held_out" / side / part / f"{name}.png").pixels for part in (".", "degraded")
            )
            assert clean.shape == degraded.shape
            assert np.ptp(degraded - SHARE * clean) < 1.001  # what is left is the airlight, rounded
