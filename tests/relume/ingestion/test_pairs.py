"""Pairs from the list to the ingested folder: one identity, both sides checked, every fault named."""

import csv
import re
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from relume.degradations import Degradation, degrade
from relume.errors import SourceError
from relume.images import decode, save_image
from relume.ingestion.ingest import UNNAMED, Photographs, ingest
from relume.ingestion.pair_check import added_structure, shift
from relume.ingestion.sources import Source, moved_files, scan, single_files
from tests.relume.curation.photographs import skimage_photograph

SHARED = Path(__file__).parents[4] / "shared" / "data" / "test"
LIMITS = {"max_megapixels": 100.0, "min_side": 16, "shard_megabytes": 100.0, "max_pair_shift": 2.0}
RAIN = {"kind": "rain", "density": [0.005, 0.005], "length": [15, 15], "angle": [10, 10], "width": [0.7, 0.7]}


def noisy(image, sigma=25.0, seed=0):
    noise = np.random.default_rng(seed).normal(0, sigma, image.shape)
    return np.clip(np.rint(image + noise), 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def crops():
    """Six crops, 96 pixels a side, of a photograph."""
    image = skimage_photograph("coffee.png")
    return [image[y : y + 96, x : x + 96] for y in (100, 200) for x in (0, 200, 400)]


def write_pairs(folder, pairs, sides=("noisy", "clean")):
    for name, images in pairs.items():
        for side, image in zip(sides, images, strict=True):
            if image is not None:
                save_image(folder / side / f"{name}.png", image)


def run(listing, folder):
    folder.mkdir()
    count, _ = ingest(listing, folder, **LIMITS, progress=lambda *counted: None)
    with open(folder / "quarantine.csv", newline="") as file:
        reasons = {row["address"].rsplit("/", 2)[-2:][-1]: row for row in csv.DictReader(file)}
    return count, reasons


def test_a_source_is_read_as_it_is_written():
    """Set, layout and place are told apart; what only looks like them belongs to the place."""
    for text, source in {
        "~/Pictures": Source("~/Pictures"),
        "own=~/Pictures": Source("~/Pictures", "", "own"),
        "gopro:/data/G": Source("/data/G", "gopro"),
        "a-1=sidd:s3://b/p": Source("s3://b/p", "sidd", "a-1"),
        "own=*_dark|*_light:/d": Source("/d", "*_dark|*_light", "own"),
        "in/*|out/*:s3://b/p": Source("s3://b/p", "in/*|out/*"),
        "package://": Source("package://"),
        "file:///a=b": Source("file:///a=b"),
        "./own=x": Source("./own=x"),
    }.items():
        assert Source.of(text) == source
        assert str(source) == text


def test_a_pair_is_one_entry_with_the_degraded_file_inside(tmp_path, crops):
    """The clean file's entry holds the degraded one's; a list without sets and pairs has no further key."""
    write_pairs(tmp_path / "p", {"a": (noisy(crops[0]), crops[0])})
    listing = scan([f"real=polyu:{tmp_path / 'p'}", tmp_path / "p" / "noisy"])
    assert listing["sources"] == [f"real=polyu:{(tmp_path / 'p').as_uri()}", (tmp_path / "p" / "noisy").as_uri()]
    pair, single = listing["files"]
    assert set(single) == {"address", "bytes", "hash"}
    assert pair["address"] == (tmp_path / "p" / "clean" / "a.png").as_uri()
    assert (pair["set"], pair["degraded"]) == ("real", single | {"kind": "noise"})
    assert scan(listing["sources"]) == listing
    assert len(single_files(listing)) == 3
    (tmp_path / "p" / "noisy" / "a.png").unlink()
    assert moved_files(listing) == [single["address"]] * 2


def test_both_sides_are_ingested_under_one_identity(tmp_path, crops):
    """The shard holds both images without loss; the manifest names the set and both files."""
    write_pairs(tmp_path / "p", {name: (noisy(crop), crop) for name, crop in zip("ab", crops, strict=False)})
    save_image(tmp_path / "own" / "x.png", crops[2])
    count, reasons = run(scan([f"real=polyu:{tmp_path / 'p'}", tmp_path / "own"]), tmp_path / "out")
    assert (count, reasons) == (3, {})
    ingested = Photographs(tmp_path / "out")
    single, *pairs = sorted(ingested.manifest, key=lambda photograph: photograph.address.rsplit("/", 1)[1] != "x.png")
    assert (single.set, single.degraded, single.image_id) == (UNNAMED, "", single.sha256[:16])
    for pair in pairs:
        name = pair.address.rsplit("/", 1)[1]
        assert (pair.set, pair.degraded) == ("real", (tmp_path / "p" / "noisy" / name).as_uri())
        assert pair.image_id != pair.sha256[:16]
        for side, pixels in (("clean", ingested.pixels(pair)), ("noisy", ingested.degraded_pixels(pair))):
            np.testing.assert_array_equal(pixels, decode((tmp_path / "p" / side / name).read_bytes()).pixels)


def test_what_is_no_pair_is_quarantined_with_its_reason(tmp_path, crops):
    """An unequal, a shifted, a swapped, an identical pair and a missing partner are named, each by its own reason."""
    wide = skimage_photograph("coffee.png")[100:196, 3:99]
    write_pairs(
        tmp_path / "p",
        {
            "good": (noisy(crops[3]), crops[3]),
            "unequal": (noisy(crops[2])[:, :90], crops[2]),
            "shifted": (noisy(crops[0]), wide),
            "swapped": (crops[1], noisy(crops[1])),
            "identical": (crops[4], crops[4]),
            "alone": (noisy(crops[5]), None),
        },
    )
    _, reasons = run(scan([f"polyu:{tmp_path / 'p'}"]), tmp_path / "out")
    assert {name.removesuffix(".png"): row["reason"] for name, row in reasons.items()} == {
        "unequal": "unequal_pair",
        "shifted": "shifted_pair",
        "swapped": "swapped_pair",
        "identical": "identical_pair",
        "alone": "missing_partner",
    }
    assert re.search(r"is -(2\.9|3\.0|3\.1) pixels to the right", reasons["shifted.png"]["detail"])


def test_a_table_pairs_files_of_any_names(tmp_path, crops):
    """A CSV table in the folder of the images; a file that it names and that is not there is quarantined."""
    save_image(tmp_path / "x y.png", crops[0])
    save_image(tmp_path / "sub" / "z.png", noisy(crops[0]))
    (tmp_path / "pairs.csv").write_text("sub/z.png,x y.png\ngone.png,x y.png\n")
    listing = scan([f"csv:{tmp_path / 'pairs.csv'}"])
    assert listing["sources"] == [f"csv:{(tmp_path / 'pairs.csv').as_uri()}"]
    assert scan(listing["sources"]) == listing
    count, reasons = run(listing, tmp_path / "out")
    assert (count, [row["reason"] for row in reasons.values()]) == (1, ["missing_partner"])


def test_patterns_pair_files_of_any_names(tmp_path, crops):
    """Two patterns are a layout; letters that an address quotes are compared as they are in the name."""
    for name in ("one", "two"):
        save_image(tmp_path / "my shots" / f"{name} dark.png", noisy(crops[0 if name == "one" else 2]))
        save_image(tmp_path / "my shots" / f"{name} light.png", crops[0 if name == "one" else 2])
    save_image(tmp_path / "my shots" / "three dark.png", crops[3])
    source = f"own=my shots/* dark|my shots/* light:{tmp_path}"
    listing = scan([source])
    assert listing["sources"] == [f"own=my shots/* dark|my shots/* light:{tmp_path.as_uri()}"]
    assert scan(listing["sources"]) == listing
    count, reasons = run(listing, tmp_path / "out")
    assert (count, [row["reason"] for row in reasons.values()]) == (2, ["missing_partner"])


def test_a_folder_without_a_pair_is_refused(tmp_path, crops):
    """The message names the layout and how many images were there."""
    save_image(tmp_path / "a.png", crops[0])
    with pytest.raises(SourceError, match="of its 1 images none is"):
        scan([f"gopro:{tmp_path}"])


@pytest.mark.parametrize(("across", "down"), [(0, 0), (3, -5), (-7, 2)])
def test_the_shift_is_that_of_the_content(crops, across, down):
    """Noise and a change of brightness move nothing; a copy that is cut elsewhere is found to a fifth of a pixel."""
    luma = skimage_photograph("coffee.png")[..., 1].astype(np.float32)
    first = luma[100:228, 100:228]
    second = 0.7 * luma[100 - down : 228 - down, 100 - across : 228 - across] + 20
    second = second + np.random.default_rng(0).normal(0, 15, second.shape).astype(np.float32)
    assert shift(first, second) == pytest.approx((across, down), abs=0.2)


@pytest.mark.parametrize(
    ("name", "layout", "sides", "count"),
    [
        ("polyu_dev", "polyu", ("noisy", "clean"), 30),
        ("gopro_dev", "gopro", ("blur", "sharp"), 2),
        ("rain100h_dev", "rain100", ("rain", "clean"), 3),
    ],
)
def test_real_pairs_are_taken_and_swapped_ones_are_not(tmp_path, name, layout, sides, count):
    """All real pairs pass; with the folders exchanged not one does."""
    if not (SHARED / name).is_dir():
        pytest.skip("the shared data is not here")
    assert run(scan([f"{layout}:{SHARED / name}"]), tmp_path / "out") == (count, {})
    degraded, clean = sides
    shutil.copytree(SHARED / name / degraded, tmp_path / "swapped" / clean)
    shutil.copytree(SHARED / name / clean, tmp_path / "swapped" / degraded)
    listing = scan([f"{layout}:{tmp_path / 'swapped'}"])
    shutil.copytree(SHARED / name / clean, tmp_path / "one")  # without a photograph ingest refuses the whole list
    one = scan([tmp_path / "one"])
    both = {"sources": listing["sources"] + one["sources"], "files": listing["files"] + one["files"]}
    singles, reasons = run(both, tmp_path / "again")
    assert singles == len(one["files"])
    assert [row["reason"] for row in reasons.values()] == ["swapped_pair"] * count


def test_what_is_added_has_its_closed_form():
    """Independent noise adds itself, 1; a haze or a blur that leaves the share t gives -(1 + t) / (1 - t)."""
    rng = np.random.default_rng(0)
    clean = skimage_photograph("coffee.png")[..., 1].astype(np.float32)
    noise = rng.normal(0, 12, clean.shape).astype(np.float32)
    assert added_structure(clean + noise, clean) == pytest.approx(1, abs=0.05)
    assert added_structure(clean, clean + noise) == pytest.approx(-1, abs=0.05)
    for share in (0.3, 0.8):
        haze = share * clean + (1 - share) * 220
        assert added_structure(haze, clean) == pytest.approx(-(1 + share) / (1 - share), rel=1e-3)
    assert added_structure(clean, clean) == 0
    blurred = cv2.GaussianBlur(clean, (0, 0), 1.5)
    assert added_structure(blurred, clean) < -1


@pytest.mark.parametrize(
    ("layout", "sides", "step"),
    [
        ("polyu", ("noisy", "clean"), {"kind": "gaussian_noise", "sigma": [5, 5], "clipped": 1.0}),
        ("gopro", ("blur", "sharp"), {"kind": "motion_blur", "size": 21, "length": [8, 8]}),
        ("rain100", ("rain", "clean"), RAIN),
        ("sots", ("hazy", "clear"), {"kind": "haze", "beta": [1.0, 1.0], "airlight": [0.9, 0.9]}),
    ],
)
def test_a_swapped_pair_of_each_known_kind_is_named(tmp_path, crops, layout, sides, step):
    """Noise, blur, rain and haze: as they are both pass, exchanged none does."""
    degradation = Degradation.model_validate({"steps": [step]})
    rng = np.random.default_rng(3)
    pairs = {}
    for name, crop in zip("abc", crops, strict=False):
        clean = crop.transpose(2, 0, 1).astype(np.float32) / 255
        degraded = degrade(clean, degradation, rng).image
        pairs[name] = (np.rint(np.clip(degraded, 0, 1) * 255).astype(np.uint8).transpose(1, 2, 0), crop)
    for sub, named in (("right", sides), ("wrong", sides[::-1])):
        write_pairs(tmp_path / sub, pairs, named)
        if layout == "sots":
            for file in (tmp_path / sub / "hazy").iterdir():
                file.rename(file.with_name(f"{file.stem}_1_0.9.png"))
    assert run(scan([f"{layout}:{tmp_path / 'right'}"]), tmp_path / "out") == (3, {})
    save_image(tmp_path / "own" / "x.png", crops[5])
    count, reasons = run(scan([f"{layout}:{tmp_path / 'wrong'}", tmp_path / "own"]), tmp_path / "again")
    assert (count, [row["reason"] for row in reasons.values()]) == (1, ["swapped_pair"] * 3)
