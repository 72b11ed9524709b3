"""Archives as sources: the same photographs as in a folder, and nothing of a hostile one reaches the disk."""

import gzip
import hashlib
import io
import os
import stat
import struct
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest

from relume.errors import SourceError
from relume.images import encode
from relume.ingestion import archives
from relume.ingestion.ingest import ingest, read_manifest
from relume.ingestion.lists import source_folders
from relume.ingestion.sources import moved_files, open_source, scan, write_sources
from relume.reading import read_table

SETTINGS = {"max_megapixels": 100, "min_side": 8, "shard_megabytes": 10}


def photograph(seed):
    """The bytes of a PNG."""
    return encode(np.random.default_rng(seed).integers(0, 255, (40, 48, 3), np.uint8), ".png")


PHOTOGRAPHS = {f"set/deep/été {number}#%.png": photograph(number) for number in range(3)}
WRITERS = {".zip": "zip", ".tar": "w", ".tar.gz": "w:gz", ".tgz": "w:gz", ".tar.bz2": "w:bz2", ".tar.xz": "w:xz"}


def pack(path, files):
    """Writes files into the kind of archive that the suffix names."""
    mode = next(mode for suffix, mode in WRITERS.items() if path.name.endswith(suffix))
    if mode == "zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, data in files.items():
                archive.writestr(name, data)
        return path
    with tarfile.open(path, mode) as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


def ingested(listing, folder):
    """The manifest and the quarantine of a list."""
    folder.mkdir()
    ingest(listing, folder, **SETTINGS, progress=lambda *_: None)
    columns = {"address": str, "reason": str, "detail": str}
    return read_manifest(folder), read_table(folder / "quarantine.csv", columns, next_step="")


def problems(path):
    """What a scan says of each image of an archive that has a problem."""
    return {
        entry["address"].partition("#")[2]: entry["reason"] for entry in scan([path])["files"] if "problem" in entry
    }


@pytest.mark.parametrize("suffix", WRITERS)
def test_an_archive_gives_the_photographs_of_the_folder_that_was_packed(tmp_path, suffix):
    """The ids, the shards and the order of the ingested folder are those of the unpacked files."""
    folder = tmp_path / "folder"
    for name, data in PHOTOGRAPHS.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    path = pack(tmp_path / f"photos{suffix}", {"set/readme.txt": b"x", "__MACOSX/._a.png": b"x", **PHOTOGRAPHS})
    listing = scan([path])
    assert scan(listing["sources"]) == listing  # what is recorded is scanned again alike
    assert [open_source(entry["address"], expect=entry["hash"]) for entry in listing["files"]] == [
        *PHOTOGRAPHS.values()
    ]
    packed, nothing = ingested(listing, tmp_path / "packed")
    plain, _ = ingested(scan([folder]), tmp_path / "plain")
    assert not nothing
    assert [row.image_id for row in packed] == [row.image_id for row in plain]
    assert (tmp_path / "packed/images-00000.tar").read_bytes() == (tmp_path / "plain/images-00000.tar").read_bytes()


def test_part_of_an_archive_is_a_source_and_pairs_are_found_in_it(tmp_path):
    """What stands after # chooses names; layouts pair names inside archives as they do in folders."""
    clean, noisy = photograph(1), photograph(2)
    path = pack(tmp_path / "pairs.tar.gz", {"a/noisy/1.png": noisy, "a/clean/1.png": clean, "b/other.png": clean})
    assert len(scan([f"{path}#b/"])["files"]) == 1
    for source in (f"polyu:{path}", f"set=polyu:{path}#a", f"polyu:archive://{path}"):
        (pair,) = scan([source])["files"]
        assert open_source(pair["address"]) == clean
        assert open_source(pair["degraded"]["address"], expect=pair["degraded"]["hash"]) == noisy


def test_a_list_knows_the_archives_of_this_machine(tmp_path):
    """Containers are given the archive to read, and one that is gone is noticed without reading it."""
    path = pack(tmp_path / "photos é.zip", PHOTOGRAPHS)
    write_sources([f"own={path}#set"], tmp_path / "sources.json")
    assert source_folders(tmp_path / "sources.json") == [path]
    listing = scan([path])
    assert moved_files(listing) == []
    path.unlink()
    assert len(moved_files(listing)) == len(PHOTOGRAPHS)


def test_names_that_lead_out_of_the_archive_are_quarantined(tmp_path):
    """Zip-slip, absolute and Windows names get their reason, nothing is written outside, and the rest is used."""
    names = ["../slip.png", "a/../../slip.png", "/etc/slip.png", "C:/slip.png", "a\\..\\slip.png", "\\\\host\\slip.png"]
    for suffix in (".zip", ".tar"):
        before = sorted(tmp_path.parent.rglob("*slip*"))
        path = pack(tmp_path / f"slip{suffix}", {name: photograph(1) for name in names} | {"good.png": photograph(2)})
        assert set(problems(path).values()) == {"unsafe_name"}
        assert len(problems(path)) == len(names)
        manifest, quarantine = ingested(scan([path]), tmp_path / f"out{suffix}")
        assert [row.image_id for row in manifest] == [hashlib.sha256(photograph(2)).hexdigest()[:16]]
        assert {row["reason"] for row in quarantine} == {"unsafe_name"}
        assert [found for found in tmp_path.parent.rglob("*slip*") if found not in before] == [path]


def test_links_and_devices_in_archives_are_quarantined(tmp_path):
    """A loop of symbolic links, a hard link, a FIFO and a device are never followed or opened."""
    path = tmp_path / "links.tar"
    kinds = {"loop.png": (tarfile.SYMTYPE, "loop2.png"), "loop2.png": (tarfile.SYMTYPE, "loop.png")}
    kinds |= {"out.png": (tarfile.SYMTYPE, "/etc/passwd"), "hard.png": (tarfile.LNKTYPE, "good.png")}
    kinds |= {"fifo.png": (tarfile.FIFOTYPE, ""), "device.png": (tarfile.CHRTYPE, "")}
    with tarfile.open(path, "w") as archive:
        for name, (kind, target) in kinds.items():
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, target
            archive.addfile(member)
        good = tarfile.TarInfo("good.png")
        good.size = len(photograph(1))
        archive.addfile(good, io.BytesIO(photograph(1)))
    assert problems(path) == dict.fromkeys(kinds, "not_a_file")
    link = zipfile.ZipInfo("link.png")
    link.create_system, link.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "link.zip", "w") as archive:
        archive.writestr(link, "/etc/passwd")
        archive.writestr("good.png", photograph(1))
    assert problems(tmp_path / "link.zip") == {"link.png": "not_a_file"}


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("suffix", [".zip", ".tar"])
def test_a_name_that_occurs_twice_is_quarantined(tmp_path, suffix):
    """Which of two files of one name is meant cannot be known, so neither is taken."""
    path = tmp_path / f"twice{suffix}"
    if suffix == ".zip":
        with zipfile.ZipFile(path, "w") as archive:
            for seed in (1, 2):
                archive.writestr("a.png", photograph(seed))
    else:
        with tarfile.open(path, "w") as archive:
            for seed in (1, 2):
                member = tarfile.TarInfo("a.png")
                member.size = len(photograph(seed))
                archive.addfile(member, io.BytesIO(photograph(seed)))
    assert problems(path) == {"a.png": "duplicate_name"}


def test_names_of_any_bytes_are_read(tmp_path):
    """Names with newlines and with bytes that are no UTF-8 lead back to their files."""
    names = ["line\nbreak.png", os.fsdecode(b"caf\xe9.png"), "  .png", "a//b/./c.png"]
    path = pack(tmp_path / "names.tar", {name: photograph(seed) for seed, name in enumerate(names)})
    listing = scan([path])
    assert {open_source(entry["address"], expect=entry["hash"]) for entry in listing["files"]} == {
        photograph(seed) for seed in range(len(names))
    }
    assert all("\n" not in entry["address"] for entry in listing["files"])


def test_a_zip_whose_names_are_not_what_it_says_is_refused(tmp_path):
    """A name marked as UTF-8 that is none makes one message, not a traceback."""
    path = pack(tmp_path / "names.zip", {"é.png": photograph(1)})
    path.write_bytes(path.read_bytes().replace("é".encode(), b"\xff\xff"))
    with pytest.raises(SourceError, match="The archive cannot be read") as caught:
        scan([path])
    assert "unpack" in caught.value.next_step


def test_bombs_are_bounded(tmp_path, monkeypatch):
    """A member that states too much, one that holds more than it states and a tar that never ends stay in bounds."""
    path = tmp_path / "bomb.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        with archive.open("bomb.bmp", "w", force_zip64=True) as file:
            for _ in range(600):
                file.write(bytes(1 << 20))
        archive.writestr("good.png", photograph(1))
    assert path.stat().st_size < 1 << 20
    assert problems(path) == {"bomb.bmp": "archive_bomb"}

    data = pack(tmp_path / "liar.zip", {"liar.png": bytes(1 << 20)}).read_bytes()
    stated = struct.pack("<I", 1 << 20)
    assert data.count(stated) == 2
    (tmp_path / "liar.zip").write_bytes(data.replace(stated, struct.pack("<I", 1000)))
    assert problems(tmp_path / "liar.zip") == {"liar.png": "damaged_member"}

    monkeypatch.setattr(archives, "TAR_BYTES", 8 << 20)
    with gzip.open(tmp_path / "endless.tgz", "w") as file:
        for _ in range(64):
            file.write(bytes(1 << 20))
    with pytest.raises(SourceError, match="more than photographs can"):
        scan([tmp_path / "endless.tgz"])

    with tarfile.open(tmp_path / "sparse.tar", "w") as archive:  # a header that states a terabyte
        member = tarfile.TarInfo("huge.png")
        member.size = 1 << 40
        archive.addfile(member)
    with pytest.raises(SourceError, match="The archive cannot be read"):
        scan([tmp_path / "sparse.tar"])


def test_an_encrypted_member_is_quarantined(tmp_path):
    """Without its password a member cannot be read, and the reason says so."""
    path = pack(tmp_path / "secret.zip", {"a.png": photograph(1)})
    data = bytearray(path.read_bytes())
    for mark, place in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.index(mark) + place] |= 1
    path.write_bytes(data)
    (entry,) = scan([path])["files"]
    assert "encrypted" in entry["problem"]


@pytest.mark.parametrize("suffix", [".zip", ".tar", ".tar.gz", ".tar.xz"])
def test_a_truncated_archive_is_refused_wherever_it_ends(tmp_path, suffix):
    """An incomplete download is one message at every kilobyte, and never taken for a smaller set."""
    whole = pack(tmp_path / f"whole{suffix}", PHOTOGRAPHS).read_bytes().rstrip(b"\0")
    path = tmp_path / f"part{suffix}"
    for length in (*range(0, len(whole), 1024), len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(SourceError, match="The archive cannot be read"):
            scan([path])


def test_a_damaged_member_spares_the_others(tmp_path):
    """A byte that changed inside one image of a zip costs that image alone, and its reason says so."""
    path = tmp_path / "damaged.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, data in PHOTOGRAPHS.items():
            archive.writestr(name, data)
    data, victim = bytearray(path.read_bytes()), [*PHOTOGRAPHS.values()][1]
    data[data.index(victim) + 100] ^= 1
    path.write_bytes(data)
    assert list(problems(path).values()) == ["damaged_member"]
    manifest, quarantine = ingested(scan([path]), tmp_path / "out")
    assert (len(manifest), [row["reason"] for row in quarantine]) == (2, ["damaged_member"])


def test_an_archive_without_images_says_so(tmp_path):
    """The message is that of a folder without images."""
    with pytest.raises(SourceError, match="contains no image"):
        scan([pack(tmp_path / "texts.zip", {"a.txt": b"x"})])


def test_a_member_that_changed_is_refused(tmp_path):
    """Another image under the listed name is not read silently."""
    path = pack(tmp_path / "a.zip", {"a.png": photograph(1)})
    (entry,) = scan([path])["files"]
    pack(path, {"a.png": photograph(2)})
    with pytest.raises(SourceError, match="changed after it was listed"):
        open_source(entry["address"], expect=entry["hash"])
    pack(path, {"b.png": photograph(2)})
    with pytest.raises(SourceError, match="holds no such file"):
        open_source(entry["address"], expect=entry["hash"])
    Path(path).unlink()
    with pytest.raises(SourceError, match="cannot be read"):
        open_source(entry["address"], expect=entry["hash"])
