"""A SQLite file of the monitoring, which several gateways write to at a time."""

import contextlib
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

from relume.errors import BrokenFileError
from relume.home import private_file

_LOCKED_SECONDS = 2.0


class Database:
    """A file that only its user may read, opened when it is first used.

    Args:
        path: The file.
        table: SQL that makes its tables where they are missing.
    """

    def __init__(self, path: Path, table: str):
        self.path, self._table = path, table
        self._lock = threading.Lock()
        self._open: sqlite3.Connection | None = None

    def close(self) -> None:
        """Closes the database; the next use opens it again."""
        with self._lock:
            self._forget()

    def _forget(self) -> None:
        if self._open is not None:
            self._open.close()
            self._open = None

    @contextlib.contextmanager
    def _database(self) -> Iterator[sqlite3.Connection]:
        """The connection, for one thread at a time; its changes are kept when nothing is raised."""
        with self._lock:
            try:
                if self._open is None:
                    self._open = self._connect()
                with self._open:
                    yield self._open
            except sqlite3.Error as error:
                self._forget()
                raise BrokenFileError(
                    "The database of the monitoring cannot be used",
                    where=self.path,
                    why=error,
                    next_step="remove it if it is damaged; monitoring begins anew",
                ) from None

    def _connect(self) -> sqlite3.Connection:
        private_file(self.path)
        database = sqlite3.connect(self.path, timeout=_LOCKED_SECONDS, check_same_thread=False)
        try:
            database.execute("PRAGMA journal_mode = WAL")  # readers and the writer do not wait for each other
            database.execute("PRAGMA synchronous = NORMAL")  # a loss of power may take the last rows, no more
            database.executescript(self._table)
        except BaseException:
            database.close()
            raise
        return database
