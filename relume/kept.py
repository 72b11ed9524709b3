"""Parts of the files that an earlier run wrote, so that the next one copies them instead of computing them again.

The files are hard links to those of the earlier run: they take no room of their own while that run's outs are there, in
DVC's cache for instance. On another file system, and where a container mounts both folders, they are copies. An index
in SQLite says where each part is. Of a run that did not end, the files that it had finished are kept beside those of
the run before, until a run ends.
"""

import contextlib
import errno
import json
import os
import secrets
import shutil
import sqlite3
import threading
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

# Two file systems or mounts, one without hard links, and a file that has as many as there can be.
_NO_LINK = (errno.EXDEV, errno.EPERM, errno.ENOTSUP, errno.EMLINK)


class Part(NamedTuple):
    """A part of a file: the file's name, where it begins, how long it is, and its CRC-32."""

    file: str
    offset: int
    size: int
    crc: int


class Kept:
    """What the run before kept, and what this one keeps; a context manager, which lets go of both.

    Args:
        folder: Made when it is not there; None keeps nothing.
        version: Of the code and settings: parts of another are not found.
    """

    def __init__(self, folder: Path | None, version: str):
        self._folder, self._version = folder, version
        self._lock = threading.Lock()
        self._before: list[sqlite3.Connection] = []
        self._now: sqlite3.Connection | None = None
        self._finished: set[str] = set()
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            self._token = secrets.token_hex(4)
            unfinished = [path for path in sorted(folder.glob("*.sqlite")) if path.name != "index.sqlite"]
            self._before = [_opened(folder / "index.sqlite"), *map(_connected, unfinished)]
            self._now = _opened(folder / f"{self._token}.sqlite")

    def __enter__(self) -> "Kept":
        return self

    def __exit__(self, *_: object) -> None:
        for base in filter(None, (*self._before, self._now)):
            base.close()
        if self._folder is not None and not self._finished:
            (self._folder / f"{self._token}.sqlite").unlink(missing_ok=True)

    def get(self, key: str) -> tuple[Any, list[Part]] | None:
        """What was noted under a key, and where its parts are."""
        for base in self._before:
            with self._lock, contextlib.suppress(sqlite3.DatabaseError):
                row = base.execute("select facts, parts from kept where key = ?", (self._key(key),)).fetchone()
                if row is not None:
                    return json.loads(row[0]), [Part(*part) for part in json.loads(row[1])]
        return None

    def read(self, part: Part) -> bytes | None:
        """The bytes of a part; None when they are not there unharmed."""
        assert self._folder is not None
        try:
            with open(self._folder / part.file, "rb") as file:
                file.seek(part.offset)
                data = file.read(part.size)
        except OSError:
            return None
        return data if zlib.crc32(data) == part.crc else None

    def note(self, key: str, facts: Any, parts: Iterable[Part]) -> None:
        """Notes what a run wrote.

        Args:
            key: What it depends on besides the version.
            facts: Values for JSON.
            parts: In files of the folder that is given to `keep`.
        """
        if self._now is not None:
            own = [[self._link(part.file), *part[1:]] for part in parts]
            with self._lock:
                self._now.execute(
                    "insert or replace into kept values (?, ?, ?)", (self._key(key), json.dumps(facts), json.dumps(own))
                )

    def keep_so_far(self, folder: Path, files: Iterable[str]) -> None:
        """Keeps finished files and what was noted of them, for the next run in case that this one does not end.

        Args:
            folder: Of the files.
            files: Those that were finished since the last call.
        """
        if self._folder is None or self._now is None:
            return
        with contextlib.suppress(OSError):  # which `keep` prints
            for file in files:
                _link_or_copy(folder / file, self._folder / self._link(file))
                self._finished.add(file)
        with self._lock:
            self._now.commit()

    def keep(self, folder: Path, files: Iterable[str]) -> None:
        """Keeps the files that were noted in the place of those of the run before; prints it where that fails."""
        if self._folder is None or self._now is None:
            return
        self._now.commit()
        links = [self._folder / self._link(file) for file in self._finished]
        try:
            for file in files:
                if file not in self._finished:
                    _link_or_copy(folder / file, link := self._folder / self._link(file))
                    links.append(link)
            os.replace(self._folder / f"{self._token}.sqlite", self._folder / "index.sqlite")
        except OSError as error:
            for link in links:
                link.unlink(missing_ok=True)
            self._finished.clear()
            print(
                f"warning: nothing is kept for the next run, which computes all again: {self._folder}: {error.strerror}"
            )
            return
        for old in self._folder.iterdir():
            if not old.name.startswith((self._token, "index")):
                old.unlink(missing_ok=True)

    def _key(self, key: str) -> str:
        return f"{self._version} {key}"

    def _link(self, file: str) -> str:
        return f"{self._token}-{file.replace('/', '-')}"


def _link_or_copy(file: Path, kept: Path) -> None:
    try:
        os.link(file, kept)
    except OSError as error:
        if error.errno not in _NO_LINK:
            raise
        try:
            shutil.copyfile(file, kept)
        except OSError:
            kept.unlink(missing_ok=True)
            raise


def _opened(path: Path) -> sqlite3.Connection:
    try:
        return _with_table(path)
    except sqlite3.DatabaseError:  # it is damaged: what it knew is computed again
        path.unlink()
        return _with_table(path)


def _connected(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(path, timeout=60, check_same_thread=False)


def _with_table(path: Path) -> sqlite3.Connection:
    base = _connected(path)
    base.execute("pragma synchronous=off")  # an index that was not finished is not used
    base.execute("create table if not exists kept (key text primary key, facts text, parts text) without rowid")
    return base
