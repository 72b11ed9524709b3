"""A folder of photographs beside hostile files: each is in the manifest or in the quarantine, and harms no other."""

import csv
import io
import os
import shutil
import struct
import tempfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image, ImageCms

from relume.errors import SourceError
from relume.images import encode
from relume.ingestion.ingest import Photographs, ingest
from relume.ingestion.sources import scan
from tests.relume.curation.photographs import skimage_photograph

LIMITS = {"max_megapixels": 200.0, "min_side": 16, "shard_megabytes": 100.0}
SHARED = Path(__file__).parents[4] / "shared" / "data" / "hostile"
NOBODY = 65534
BAD = {
    "one.png": "too_small",
    "bomb.png": "decompression_bomb",
    "page.jpg": "wrong_magic",
    "empty.jpg": "empty_file",
    "loop.png": "not_a_file",
    "nowhere.png": "not_a_file",
    "pipe.png": "not_a_file",
    "again.png": "duplicate_file",
}
GOOD = ("wrong.png", "ink.jpg", "deep.png", "deep.tif", "palette.png", "moving.gif", "turned.jpg", "profile.jpg")


def chunk(name, data):
    """A chunk of PNG."""
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def saved(image, kind, **options):
    """The bytes of Pillow's image as a file."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.fixture
def good(tmp_path):
    """A folder of three real photographs."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("chelsea.png", "coffee.png", "rocket.jpg"):
        (folder / name).write_bytes(encode(skimage_photograph(name), ".png"))
    return folder


@pytest.fixture
def hostile(good):
    """The same folder with hostile files, and with unusual ones that are good."""
    small = Image.fromarray(skimage_photograph("coffee.png")[:64, :80])
    exif = Image.Exif()
    exif[0x0112] = 8
    header = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    files = {
        "one.png": saved(small.crop((0, 0, 1, 1)), "PNG"),
        "bomb.png": bomb,
        "page.jpg": b"<html></html>" * 100,
        "empty.jpg": b"",
        "again.png": (good / "coffee.png").read_bytes(),
        "wrong.png": saved(small, "JPEG"),
        "ink.jpg": saved(small.convert("CMYK"), "JPEG"),
        "palette.png": saved(small.convert("P"), "PNG"),
        "moving.gif": saved(small, "GIF", save_all=True, append_images=[small.rotate(90), small.rotate(180)]),
        "turned.jpg": saved(small, "JPEG", exif=exif, quality=90),
        "profile.jpg": saved(small, "JPEG", icc_profile=profile, quality=80),
        "deep.png": encode(np.asarray(small).astype(np.uint16) * 257, ".png"),
    }
    for name, data in files.items():
        (good / name).write_bytes(data)
    tifffile.imwrite(good / "deep.tif", np.asarray(small).astype(np.uint16) * 256, photometric="rgb")
    (good / "loop.png").symlink_to(good / "loop.png")
    (good / "nowhere.png").symlink_to(good / "gone.png")
    (good / "folder").symlink_to(good)
    os.mkfifo(good / "pipe.png")
    return good


def ingested(folder, out):
    """The photographs by name, and the reasons of the quarantine by name."""
    out.mkdir()
    ingest(scan([folder]), out, **LIMITS, progress=lambda *counted: None)
    with open(out / "quarantine.csv", newline="") as file:
        quarantine = {row["address"].rpartition("/")[2]: row["reason"] for row in csv.DictReader(file)}
    photographs = Photographs(out)
    return {item.address.rpartition("/")[2]: photographs.pixels(item) for item in photographs.manifest}, quarantine


def test_each_is_in_the_manifest_or_in_the_quarantine_with_its_reason(hostile, tmp_path):
    """None is lost or crashes the step; what is unusual and good is a photograph."""
    manifest, quarantine = ingested(hostile, tmp_path / "out")
    # Which of two files of the same bytes is the copy follows from their addresses.
    renamed = {"coffee.png" if name == "again.png" else name: reason for name, reason in BAD.items()}
    assert quarantine == renamed
    assert manifest.keys() == {"chelsea.png", "rocket.jpg", "again.png", *GOOD}
    assert manifest["turned.jpg"].shape == (80, 64, 3)
    assert manifest["deep.png"].dtype == np.uint16


def test_the_good_photographs_are_those_of_a_folder_without_the_bad(good, tmp_path):
    """Names, hashes and decoded bytes of each photograph do not depend on what lies beside it."""
    alone, _ = ingested(good, tmp_path / "alone")
    (good / "cut.jpg").write_bytes((good / "rocket.jpg").read_bytes()[:5000])
    (good / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(1000))
    (good / "loop.png").symlink_to("loop.png")
    beside, quarantine = ingested(good, tmp_path / "beside")
    assert len(quarantine) == 3
    assert beside.keys() == alone.keys()
    for name, pixels in alone.items():
        np.testing.assert_array_equal(beside[name], pixels)
    one, other = (Photographs(tmp_path / name).manifest for name in ("alone", "beside"))
    assert one == other


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF"])
def test_a_file_that_is_cut_at_any_kilobyte_is_quarantined(good, tmp_path, kind):
    """Of one photograph in each format every part ends in the quarantine, and the whole in the manifest."""
    whole = saved(Image.fromarray(skimage_photograph("coffee.png")[:100, :120]), kind)
    cuts = range(0, len(whole) - 1, 1024)
    for length in cuts:
        (good / f"cut-{length}.png").write_bytes(whole[:length])
    (good / "whole.png").write_bytes(whole)
    manifest, quarantine = ingested(good, tmp_path / "out")
    assert quarantine.keys() == {f"cut-{length}.png" for length in cuts}
    assert "whole.png" in manifest


def test_names_of_any_bytes_lead_to_their_files(good, tmp_path):
    """A newline, bytes that are no UTF-8, and equal names in two folders."""
    for seed, name in enumerate((b"line\nbreak.png", b"caf\xe9.png", b"a/same.png", b"b/same.png")):
        path = Path(os.fsdecode(os.fsencode(good) + b"/" + name))
        path.parent.mkdir(exist_ok=True)
        pixels = np.random.default_rng(seed).integers(0, 255, (32, 32, 3), np.uint8)
        path.write_bytes(encode(pixels, ".png"))
    out = tmp_path / "out"
    _, quarantine = ingested(good, out)
    assert quarantine == {}
    assert len(Photographs(out).manifest) == 7


@pytest.fixture
def ordinary_user():
    """A folder of a user to whom permissions apply, who the test is while it runs; root may read all."""
    user = os.geteuid()
    with tempfile.TemporaryDirectory() as name:
        if user == 0:
            os.chown(name, NOBODY, -1)
            os.seteuid(NOBODY)
        try:
            yield Path(name)
        finally:
            os.seteuid(user)


def test_a_file_that_may_not_be_read_is_quarantined(ordinary_user):
    """It is named with its reason, the photograph beside it is taken, and with the permission it is one, too."""
    folder = ordinary_user / "photos"
    folder.mkdir()
    for name in ("coffee.png", "rocket.jpg"):
        (folder / name).write_bytes(encode(skimage_photograph(name), ".png"))
    (folder / "rocket.jpg").chmod(0)
    manifest, quarantine = ingested(folder, ordinary_user / "refused")
    assert (list(manifest), quarantine) == (["coffee.png"], {"rocket.jpg": "unreadable"})
    (folder / "rocket.jpg").chmod(0o400)
    manifest, quarantine = ingested(folder, ordinary_user / "allowed")
    assert (sorted(manifest), quarantine) == (["coffee.png", "rocket.jpg"], {})


def test_a_folder_that_may_not_be_read_stops_the_scan(ordinary_user):
    """What is in it cannot be known, and a list without it would look complete."""
    (ordinary_user / "photos" / "closed").mkdir(parents=True)
    (ordinary_user / "photos" / "closed").chmod(0)
    with pytest.raises(SourceError, match="closed"):
        scan([ordinary_user / "photos"])


@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared data is not beside the checkout")
def test_the_shared_hostile_files_are_quarantined_or_read(good, tmp_path):
    """Each of them ends in one of the two tables."""
    for path in SHARED.iterdir():
        if path.suffix != ".md":
            shutil.copyfile(path, good / path.name)
    manifest, quarantine = ingested(good, tmp_path / "out")
    names = {path.name for path in good.iterdir()}
    assert manifest.keys() | quarantine.keys() == names
