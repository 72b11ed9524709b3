"""Damaged objects of DVC's cache: found and removed before a run uses them.

DVC takes a read-only object for unchanged and never looks into it. A step that runs as root and writes into its input,
or a program that repairs a disk, would so change what every later run reads, under the old hash.
"""

import hashlib
import os
import re
from collections.abc import Callable
from pathlib import Path

from relume.counts import counted
from relume.errors import RelumeError
from relume.files import write_json
from relume.reading import read_as

_NAME = re.compile(r"[0-9a-f]{32}(\.dir)?")  # anything else beside them is what DVC is just writing
_WORTH_A_LINE = 2e9  # bytes to read, which take some seconds
_Seen = dict[str, tuple[int, int, int]]  # by name, the size, the time of the last change and the inode


def remove_damaged(cache: Path, home: Path, say: Callable[[str], None]) -> list[str]:
    """Removes the objects whose bytes are not those of which their name is the hash; DVC then makes them again.

    Objects that are as they were when they were last looked at are not read again.

    Args:
        cache: DVC's cache.
        home: RELUME_HOME, which keeps what was looked at.
        say: Given a line before gigabytes are read.

    Returns:
        The names of those that were removed.
    """
    known, seen, damaged = _read(home), _objects(cache), []
    new = [name for name, found in seen.items() if known.get(name) != found]
    if (size := sum(seen[name][0] for name in new)) > _WORTH_A_LINE:
        say(f"reads {counted(len(new), 'object')} of DVC's cache, {size / 1e9:.0f} GB, that no run has looked at yet")
    for name in new:
        path = cache / "files" / "md5" / name[:2] / name[2:]
        if _md5(path) != name.removesuffix(".dir"):
            path.unlink()
            del seen[name]
            damaged.append(name)
    _write(home, seen)
    return damaged


def remember_objects(cache: Path, home: Path) -> None:
    """Keeps how the objects are now, at the end of a run: DVC has just hashed those that are new.

    Args:
        cache: DVC's cache.
        home: RELUME_HOME.
    """
    known = _read(home)
    _write(home, {name: known.get(name, found) for name, found in _objects(cache).items()})


def _objects(cache: Path) -> _Seen:
    found = {}
    for path in (cache / "files" / "md5").glob("??/*"):
        if _NAME.fullmatch(name := path.parent.name + path.name):
            facts = path.stat()
            found[name] = (facts.st_size, facts.st_mtime_ns, facts.st_ino)
    return found


def _md5(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _file(home: Path) -> Path:
    return home / "cache_objects.json"


def _read(home: Path) -> _Seen:
    if not os.path.lexists(_file(home)):
        return {}
    try:
        return read_as(_Seen, _file(home), next_step="none is needed")
    except RelumeError:  # all are looked at again
        return {}


def _write(home: Path, seen: _Seen) -> None:
    write_json(_file(home), seen)
