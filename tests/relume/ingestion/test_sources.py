"""Sources: what a scan lists, how it is read back, and what is refused."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from relume.errors import BrokenFileError, SourceError
from relume.images import decode
from relume.ingestion import sources
from relume.ingestion.sources import BUILT_IN, PACKAGES, moved_files, open_source, read_sources, scan, write_sources


def test_a_folder_typed_in_any_way_is_one_source(photos, monkeypatch):
    """A relative path, one with dots, and the recorded address all list the same absolute addresses."""
    monkeypatch.chdir(photos / "2024")
    expected = scan([photos])
    assert scan([".."]) == scan([photos / "2024" / ".."]) == scan(expected["sources"]) == expected


@pytest.fixture
def photos(tmp_path):
    """A folder with two images, one of them deep down and oddly named, beside files that are none."""
    folder = tmp_path / "my photos"
    deep = folder / "2024" / "été #1 100%"
    deep.mkdir(parents=True)
    Image.new("RGB", (8, 8), "red").save(folder / "red.PNG", "PNG")
    Image.new("RGB", (8, 8), "blue").save(deep / "blue?.jpg")
    (folder / "notes.txt").write_text("no image")
    (folder / ".hidden.jpg").write_text("no image")
    (folder / ".trash").mkdir()
    Image.new("RGB", (8, 8)).save(folder / ".trash" / "old.png")
    return folder


def test_lists_the_images_of_a_folder_with_size_and_hash(photos):
    """Every image below a folder is listed once, with the size and SHA-256 of its bytes; hidden files are not."""
    listing = scan([photos])
    paths = [photos / "2024" / "été #1 100%" / "blue?.jpg", photos / "red.PNG"]
    assert [entry["address"] for entry in listing["files"]] == [path.as_uri() for path in paths]
    for entry, path in zip(listing["files"], paths, strict=True):
        assert entry["bytes"] == path.stat().st_size
        assert entry["hash"] == "sha256:" + hashlib.sha256(path.read_bytes()).hexdigest()


def test_every_listed_address_opens_to_its_bytes(photos):
    """The addresses lead back to the files, whatever characters their names hold."""
    for entry, name in zip(scan([photos])["files"], ["2024/été #1 100%/blue?.jpg", "red.PNG"], strict=True):
        assert open_source(entry["address"], expect=entry["hash"]) == (photos / name).read_bytes()


def test_opens_names_that_are_no_unicode(tmp_path):
    """A file name of bytes that are no UTF-8 is listed and read like any other."""
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.png"))
    path.write_bytes(b"x")
    (entry,) = scan([tmp_path])["files"]
    assert open_source(entry["address"]) == b"x"
    json.dumps(entry).encode()


def test_lists_files_that_cannot_be_decoded(tmp_path):
    """Camera raw and empty files are listed, so that the quarantine can name them."""
    for name in ("a.NEF", "b.heic", "empty.jpg"):
        (tmp_path / name).write_bytes(b"")
    assert [entry["address"].rsplit("/", 1)[1] for entry in scan([tmp_path])["files"]] == [
        "a.NEF",
        "b.heic",
        "empty.jpg",
    ]


def test_the_built_in_photographs_are_all_there():
    """By default at least a dozen photographs of installed packages are listed, and each can be decoded."""
    files = scan()["files"]
    assert len(files) == len(BUILT_IN) >= 12
    for entry in files:
        assert min(decode(open_source(entry["address"], expect=entry["hash"])).pixels.shape[:2]) >= 300


def test_the_committed_list_is_what_a_scan_gives():
    """sources.json of a fresh checkout names the built-in photographs as they are in the locked packages."""
    assert read_sources(Path(__file__).parents[3] / "sources.json") == scan()


def test_scanning_the_packages_does_not_import_them():
    """Listing the built-in photographs takes no seconds of scikit-learn's import."""
    code = "import sys, relume.ingestion.sources as s; s.scan(); "
    code += "print({'sklearn', 'skimage', 'boto3'} & sys.modules.keys())"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"


def test_sources_are_merged_and_sorted(photos):
    """Several sources give one list, sorted by address, with no address twice."""
    listing = scan([photos, PACKAGES, photos / "2024"])
    addresses = [entry["address"] for entry in listing["files"]]
    assert addresses == sorted(set(addresses))
    assert len(addresses) == 2 + len(BUILT_IN)
    assert listing["sources"] == [photos.as_uri(), PACKAGES, (photos / "2024").as_uri()]


def test_a_set_whose_files_all_went_to_another_is_refused(photos):
    """A folder inside another may be a set of its own, and takes its files; the same place twice leaves a set empty."""
    listing = scan([f"all={photos}", f"year={photos / '2024'}"])
    assert [entry["set"] for entry in listing["files"]] == ["year", "all"]
    for given, lost in (
        ([f"own={photos}", f"other={photos}"], "own="),
        ([f"year={photos / '2024'}", photos], "year="),
        ([photos, f"own={photos}"], str(photos)),
    ):
        with pytest.raises(SourceError, match="A set has no photograph of its own") as refused:
            scan(given)
        assert refused.value.where.startswith(lost)


def test_the_list_is_not_touched_unless_it_changes(photos, tmp_path):
    """A scan that finds nothing new leaves the file and its time stamp alone."""
    path = tmp_path / "sources.json"
    assert len(write_sources([photos], path).added) == 2
    os.utime(path, ns=(1, 1))
    assert not write_sources([photos], path)
    assert not write_sources(None, path)
    assert path.stat().st_mtime_ns == 1


def test_a_scan_says_what_changed(photos, tmp_path):
    """Added, removed and modified files are told apart, scanning again what the list names."""
    path = tmp_path / "sources.json"
    write_sources([photos], path)
    Image.new("RGB", (8, 8), "green").save(photos / "green.png")
    (photos / "2024" / "été #1 100%" / "blue?.jpg").unlink()
    Image.new("RGB", (9, 9), "red").save(photos / "red.PNG", "PNG")
    change = write_sources(None, path)
    assert bool(change)
    assert change.files == 2
    assert change.added == ((photos / "green.png").as_uri(),)
    assert [address.rsplit("/", 1)[1] for address in change.removed] == ["blue%3F.jpg"]
    assert change.modified == ((photos / "red.PNG").as_uri(),)
    assert scan(read_sources(path)["sources"]) == read_sources(path)


def test_photographs_that_moved_are_found_without_reading_them(photos, tmp_path):
    """A file that is gone and one of another size are named; what is on S3 is not asked for."""
    listing = scan([photos])
    assert moved_files(listing) == []
    (photos / "red.PNG").rename(tmp_path / "red.PNG")
    blue = photos / "2024" / "été #1 100%" / "blue?.jpg"
    blue.write_bytes(blue.read_bytes() + b"more")
    listing["files"].append({"address": "s3://bucket/gone.png", "bytes": 1, "hash": "etag:x"})
    assert sorted(moved_files(listing)) == sorted([(photos / "red.PNG").as_uri(), blue.as_uri()])


def test_a_file_that_changed_after_the_scan_is_refused(photos):
    """Bytes other than the listed ones are not read silently: the message says to scan again."""
    entry = scan([photos])["files"][-1]
    (photos / "red.PNG").write_bytes(b"other")
    with pytest.raises(SourceError, match=r"changed after it was listed[^$]*sources\.json lists it with") as caught:
        open_source(entry["address"], expect=entry["hash"])
    assert caught.value.next_step == "run `relume data scan` to list it again"
    (photos / "red.PNG").unlink()
    with pytest.raises(SourceError, match="No such file"):
        open_source(entry["address"])


def test_a_source_that_holds_nothing_is_refused(tmp_path):
    """A missing folder, a file, an empty folder and an unknown scheme are user mistakes, each named."""
    (tmp_path / "file.png").write_text("")
    (tmp_path / "empty").mkdir()
    for source, message in [
        (tmp_path / "none", "folder of photographs does not exist"),
        (tmp_path / "file.png", "is a file"),
        (tmp_path / "empty", "contains no image"),
        ("http://example.org/photos", "kind of source is not supported"),
        ("s3:///prefix", "names no bucket"),
    ]:
        with pytest.raises(SourceError, match=message) as caught:
            scan([source])
        assert caught.value.exit_code == 2
        assert str(source) in str(caught.value)


def test_a_listed_source_that_is_gone_is_refused_with_its_list(tmp_path):
    """Nobody typed it, so the message says which file names it."""
    (tmp_path / "sources.json").write_text('{"sources": ["file:///none"], "files": []}')
    with pytest.raises(SourceError, match=r"does not exist: /none, named in .*sources\.json"):
        write_sources(path=tmp_path / "sources.json")


def test_a_folder_that_cannot_be_read_whole_is_refused(photos, monkeypatch):
    """An image that the disk does not give stops the scan and is named: a list without it would look complete."""

    def refuse(path):
        raise OSError(5, "Input/output error", str(path))

    monkeypatch.setattr(sources, "open_regular", refuse)
    with pytest.raises(SourceError, match=r"cannot be read: .*(red|blue).*"):
        scan([photos])


def test_what_is_no_file_is_listed_with_what_it_is(photos, tmp_path):
    """A FIFO, a link to a device and one to nothing are listed unopened, and become files like any other."""
    os.mkfifo(photos / "pipe.jpg")
    (photos / "zero.jpg").symlink_to("/dev/zero")
    (photos / "gone.jpg").symlink_to("nowhere.jpg")
    change = write_sources([photos], tmp_path / "sources.json")
    found = {address.rsplit("/", 1)[1]: problem for address, problem in change.problems}
    expected = {
        "pipe.jpg": "a FIFO, not a file",
        "zero.jpg": "a device, not a file",
        "gone.jpg": "a link whose target is missing",
    }
    assert found == {name: f"it is {kind}" for name, kind in expected.items()}
    assert change.files == 5
    for address, _ in change.problems:
        with pytest.raises(SourceError, match="cannot be read"):
            open_source(address)
    Image.new("RGB", (8, 8), "green").save(photos / "nowhere.jpg")
    change = write_sources(None, tmp_path / "sources.json")
    assert change.modified == ((photos / "gone.jpg").as_uri(),)


@pytest.mark.parametrize(
    "name",
    ["skimage/../../x.png", "skimage/data/../../../x.png", "skimage//etc/passwd", "../x.png", "skimage.data/x.png"],
)
def test_a_package_address_stays_inside_its_package(name):
    """What leads out of a package, or would import one to find another, is refused whether it exists or not."""
    with pytest.raises(SourceError, match="does not name a file inside a package"):
        open_source(PACKAGES + name)


def test_a_broken_list_is_refused(tmp_path):
    """A missing list, one that is no JSON and one of another shape say to scan again."""
    path = tmp_path / "sources.json"
    for content in (None, "{", "[]", '{"files": []}'):
        if content is not None:
            path.write_text(content)
        with pytest.raises((SourceError, BrokenFileError), match=r"relume data scan") as caught:
            read_sources(path)
        assert caught.value.where == path


def test_a_missing_package_is_named(monkeypatch):
    """A built-in photograph whose package is not installed names the package to install."""
    monkeypatch.setattr(sources, "BUILT_IN", ("nosuchpackage/data/a.png",))
    with pytest.raises(SourceError, match=r"pip install .* nosuchpackage"):
        scan()
