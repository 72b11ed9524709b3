"""The folder of all local state: git ignores it, and the driver passes it to the stages as RELUME_HOME."""

import contextlib
import json
import os
import shlex
import sqlite3
import stat
from pathlib import Path
from urllib.parse import quote, unquote

from relume.errors import BrokenFileError, ConfigError, RelumeError
from relume.files import storing, write_json

_LOCKED_SECONDS = 5.0  # after which a database counts as locked; writers hold theirs for milliseconds


def relume_home(root: str | Path = ".") -> Path:
    """The folder of all local state, for entry points to read; what they call is given it.

    Args:
        root: The checkout.

    Returns:
        RELUME_HOME, or `.relume` in the checkout, as an absolute path. It is not created here.
    """
    return Path(os.environ.get("RELUME_HOME") or Path(root) / ".relume").resolve()


def private_home(home: Path) -> None:
    """Makes the home a folder that only its user may enter: it has databases, logs and keys.

    A home of another user is left as it is.

    Raises:
        ConfigError: Its path has a character that other programs take for one of theirs.
        StorageError: The disk refuses it.
    """
    require_usable(home, next_step="set RELUME_HOME to another folder")
    with storing(home):
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        _for_its_user(home, 0o700)


def private_file(path: Path) -> None:
    """Makes a file that only its user may read, empty when it is not there, as databases take one.

    Raises:
        StorageError: The disk refuses it.
    """
    with storing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600)
        _for_its_user(path, 0o600)


def _for_its_user(path: Path, mode: int) -> None:
    found = path.stat()
    if found.st_uid == os.geteuid() and stat.S_IMODE(found.st_mode) != mode:
        path.chmod(mode)


def require_usable(folder: Path, *, next_step: str) -> None:
    """Refuses a path with a colon, which divides paths in PATH, or a line break, which divides them in git's files.

    Args:
        folder: The home or the checkout.
        next_step: What the user can do about it.

    Raises:
        ConfigError: It has one; the message names it.
    """
    for character, name in ((":", "a colon"), ("\n", "a line break")):
        if character in str(folder):
            raise ConfigError(
                f"The path of the folder has {name}",
                where=repr(str(folder)),
                why=f"{character!r} separates paths for other programs",
                next_step=next_step,
            )


def tracking_uri(home: Path) -> str:
    """The address of MLflow's tracking store: MLFLOW_TRACKING_URI, or SQLite in the home.

    A path in it is made absolute, for the stages, whose current folder is another one.
    """
    address = os.environ.get("MLFLOW_TRACKING_URI") or sqlite_address(home / "mlflow" / "mlflow.db")
    if (database := sqlite_file(address)) and not database.is_absolute():
        return sqlite_address(database.absolute())
    return address if ":" in address or address == "databricks" else str(Path(address).absolute())


def sqlite_address(path: Path, driver: str = "sqlite") -> str:
    """SQLAlchemy's address of a SQLite file.

    In a plain path a question mark begins the options. SQLite itself decodes the form that begins with `file:`; the
    slashes are encoded there too, since MLflow makes the folder that the address seems to be in.

    Args:
        path: An absolute path.
        driver: SQLAlchemy's name of the dialect and driver.
    """
    plain = str(path)
    return f"{driver}:///" + (f"file:{quote(plain, safe='')}?uri=true" if "?" in plain or "%" in plain else plain)


def require_database(path: Path, owner: str) -> None:
    """Refuses a SQLite file that is damaged or locked, before programs that wait for it for minutes.

    Args:
        path: The file; an empty one, or none, is no fault.
        owner: Whose it is, for the message.

    Raises:
        BrokenFileError: It cannot be used; the message says why.
    """
    if not os.path.lexists(path):
        return
    try:
        with contextlib.closing(sqlite3.connect(path, timeout=_LOCKED_SECONDS)) as database:
            database.execute("BEGIN IMMEDIATE")
            database.execute("SELECT name FROM sqlite_master").fetchall()
    except sqlite3.Error as error:
        locked = getattr(error, "sqlite_errorcode", 0) & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
        raise BrokenFileError(
            f"{owner}'s database is locked by another program" if locked else f"{owner}'s database cannot be used",
            where=path,
            why=error,
            next_step=f"end that program (`fuser {shlex.quote(str(path))}` names it), then try again"
            if locked
            else "restore it from a backup, or move it aside to begin an empty one; if the disk is full, free some"
            " space",
        ) from error


def sqlite_file(address: str) -> Path | None:
    """The file of a SQLite address, None for an address of another kind."""
    scheme, found, path = address.partition(":///")
    if not found or scheme != "sqlite":
        return None
    plain, _, options = path.partition("?")
    return Path(unquote(plain.removeprefix("file:")) if "uri=true" in options else plain)


def remember_release(root: Path, home: Path) -> None:
    """Writes down for this user where the last release was, so that it restores from any folder.

    A user whose state cannot be kept, such as one without a home folder, goes without.
    """
    with contextlib.suppress(OSError, RuntimeError, RelumeError):
        write_json(_last_release(), {"root": str(root.resolve()), "home": str(home.resolve())})


def place_of_release(root: Path) -> tuple[Path, Path]:
    """The checkout and the home whose releases restore: those of a folder, else those of this user's last release.

    Args:
        root: The current folder. Its home counts when RELUME_HOME names it or it is there.
    """
    own = root.resolve(), relume_home(root)
    try:
        value = json.loads(_last_release().read_text(encoding="utf-8"))
        last = Path(value["root"]), Path(value["home"])
    except (OSError, RuntimeError, ValueError, KeyError, TypeError):
        return own
    if os.environ.get("RELUME_HOME") or own[1].is_dir():
        return last if last[1] == own[1] else own
    return last if last[1].is_dir() else own


def _last_release() -> Path:
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(state) / "relume" / "last_release.json"
