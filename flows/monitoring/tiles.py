"""Tiles of production in which two restorations of one image differ most, kept for a next training.

Only of clients who agree to it, and only where the gateway was started for it. The number of tiles and their time are
bounded. There is no clean image of them: `harvest` says which are clean enough to be one.
"""

import csv
import datetime
import time
from dataclasses import dataclass
from pathlib import Path

from flows.monitoring.database import Database
from relume.errors import ConfigError
from relume.files import atomic_folder

TILES = 500  # of each kind: about 100 MB
DAYS = 30
CLEAN_SIGMA = 2.0
"""Noise of the luma, on 0 to 255, up to which a tile is clean: a network learns to keep what its targets have."""
_FIELDS = ("file", "kind", "release", "time", "disagreement", "noise")
_TABLE = """
    CREATE TABLE IF NOT EXISTS tiles (
        id INTEGER PRIMARY KEY, time REAL NOT NULL, kind TEXT NOT NULL, release TEXT NOT NULL,
        disagreement REAL NOT NULL, noise REAL NOT NULL, png BLOB NOT NULL
    );
"""


@dataclass(frozen=True, kw_only=True)
class Tile:
    """A tile of an image that a client sent.

    Attributes:
        kind: What was compared: `orientation`, the image and its mirror image by one release, or `candidate`, the
            champion and a candidate.
        release: That serves.
        disagreement: Root mean square of the difference of the two restorations, on 0 to 255.
        noise: Estimated noise of the tile as it was sent, likewise.
        png: The tile as it was sent.
    """

    kind: str
    release: str
    disagreement: float
    noise: float
    png: bytes


class HardTiles(Database):
    """The tiles of a home.

    Args:
        home: RELUME_HOME.
    """

    def __init__(self, home: Path):
        super().__init__(home / "monitoring" / "tiles.db", _TABLE)

    def add(self, tile: Tile, *, now: float | None = None) -> None:
        """Keeps a tile; of more than `TILES` of its kind the one with the least disagreement goes.

        Args:
            tile: The tile.
            now: Its time; the clock's when None.

        Raises:
            BrokenFileError: The database is damaged, or was locked for seconds.
        """
        moment = time.time() if now is None else now
        with self._database() as database:
            database.execute(
                "INSERT INTO tiles (time, kind, release, disagreement, noise, png) VALUES (?, ?, ?, ?, ?, ?)",
                (moment, tile.kind, tile.release, tile.disagreement, tile.noise, tile.png),
            )
            database.execute(
                "DELETE FROM tiles WHERE kind = ? AND id NOT IN"
                " (SELECT id FROM tiles WHERE kind = ? ORDER BY disagreement DESC, id LIMIT ?)",
                (tile.kind, tile.kind, TILES),
            )
        self.forget(now=moment)

    def forget(self, *, now: float | None = None) -> None:
        """Removes the tiles that are older than `DAYS`.

        Raises:
            BrokenFileError: See `add`.
        """
        if self.path.is_file():
            with self._database() as database:
                oldest = (time.time() if now is None else now) - 86400 * DAYS
                database.execute("DELETE FROM tiles WHERE time < ?", (oldest,))

    def harvest(self, folder: Path) -> tuple[int, int]:
        """Writes the tiles to a new folder: `clean` and `degraded` with images, and `tiles.csv`, the hardest first.

        Args:
            folder: That does not exist yet.

        Returns:
            How many are clean, and how many degraded.

        Raises:
            ConfigError: The folder is there.
            BrokenFileError: See `add`.
        """
        if folder.exists():
            raise ConfigError("The folder is there already", where=folder, next_step="name a new one")
        rows = []
        if self.path.is_file():
            self.forget()
            with self._database() as database:
                rows = database.execute(
                    "SELECT id, time, kind, release, disagreement, noise, png FROM tiles ORDER BY disagreement DESC, id"
                ).fetchall()
        counts = {"clean": 0, "degraded": 0}
        with (
            atomic_folder(folder) as temporary,
            open(temporary / "tiles.csv", "w", encoding="utf-8", newline="") as table,
        ):
            for name in counts:
                (temporary / name).mkdir()
            writer = csv.writer(table)
            writer.writerow(_FIELDS)
            for number, moment, kind, release, disagreement, noise, png in rows:
                place = "clean" if noise <= CLEAN_SIGMA else "degraded"
                file = f"{place}/{kind}-{number:06d}.png"
                (temporary / file).write_bytes(png)
                when = datetime.datetime.fromtimestamp(moment, datetime.UTC).isoformat(timespec="seconds")
                writer.writerow([file, kind, release, when, f"{disagreement:.4g}", f"{noise:.4g}"])
                counts[place] += 1
        return counts["clean"], counts["degraded"]
