"""Photographs inside tar and zip archives, read in place: no name in an archive ever becomes a path on the disk.

A compressed tar can only be read from its beginning, so it is decompressed once into a temporary file without a name,
which is as large as what the archive holds; zips and plain tars are read where they are.

What would harm whoever unpacked the archive is listed with its problem and never read: names that lead out of the
archive, links, devices, names that occur twice, encrypted members, and members of more than `MEMBER_BYTES`.
"""

import bz2
import functools
import gzip
import hashlib
import lzma
import os
import re
import stat
import tarfile
import tempfile
import threading
import weakref
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any, cast

from relume.errors import SourceError
from relume.files import storing

SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")
MEMBER_BYTES = 512 << 20  # of one image in an archive; ingest holds a few in memory at once
# A compressed tar may hold this much, or so many times its own size: photographs hardly shrink any further.
TAR_BYTES, TAR_RATIO = 1 << 30, 20
_CHUNK = 1 << 20
_OPENERS = {b"\x1f\x8b": gzip.open, b"BZ": bz2.open, b"\xfd7": lzma.open}
# What readers raise over bytes that they do not expect; zipfile raises a RuntimeError over an encrypted member, or one
# whose compression it does not know.
_DAMAGED: tuple[type[Exception], ...] = (
    *(zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, EOFError, OSError, ValueError),
    *(RuntimeError, OverflowError),
)


@dataclass(frozen=True)
class Member:
    """A file in an archive.

    Attributes:
        name: As the archive has it.
        bytes: Its size.
        hash: `sha256:...`; `none` where there is a problem.
        problem: Why it is not read; empty if it can be.
        reason: That of the quarantine, where there is a problem.
    """

    name: str
    bytes: int
    hash: str = "none"
    problem: str = ""
    reason: str = ""


def is_archive(place: str | Path) -> bool:
    """Whether a path is a file with the suffix of an archive."""
    return str(place).lower().endswith(SUFFIXES) and Path(place).is_file()


def members(path: Path, *, below: str = "", suffixes: tuple[str, ...]) -> Iterator[Member]:
    """The images of an archive in the order of their names, hidden ones left out, each read once for its hash.

    Args:
        path: The archive.
        below: Names that do not begin with this are left out.
        suffixes: Of images, in small letters.

    Raises:
        SourceError: It cannot be read as an archive, or a compressed one holds too much.
    """
    archive = _opened(path)
    for name in sorted(archive.entries):
        parts = re.split(r"[/\\]", name)
        hidden = any(part.startswith(".") and part not in (".", "..") for part in parts)
        if name.startswith(below) and name.lower().endswith(suffixes) and not hidden:
            yield archive.measured(name)


def read_member(path: Path, name: str) -> bytes:
    """The bytes of one image of an archive.

    Raises:
        SourceError: There is no such file in it, or it cannot be read.
    """
    archive = _opened(path)
    member = archive.entries.get(name)
    try:
        if member is None:
            raise ValueError("the archive holds no such file")
        if member.problem:
            raise ValueError(member.problem)
        return b"".join(archive.chunks(name))
    except _DAMAGED as error:
        raise SourceError(
            "A listed photograph cannot be read",
            where=f"{path}: {name}",
            why=_words(error),
            next_step="run `relume data scan`",
        ) from None


class _Archive:
    """An open archive: what it holds, and the bytes of each. Threads read it by turns."""

    def __init__(self, path: Path):
        self._turn = threading.Lock()
        with open(path, "rb") as file:
            start = file.read(4)
        listed: list[tuple[Member, Any]]
        if path.name.lower().endswith(".zip"):
            self._file: zipfile.ZipFile | tarfile.TarFile = zipfile.ZipFile(path)
            listed = [_zipped(item) for item in self._file.infolist() if not item.is_dir()]
        else:
            opener = _OPENERS.get(start[:2])
            plain = _decompressed(path, opener) if opener else open(path, "rb")  # noqa: SIM115
            weakref.finalize(self, plain.close)
            self._file = tarfile.open(fileobj=plain, mode="r:")  # noqa: SIM115
            listed = [_tarred(item) for item in self._file if not item.isdir()]
            plain.seek(self._file.offset)  # tarfile takes a damaged header, or none, for the end
            if plain.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
                raise tarfile.ReadError("it is truncated or damaged: the mark of its end is missing")
        several = Counter(member.name for member, _ in listed)
        self.entries: dict[str, Member] = {}
        self._items: dict[str, Any] = {}
        for member, item in listed:
            if several[member.name] > 1:
                problem = f"the archive holds {several[member.name]} files of this name"
                member = replace(member, problem=problem, reason="duplicate_name")
            self.entries[member.name], self._items[member.name] = member, item

    def measured(self, name: str) -> Member:
        """A member with its hash, or with what keeps it from being read."""
        member = self.entries[name]
        if member.problem:
            return member
        digest = hashlib.sha256()
        try:
            for chunk in self.chunks(name):
                digest.update(chunk)
        except _DAMAGED as error:
            return replace(member, problem=f"it cannot be read: {_words(error)}", reason="damaged_member")
        return replace(member, hash=f"sha256:{digest.hexdigest()}")

    def chunks(self, name: str) -> Iterator[bytes]:
        """The bytes of a member, piece by piece; never more than it states."""
        item = self._items[name]
        with self._turn:
            if isinstance(zipped := self._file, zipfile.ZipFile):
                opened = zipped.open(item)
            else:
                opened = cast(IO[bytes], zipped.extractfile(item))
            with opened as file:
                yield from iter(lambda: file.read(_CHUNK), b"")


@functools.lru_cache(maxsize=4)
def _cached(path: Path, size: int, changed: int) -> _Archive:
    return _Archive(path)


def _opened(path: Path) -> _Archive:
    """The archive, opened once in a process as long as it does not change."""
    try:
        state = os.stat(path)
        return _cached(path, state.st_size, state.st_mtime_ns)
    except _DAMAGED as error:
        raise SourceError(
            "The archive cannot be read",
            where=path,
            why=_words(error),
            next_step="fetch it again, or unpack what can be unpacked and scan the folder",
        ) from None


def _decompressed(path: Path, opener: Any) -> IO[bytes]:
    limit = max(TAR_BYTES, TAR_RATIO * path.stat().st_size)
    plain = tempfile.TemporaryFile(prefix="relume-")  # noqa: SIM115
    try:
        with opener(path) as packed:
            while chunk := packed.read(_CHUNK):
                with storing(Path(tempfile.gettempdir())):
                    plain.write(chunk)
                if plain.tell() > limit:
                    raise SourceError(
                        "The archive holds more than photographs can",
                        where=path,
                        why=f"its {path.stat().st_size} bytes grow to more than {limit}",
                        next_step="if you trust it, unpack it yourself and scan the folder",
                    )
        plain.seek(0)
    except BaseException:
        plain.close()
        raise
    return plain


def _zipped(item: zipfile.ZipInfo) -> tuple[Member, zipfile.ZipInfo]:
    mode = item.external_attr >> 16
    kind = "it is a link" if stat.S_ISLNK(mode) else "it is encrypted" if item.flag_bits & 1 else ""
    return _member(item.orig_filename, item.file_size, kind), item


def _tarred(item: tarfile.TarInfo) -> tuple[Member, tarfile.TarInfo]:
    kind = "" if item.isreg() else "it is a link" if item.issym() or item.islnk() else "it is a device or a FIFO"
    return _member(item.name, item.size, kind), item


def _member(name: str, size: int, kind: str) -> Member:
    parts = re.split(r"[/\\]", name)
    if ".." in parts or not parts[0] or re.match(r"[A-Za-z]:", name) or "\0" in name:
        return Member(name, size, problem="its name leads out of the archive", reason="unsafe_name")
    if kind:
        return Member(name, size, problem=f"{kind}, not a file that can be read", reason="not_a_file")
    if size > MEMBER_BYTES:
        problem = f"it states {size} bytes, and an image in an archive may have {MEMBER_BYTES}"
        return Member(name, size, problem=problem, reason="archive_bomb")
    return Member(name, size)


def _words(error: BaseException) -> str:
    return " ".join(str(getattr(error, "strerror", None) or error).split()) or type(error).__name__
