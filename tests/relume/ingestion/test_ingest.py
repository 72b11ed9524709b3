"""Ingestion: every listed file becomes a photograph or is quarantined, and the same bytes give the same folder."""

import csv
import hashlib
import io
import os
import tarfile

import numpy as np
import pytest
import tifffile
from PIL import Image

from relume.errors import BrokenFileError, SourceError
from relume.files import sha256_folder
from relume.images import decode
from relume.ingestion.ingest import Photographs, ingest, read_manifest
from relume.ingestion.sources import scan

LIMITS = {"max_megapixels": 1.0, "min_side": 16, "shard_megabytes": 100.0}


def noise(height, width, seed, dtype=np.uint8):
    return np.random.default_rng(seed).integers(0, np.iinfo(dtype).max + 1, (height, width, 3), dtype=dtype)


@pytest.fixture
def photos(tmp_path):
    """A folder of good and broken images of many kinds."""
    folder = tmp_path / "photos"
    folder.mkdir()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(noise(40, 60, 1)).save(folder / "turned.jpg", exif=exif, quality=95)
    Image.fromarray(noise(40, 60, 2)).convert("CMYK").save(folder / "ink.tif")
    Image.fromarray(noise(40, 60, 3)).convert("L").save(folder / "gray.png")
    tifffile.imwrite(folder / "deep.tif", noise(40, 60, 4, np.uint16), photometric="rgb")
    (folder / "copy.jpg").write_bytes((folder / "turned.jpg").read_bytes())
    (folder / "cut.jpg").write_bytes((folder / "turned.jpg").read_bytes()[:2000])
    (folder / "empty.png").write_bytes(b"")
    (folder / "page.jpg").write_text("<html></html>")
    (folder / "raw.heic").write_bytes(b"\0\0\0\x18ftypheic")
    Image.new("RGB", (1500, 1500)).save(folder / "bomb.png")
    Image.new("RGB", (15, 100)).save(folder / "thin.png")
    os.mkfifo(folder / "pipe.png")
    return folder


def run(listing, folder, **limits):
    folder.mkdir()
    return ingest(listing, folder, **{**LIMITS, **limits}, progress=lambda *counted: None)


def rows(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_every_file_is_a_photograph_or_quarantined_with_its_reason(photos, tmp_path):
    """Four good images reach the manifest, eight others the quarantine, each with a named reason."""
    count, reasons = run(scan([photos]), tmp_path / "out")
    quarantine = {row["address"].rsplit("/", 1)[1]: row["reason"] for row in rows(tmp_path / "out" / "quarantine.csv")}
    assert quarantine == {
        "turned.jpg": "duplicate_file",
        "cut.jpg": "truncated",
        "empty.png": "empty_file",
        "page.jpg": "wrong_magic",
        "raw.heic": "unsupported_format",
        "bomb.png": "decompression_bomb",
        "thin.png": "too_small",
        "pipe.png": "not_a_file",
    }
    assert count == 4
    assert reasons == dict.fromkeys(quarantine.values(), 1)


def test_the_manifest_states_the_facts_of_the_files(photos, tmp_path):
    """Hashes, sizes as seen, stored channels and depth agree with the files themselves."""
    run(scan([photos]), tmp_path / "out")
    manifest = {photograph.address.rsplit("/", 1)[1]: photograph for photograph in read_manifest(tmp_path / "out")}
    for name, photograph in manifest.items():
        data = (photos / name).read_bytes()
        assert photograph.sha256 == hashlib.sha256(data).hexdigest()
        assert photograph.image_id == photograph.sha256[:16]
        assert photograph.bytes == len(data)
    facts = {name: (p.width, p.height, p.channels, p.bit_depth, p.mode) for name, p in manifest.items()}
    assert facts == {
        "copy.jpg": (40, 60, 3, 8, "RGB"),
        "deep.tif": (60, 40, 3, 16, "RGB;16"),
        "gray.png": (60, 40, 1, 8, "L"),
        "ink.tif": (60, 40, 4, 8, "CMYK"),
    }


@pytest.mark.parametrize("lost", [2, 5, 12, 20])
def test_a_manifest_that_is_cut_off_is_named(photos, tmp_path, lost):
    """Within the name of its last shard as well, which would be looked for as a missing file."""
    run(scan([photos]), tmp_path / "out")
    manifest = tmp_path / "out" / "manifest.csv"
    manifest.write_bytes(manifest.read_bytes()[:-lost])
    with pytest.raises(BrokenFileError, match=r"manifest\.csv"):
        read_manifest(tmp_path / "out")


def test_the_shards_hold_the_decoded_pixels_without_loss(photos, tmp_path):
    """Each member of a shard decodes, by Pillow or by our reader, to the pixels of the file it came from."""
    run(scan([photos]), tmp_path / "out")
    ingested = Photographs(tmp_path / "out")
    with tarfile.open(tmp_path / "out" / "images-00000.tar") as tar:
        members = {member.name: tar.extractfile(member).read() for member in tar}
    assert list(members) == [f"{photograph.image_id}.png" for photograph in ingested.manifest]
    for photograph in ingested.manifest:
        original = decode((photos / photograph.address.rsplit("/", 1)[1]).read_bytes()).pixels
        np.testing.assert_array_equal(ingested.pixels(photograph), original)
        if photograph.bit_depth == 8:
            member = Image.open(io.BytesIO(members[f"{photograph.image_id}.png"]))
            np.testing.assert_array_equal(np.asarray(member), original)


def test_the_same_bytes_give_the_same_folder(photos, tmp_path, monkeypatch):
    """Neither the number of cores nor a second run changes a byte, though files are decoded in parallel."""
    listing = scan([photos])
    run(listing, tmp_path / "first")
    monkeypatch.setattr("relume.parallel.cores", lambda: 1)
    run(listing, tmp_path / "second")
    assert sha256_folder(tmp_path / "first") == sha256_folder(tmp_path / "second")


def test_shards_are_closed_when_full(photos, tmp_path):
    """With a small limit every photograph gets a shard of its own, and the manifest says which."""
    run(scan([photos]), tmp_path / "out", shard_megabytes=0.001)
    ingested = Photographs(tmp_path / "out")
    assert [photograph.shard for photograph in ingested.manifest] == [f"images-{n:05d}.tar" for n in range(4)]
    assert all(ingested.pixels(photograph).shape[2] == 3 for photograph in ingested.manifest)


def test_nothing_but_broken_files_is_refused(tmp_path):
    """A source without a single readable image is a user's mistake, and the message names the reasons."""
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_bytes(b"")
    with pytest.raises(SourceError, match=r"a\.jpg: empty_file"):
        run(scan([tmp_path / "photos"]), tmp_path / "out")


def test_a_file_that_changed_after_the_scan_stops_the_step(photos, tmp_path):
    """Ingestion does not go on with other bytes than the ones on the list."""
    listing = scan([photos])
    Image.new("RGB", (50, 50)).save(photos / "gray.png")
    with pytest.raises(SourceError, match="relume data scan"):
        run(listing, tmp_path / "out")
