"""Damaged objects of DVC's cache are removed before a run, and sound ones are read once."""

import hashlib
import os
from pathlib import Path

import pytest

from flows import cache_objects
from flows.cache_objects import remember_objects, remove_damaged


@pytest.fixture
def home(tmp_path):
    """A home, which keeps what was looked at."""
    (tmp_path / "home").mkdir()
    return tmp_path / "home"


def put(cache: Path, content: bytes, suffix: str = "") -> Path:
    """An object under the hash of its bytes, read-only as DVC leaves it."""
    name = hashlib.md5(content).hexdigest() + suffix
    path = cache / "files" / "md5" / name[:2] / name[2:]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    path.chmod(0o444)
    return path


def damage(path: Path) -> None:
    """Another byte in the middle, of the same size; still read-only."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.chmod(0o644)
    path.write_bytes(content)
    path.chmod(0o444)


@pytest.mark.parametrize("known", [False, True])
@pytest.mark.parametrize("suffix", ["", ".dir"])
def test_a_damaged_object_is_removed_and_named(tmp_path, home, suffix, known):
    """Whether it was seen before or not; the others stay."""
    sound, bad = put(tmp_path, b"sound"), put(tmp_path, b"[a list of files]", suffix)
    if known:
        remember_objects(tmp_path, home)
    damage(bad)
    assert remove_damaged(tmp_path, home, print) == [bad.parent.name + bad.name]
    assert sound.is_file()
    assert not bad.exists()
    assert remove_damaged(tmp_path, home, print) == []


def test_what_dvc_is_writing_is_left_alone(tmp_path, home):
    """An object comes under a name of its own and is renamed when it is whole."""
    path = put(tmp_path, b"half")
    path = path.rename(path.with_name(".kTq8.tmp"))
    assert remove_damaged(tmp_path, home, print) == []
    assert path.is_file()


def test_objects_are_read_once(tmp_path, home, monkeypatch):
    """Those that were looked at, or were there at the end of a run, are not read again until they change."""
    read, md5 = [], cache_objects._md5
    monkeypatch.setattr(cache_objects, "_md5", lambda path: read.append(path) or md5(path))
    first = put(tmp_path, b"first")
    remove_damaged(tmp_path, home, print)
    remove_damaged(tmp_path, home, print)
    assert read == [first]
    put(tmp_path, b"second")
    remember_objects(tmp_path, home)
    remove_damaged(tmp_path, home, print)
    assert read == [first]
    os.utime(first)
    remove_damaged(tmp_path, home, print)
    assert read == [first, first]


def test_many_gigabytes_are_named_before_they_are_read(tmp_path, home, monkeypatch):
    """Only those that were not looked at yet."""
    monkeypatch.setattr(cache_objects, "_WORTH_A_LINE", 8)
    put(tmp_path, b"more than eight")
    said = []
    for _ in range(2):
        remove_damaged(tmp_path, home, said.append)
    assert said == ["reads 1 object of DVC's cache, 0 GB, that no run has looked at yet"]


def test_what_was_damaged_during_a_run_is_not_remembered_as_sound(tmp_path, home):
    """The end of a run keeps how an object was when it was looked at."""
    path = put(tmp_path, b"content")
    remove_damaged(tmp_path, home, print)
    damage(path)
    remember_objects(tmp_path, home)
    assert remove_damaged(tmp_path, home, print) == [path.parent.name + path.name]


def test_a_damaged_record_costs_a_look_at_all(tmp_path, home):
    """It refuses nothing: the objects themselves say whether they are sound."""
    path = put(tmp_path, b"content")
    remember_objects(tmp_path, home)
    (home / "cache_objects.json").write_text("no JSON")
    damage(path)
    assert remove_damaged(tmp_path, home, print) == [path.parent.name + path.name]


def test_no_cache_is_none_to_look_at(tmp_path, home):
    """Before a first run there is none."""
    assert remove_damaged(tmp_path / "none", home, print) == []
