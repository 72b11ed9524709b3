"""The schema of a home: what its files mean. A home of an earlier relume is upgraded; one of a later is refused."""

import os
from pathlib import Path

from filelock import FileLock

from flows.release.ledger import Ledger
from relume.errors import ConfigError
from relume.files import write_json
from relume.home import private_home
from relume.reading import read_as

SCHEMA = 2
"""1: no file states it, and the ledger alone says how long it is. 2: the ledger's head says it as well, always."""
_STATED = "home.json"


def open_home(home: Path) -> None:
    """Makes a home usable by this relume before something is written to it.

    Raises:
        ConfigError: A newer relume wrote it, or its path has a character that other programs take for one of theirs.
        LedgerError: It is to be upgraded, and its ledger is broken.
        StorageError: The disk refuses it.
    """
    private_home(home)
    refuse_newer(home)
    if schema_of(home) == SCHEMA:
        return
    with FileLock(home / "upgrade.lock"):
        Ledger(home).keep_head()
        write_json(home / _STATED, {"schema": SCHEMA})  # last: an upgrade that was cut short is done again


def refuse_newer(home: Path) -> None:
    """Refuses a home that a newer relume wrote, before anything reads it wrongly.

    Raises:
        ConfigError: It is one.
        BrokenFileError: What states its schema is damaged.
    """
    require_known(schema_of(home), home)


def require_known(schema: int, where: object) -> None:
    """Refuses a schema that is newer than `SCHEMA`.

    Args:
        schema: Of a home, or of a backup of one.
        where: Which, for the message.

    Raises:
        ConfigError: It is newer.
    """
    if schema > SCHEMA:
        raise ConfigError(
            "A newer relume wrote this; nothing was changed",
            where=where,
            why=f"its schema is {schema}, and this relume knows {SCHEMA} and earlier ones",
            next_step="update relume, or set RELUME_HOME to another folder",
        )


def schema_of(home: Path) -> int:
    """The schema of a home; 1 where it states none.

    Raises:
        BrokenFileError: What states it is damaged.
    """
    path = home / _STATED
    if not os.path.lexists(path):
        return 1
    return read_as(dict[str, int], path, next_step="restore it from a backup, or remove it").get("schema", 1)
