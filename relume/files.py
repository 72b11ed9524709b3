"""Writing files and folders, which appear under their final name whole or not at all; and their hashes.

What the disk refuses (it is full, read-only or not the user's) is a StorageError, which names the file and what to do;
what stood under the final name still stands.
"""

import contextlib
import errno
import hashlib
import json
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Iterator
from io import BufferedReader
from pathlib import Path
from typing import Any

from relume.errors import RelumeError, StorageError

_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a FIFO"),
    (stat.S_ISSOCK, "a socket"),
    (lambda mode: stat.S_ISCHR(mode) or stat.S_ISBLK(mode), "a device"),
)


class NotRegularError(OSError):
    """The path leads to something that is no regular file, or to nothing; `strerror` says to what."""


def open_regular(path: str | Path) -> BufferedReader:
    """Opens a regular file, or a link to one, for reading; nothing else, because a FIFO or a device may never end.

    Raises:
        NotRegularError: It is a folder, a FIFO, a socket, a device, or a link to one of these or to nothing.
        OSError: As `open` raises it, such as for a path that does not exist.
    """
    try:
        mode = os.stat(path).st_mode
    except OSError as error:
        if os.path.islink(path) and error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            raise NotRegularError(error.errno, "it is a link whose target is missing", str(path)) from None
        raise
    if not stat.S_ISREG(mode):
        kind = next(name for is_kind, name in _KINDS if is_kind(mode))
        raise NotRegularError(errno.EINVAL, f"it is {kind}, not a file", str(path))
    return open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK))


_REFUSALS = {
    errno.ENOSPC: ("The disk is full", "free some space, then run the same command again"),
    errno.EDQUOT: ("The disk quota is used up", "free some space, then run the same command again"),
    errno.EFBIG: ("The file is larger than the system allows", "raise the limit: ulimit -f"),
    errno.EROFS: ("The disk is read-only", "mount it for writing, or set RELUME_HOME to another one"),
    errno.EACCES: ("No permission", "make it yours, or set RELUME_HOME to a folder that is"),
    errno.EPERM: ("No permission", "make it yours, or set RELUME_HOME to a folder that is"),
    errno.EIO: ("The disk failed", "check it: dmesg"),
    errno.ENOTDIR: ("There is a file where a folder should be", "move the file aside"),
    errno.EISDIR: ("There is a folder where a file should be", "move the folder aside"),
    errno.EEXIST: ("There is a file where a folder should be", "move the file aside"),
}


def as_relume_error(error: Exception, path: object = None) -> RelumeError | None:
    """The error to report of an exception: relume's own as it is, a StorageError for what the disk refused.

    None for any other, which may be a defect.

    Args:
        error: As Python, or a library over its own input and output, raised it.
        path: Where it happened, unless the error says.
    """
    if isinstance(error, RelumeError):  # its words may quote the system's
        return error
    number = error.errno if isinstance(error, OSError) else None
    if number is None:  # of several files, or of a library that keeps the system's words alone
        number = next((known for known in _REFUSALS if os.strerror(known) in str(error)), None)
    if number not in _REFUSALS:
        return None
    what, next_step = _REFUSALS[number]
    return StorageError(what, where=getattr(error, "filename", None) or path, next_step=next_step)


@contextlib.contextmanager
def storing(path: Path) -> Iterator[None]:
    """Raises as StorageError what the disk causes inside of the `with` statement.

    Args:
        path: Where it happens, unless the error says.
    """
    try:
        yield
    except Exception as error:
        if (refused := as_relume_error(error, path)) is None or refused is error:
            raise
        raise refused from error


def check_space(folder: Path, megabytes: float) -> None:
    """Refuses a disk that is as good as full, for who starts programs that would end on it with words of their own.

    Args:
        folder: A folder on the disk.
        megabytes: That must be free.

    Raises:
        StorageError: There is less.
    """
    free = shutil.disk_usage(folder).free / 1e6
    if free < megabytes:
        what, next_step = _REFUSALS[errno.ENOSPC]
        why = f"{free:.1f} MB are free, and {megabytes:g} are needed"
        raise StorageError(what, where=folder, why=why, next_step=next_step)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _mode(path: Path, most: int) -> int:
    """The permissions of what stands at a path, else what the umask leaves of `most`."""
    with contextlib.suppress(FileNotFoundError):
        found = path.stat().st_mode
        if stat.S_ISDIR(found) == bool(most & 0o111):  # a folder may replace a file
            return stat.S_IMODE(found)
    # os.umask would set it for a moment, for all threads.
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return most & ~int(re.search(r"^Umask:\s*(\d+)", status, re.MULTILINE)[1], 8)  # type: ignore[index]


@contextlib.contextmanager
def atomic_file(path: str | Path, *, mode: int | None = None) -> Iterator[Path]:
    """Gives a temporary path beside `path`; on a clean exit it is synced and renamed to `path`.

    Args:
        path: Final name; its folder is created. The temporary name keeps the suffix, which some
            writers choose the format by.
        mode: Permissions of the file; until it is whole it is its owner's alone. None for those of the file that it
            replaces, else those that the umask leaves.

    Yields:
        The temporary path to write to. After an exception it is removed and `path` is untouched. Only a kill leaves it
        there: its name begins with a dot, which those who list a folder leave out.

    Raises:
        StorageError: The disk refuses the file.
    """
    path = Path(path)
    with storing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(prefix=f".{path.stem}.", suffix=path.suffix, dir=path.parent)
        os.close(descriptor)
        temporary = Path(name)
        try:
            yield temporary
            with open(temporary, "rb") as file:
                os.fchmod(file.fileno(), _mode(path, 0o666) if mode is None else mode)
                os.fsync(file.fileno())
            os.replace(temporary, path)
            _sync_folder(path.parent)
        finally:
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """Gives a temporary folder beside `path`; on a clean exit it replaces `path` by one rename.

    Args:
        path: Final name. What stood there before is removed only after the new folder is complete.

    Yields:
        The temporary folder to fill. After an exception it is removed and `path` is untouched.

    Raises:
        StorageError: The disk refuses a file.
    """
    path = Path(path)
    with storing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
        try:
            yield temporary
            temporary.chmod(_mode(path, 0o777))
            for file in temporary.rglob("*"):
                if file.is_file():
                    with open(file, "rb") as opened:
                        os.fsync(opened.fileno())
            if path.exists():
                old = Path(tempfile.mkdtemp(prefix=f".{path.name}.old.", dir=path.parent))
                os.replace(path, old / "folder")
                os.replace(temporary, path)
                shutil.rmtree(old)
            else:
                os.replace(temporary, path)
            _sync_folder(path.parent)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def write_bytes(path: str | Path, data: bytes) -> None:
    """Writes `data` to `path` atomically."""
    with atomic_file(path) as temporary:
        temporary.write_bytes(data)


def write_text(path: str | Path, text: str) -> None:
    """Writes `text` to `path` as UTF-8, atomically."""
    write_bytes(path, text.encode())


def write_json(path: str | Path, value: Any) -> None:
    """Writes `value` as indented JSON with sorted keys, atomically; equal values give equal bytes."""
    write_text(path, json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n")


def sha256_file(path: str | Path) -> str:
    """SHA-256 of a file's bytes as 64 hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_folder(path: str | Path, exclude: tuple[str, ...] = ()) -> str:
    """SHA-256 over the sorted relative names and hashes of all files below a folder.

    Args:
        path: The folder.
        exclude: Relative POSIX names to leave out, such as the file that will hold the hash.

    Returns:
        64 hexadecimal digits; depends on names and bytes only, not on times or the folder's place.
    """
    path = Path(path)
    digest = hashlib.sha256()
    names = sorted(file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file())
    for name in names:
        if name not in exclude:
            digest.update(f"{name}\0{sha256_file(path / name)}\n".encode())
    return digest.hexdigest()
