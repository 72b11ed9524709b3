"""The requests of the gateway, a row of numbers for each, in SQLite in the home; never an image or its name.

Several gateways may write at a time. The number of rows is bounded: the first of each release, which its later ones are
compared with, and the latest of all.
"""

import time
from dataclasses import asdict
from pathlib import Path

import numpy as np

from flows.monitoring.database import Database
from relume.monitoring.statistics import NAMES, Statistics

ROWS = 200_000  # the latest, about 25 MB
FIRST = 5_000  # of each release
_TIDY_EVERY = 1_000  # rows of a release

_TABLE = f"""
    CREATE TABLE IF NOT EXISTS requests (
        id INTEGER PRIMARY KEY, time REAL NOT NULL, release TEXT NOT NULL, number INTEGER NOT NULL,
        {", ".join(f"{name} REAL NOT NULL" for name in NAMES)}
    );
    CREATE UNIQUE INDEX IF NOT EXISTS numbers ON requests (release, number);
    CREATE TABLE IF NOT EXISTS failures (time REAL NOT NULL, release TEXT NOT NULL);
    CREATE TABLE IF NOT EXISTS shadows (
        time REAL NOT NULL, release TEXT NOT NULL, psnr REAL NOT NULL, slower REAL NOT NULL
    );
"""


class Requests(Database):
    """The requests of a home.

    Args:
        home: RELUME_HOME.
    """

    def __init__(self, home: Path):
        super().__init__(home / "monitoring" / "requests.db", _TABLE)

    def add(self, release: str, statistics: Statistics, *, now: float | None = None) -> None:
        """Adds a request.

        Args:
            release: That answered it.
            statistics: Of it.
            now: Its time; the clock's when None.

        Raises:
            BrokenFileError: The database is damaged, or was locked for longer than a request may wait.
        """
        values = {"time": time.time() if now is None else now, "release": release, **asdict(statistics)}
        with self._database() as database:
            (number,) = database.execute(
                f"INSERT INTO requests (number, {', '.join(values)}) SELECT COALESCE(MAX(number), 0) + 1,"
                f" {', '.join(f':{name}' for name in values)} FROM requests WHERE release = :release RETURNING number",
                values,
            ).fetchone()
            if number % _TIDY_EVERY == 0:
                database.execute(
                    "DELETE FROM requests WHERE id <= (SELECT MAX(id) FROM requests) - ? AND number > ?", (ROWS, FIRST)
                )

    def add_failure(self, release: str) -> None:
        """Notes that a release could not restore an image.

        Raises:
            BrokenFileError: See `add`.
        """
        with self._database() as database:
            database.execute("INSERT INTO failures VALUES (?, ?)", (time.time(), release))
            database.execute("DELETE FROM failures WHERE rowid <= (SELECT MAX(rowid) FROM failures) - ?", (ROWS,))

    def add_shadow(self, release: str, *, psnr: float, slower: float) -> None:
        """Notes how a candidate restored an image that the champion restored for a client.

        Args:
            release: The candidate.
            psnr: Between the two results, in dB.
            slower: Its time over the champion's.

        Raises:
            BrokenFileError: See `add`.
        """
        with self._database() as database:
            database.execute("INSERT INTO shadows VALUES (?, ?, ?, ?)", (time.time(), release, psnr, slower))
            database.execute("DELETE FROM shadows WHERE rowid <= (SELECT MAX(rowid) FROM shadows) - ?", (ROWS,))

    def failures(self, release: str, since: float) -> int:
        """How many images a release could not restore since a time."""
        with self._database() as database:
            return database.execute(
                "SELECT COUNT(*) FROM failures WHERE release = ? AND time >= ?", (release, since)
            ).fetchone()[0]

    def shadows(self, release: str, since: float) -> dict[str, np.ndarray]:
        """What `add_shadow` noted of a release since a time: by name, as many values."""
        with self._database() as database:
            rows = database.execute(
                "SELECT psnr, slower FROM shadows WHERE release = ? AND time >= ?", (release, since)
            ).fetchall()
        return dict(zip(("psnr", "slower"), np.array(rows, float).reshape(-1, 2).T, strict=True))

    def first(self, release: str, count: int) -> dict[str, np.ndarray]:
        """The first requests that a release answered: by statistic, as many values, `count` at most."""
        return self._values("release = ? AND number <= ?", release, count)

    def later(self, release: str, count: int, since: float) -> dict[str, np.ndarray]:
        """The requests of a release since a time, without its first `count`: by statistic, as many values."""
        return self._values("release = ? AND number > ? AND time >= ?", release, count, since)

    def _values(self, condition: str, *parameters: object) -> dict[str, np.ndarray]:
        if not self.path.is_file():
            return {name: np.empty(0) for name in NAMES}
        with self._database() as database:
            found = database.execute(
                f"SELECT {', '.join(NAMES)} FROM requests WHERE {condition} ORDER BY number", parameters
            ).fetchall()
        return dict(zip(NAMES, np.array(found, float).reshape(-1, len(NAMES)).T, strict=True))
