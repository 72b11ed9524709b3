"""A backup of a home in one file, and the home that is made of it again.

A backup is a tar file whose last member, backup.json, states the hash of each other one. It holds what cannot be made
again: the ledger, MLflow's database and artifacts, the releases, the databases of Prefect and of the monitoring, the
reports, checkpoints, settings, and the public keys. The private key is in it only on request. Left out is what the
next command makes: services, locks, the clones of runs, caches, Triton itself. What git and DVC keep is theirs.
"""

import contextlib
import dataclasses
import datetime
import hashlib
import io
import json
import os
import re
import shutil
import sqlite3
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import BinaryIO, cast
from urllib.parse import quote

from flows.home_schema import SCHEMA, require_known
from flows.prefect_settings import services_folder
from flows.processes import running_process
from flows.release.registry import redacted
from flows.release.served_product import release_lock
from relume import __version__
from relume.counts import counted
from relume.errors import BrokenFileError, UserError
from relume.files import atomic_file, sha256_file
from relume.reading import as_kind, reading

STATED = "backup.json"
_KEY = "keys/signing.pem"
# In this order they are written back: the ledger, by which a home counts as one with releases, comes last.
_KEPT = (
    "mlflow/artifacts",
    "mlflow/mlflow.db",
    "prefect/prefect.db",
    "monitoring",
    "packages",
    "triton/models",
    "checkpoints",
    "reports",
    "container_images",
    "keys",
    "config.yaml",
    "sources.json",
    "ledger.head.json",
    "ledger.jsonl",
)
_ASIDE = re.compile(r"ledger\.(jsonl|head\.json)\.broken-\w+")
_EXTERNAL = {"MLflow": "MLFLOW_TRACKING_URI", "Prefect": "PREFECT_API_URL"}


class BackupError(UserError):
    """A file is no whole backup, or cannot be brought back here."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Backup:
    """What a backup states of itself.

    Attributes:
        schema: Of the home; see `flows.home_schema`.
        relume: Version that wrote it.
        time: UTC, ISO 8601.
        keys: Whether it holds the private key.
        external: Addresses of the stores that were not in the home, by whose they are; they are not in it.
        files: SHA-256 of each file, by its path in the home.
    """

    schema: int
    relume: str
    time: str
    keys: bool
    external: dict[str, str]
    files: dict[str, str]

    def __str__(self) -> str:
        key = "with the private key" if self.keys else "without the private key"
        return f"{counted(len(self.files), 'file')} of {self.time}, {key}"


def write_backup(home: Path, file: Path, *, keys: bool) -> Backup:
    """Writes a backup, readable by its user alone; services may run, a release may not.

    Args:
        home: RELUME_HOME.
        file: The file to write; it is replaced when it is whole.
        keys: Whether it holds the private key that signs releases.

    Returns:
        What it states.

    Raises:
        ReleaseInProgressError: A release or rollback is in progress.
        BrokenFileError: A database is damaged.
        StorageError: The disk refuses it.
    """
    if not home.is_dir():
        raise UserError("There is no home to back up", where=home, next_step="set RELUME_HOME to the one that you mean")
    external = {owner: redacted(os.environ[name]) for owner, name in _EXTERNAL.items() if os.environ.get(name)}
    with contextlib.ExitStack() as stack:
        stack.enter_context(release_lock(home))
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix=".backup.", dir=home)))
        tar = stack.enter_context(tarfile.open(stack.enter_context(atomic_file(file, mode=0o600)), "w"))
        files = {}
        for name, path in _present(home, keys=keys).items():
            source = _copy_database(path, scratch / "copy.db") if path.suffix == ".db" else path
            with open(source, "rb") as data:
                files[name] = _add(tar, name, data, os.fstat(data.fileno()).st_size)
        backup = Backup(
            schema=SCHEMA,
            relume=__version__,
            time=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            keys=_KEY in files,
            external=external,
            files=files,
        )
        stated = json.dumps(dataclasses.asdict(backup), indent=2).encode()
        _add(tar, STATED, io.BytesIO(stated), len(stated))
    return backup


def read_backup(file: Path) -> Backup:
    """Reads a backup from end to end and gives what it states.

    Raises:
        BackupError: It is none, or is not whole.
    """
    stated, found = None, {}
    with _members(file) as members:
        for name, data in members:
            if name == STATED:
                with reading(file, next_step="use another backup"):
                    stated = as_kind(Backup, json.load(data))
            elif not _is_safe(name):
                raise _refused(file, f"{name} leads out of the home, or is nothing that a backup holds")
            else:
                found[name] = hashlib.file_digest(data, "sha256").hexdigest()
    if stated is None:
        raise _refused(file, f"it does not end with {STATED}: it was cut off, or is something else")
    for name in found.keys() | stated.files.keys():
        if found.get(name) != stated.files.get(name):
            raise _refused(file, f"{name} is not what was written")
    return stated


def restore_backup(home: Path, file: Path) -> Backup:
    """Makes a home of a backup. One whose restoration was cut short is completed by the same call.

    Args:
        home: RELUME_HOME. It may hold what a fresh set-up leaves, such as Triton, but no state of its own.
        file: The backup.

    Returns:
        What it states.

    Raises:
        BackupError: It is none, is not whole, is of a newer relume, or the home has state of its own; nothing was
            changed.
        StorageError: The disk refuses a file.
    """
    backup = read_backup(file)
    require_known(backup.schema, file)
    own = [name for name, path in _present(home, keys=True).items() if backup.files.get(name) != sha256_file(path)]
    if own:
        raise BackupError(
            "The home has state of its own; nothing was changed",
            where=home,
            why=f"{counted(len(own), 'file')} are not those of the backup, such as {own[0]}",
            next_step=f"move it away: mv {home} {home}.old; then run the same command again",
        )
    if running := [name for name in ("mlflow", "prefect") if running_process(services_folder(home), name)]:
        raise BackupError(
            "Services of this home are running; nothing was changed",
            where=", ".join(running),
            next_step="run `relume down`, then the same command again",
        )
    with release_lock(home), _members(file) as members:
        for name, data in members:
            private = name.endswith((".db", ".pem"))
            if name != STATED:
                with atomic_file(home / name, mode=0o600 if private else 0o644) as path, open(path, "wb") as target:
                    shutil.copyfileobj(data, target)
    return backup


def not_in_it(home: Path, backup: Backup) -> list[str]:
    """Sentences on what the user has to keep by other means."""
    lines = [
        f"{owner}'s store is {address}; back it up there (docs/operations.md says how)"
        for owner, address in backup.external.items()
    ]
    if not backup.keys and (home / _KEY).is_file():
        lines.append(f"{home / _KEY} is not in it; what it signed stays valid, and the next release makes another")
    return lines


def _present(home: Path, *, keys: bool) -> dict[str, Path]:
    """The files of a home that a backup holds, by their names in it, in the order in which they are written back."""
    found: dict[str, Path] = {}
    aside = sorted(path.name for path in home.glob("ledger.*.broken-*") if _ASIDE.fullmatch(path.name))
    for place in (*aside, *_KEPT):
        path = home / place
        below = sorted(path.rglob("*")) if path.is_dir() else [path]
        for each in below:
            relative = each.relative_to(home)
            # What begins with a dot is half-written; the companions of a database are part of its copy.
            if any(part.startswith(".") for part in relative.parts) or each.name.endswith((".lock", "-wal", "-shm")):
                continue
            if each.is_file() and not each.is_symlink() and (keys or each.suffix != ".pem"):
                found[relative.as_posix()] = each
    return found


def _copy_database(path: Path, copy: Path) -> Path:
    """A copy of a database as it is at one moment, by SQLite's online backup; programs may write to it meanwhile."""
    copy.unlink(missing_ok=True)
    try:
        with (
            contextlib.closing(sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True)) as source,
            contextlib.closing(sqlite3.connect(copy)) as target,
        ):
            source.backup(target)
            target.execute("PRAGMA journal_mode = DELETE")  # one file, whatever the original has beside it
            (sound,) = target.execute("PRAGMA quick_check(1)").fetchone()
        if sound != "ok":
            raise sqlite3.DatabaseError(sound)
    except sqlite3.Error as error:
        raise BrokenFileError(
            "A database cannot be backed up",
            where=path,
            why=error,
            next_step="bring it back from an earlier backup, or move it away to begin an empty one",
        ) from None
    return copy


class _Hashed:
    """A file that is hashed while it is read."""

    def __init__(self, file: BinaryIO):
        self._file, self.digest = file, hashlib.sha256()

    def read(self, size: int = -1, /) -> bytes:
        chunk = self._file.read(size)
        self.digest.update(chunk)
        return chunk


def _add(tar: tarfile.TarFile, name: str, file: BinaryIO, size: int) -> str:
    """Writes a member and gives the hash of its bytes."""
    member, data = tarfile.TarInfo(name), _Hashed(file)
    member.size, member.mode = size, 0o600
    tar.addfile(member, data)
    return data.digest.hexdigest()


@contextlib.contextmanager
def _members(file: Path) -> Iterator[Iterator[tuple[str, io.BufferedReader]]]:
    """The name of each member, and its bytes; what is wrong with the file while they are read is one error."""
    try:
        with tarfile.open(file, "r:") as tar:
            yield _each(file, tar)
    except (tarfile.TarError, EOFError, ValueError, OverflowError) as error:
        raise _refused(file, error) from None
    except FileNotFoundError as error:
        if error.filename != str(file.absolute()):
            raise
        raise BackupError("There is no such backup", where=file, next_step="name a file of `relume backup`") from None


def _each(file: Path, tar: tarfile.TarFile) -> Iterator[tuple[str, io.BufferedReader]]:
    while member := tar.next():
        data = tar.extractfile(member) if member.isreg() else None
        if data is None:
            raise _refused(file, f"{member.name} is no file")
        yield member.name, cast(io.BufferedReader, data)


def _is_safe(name: str) -> bool:
    path = PurePosixPath(name)
    inside = any(path.is_relative_to(place) for place in _KEPT) or bool(_ASIDE.fullmatch(name))
    return inside and ".." not in path.parts and "\0" not in name


def _refused(file: Path, why: object) -> BackupError:
    return BackupError(
        "The file is not a whole backup; nothing was changed", where=file, why=why, next_step="use another"
    )
