"""The medians of the scores that passed before, kept in the home: `validate` compares new data with them by itself."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

from relume.curation.settings import ScoreName
from relume.files import sha256_file, write_json
from relume.reading import read_as

# By the name of a score: the quartiles, between which half of the values lie.
Halves = Mapping[str, tuple[float, float]]


def middle_halves(tables: Mapping[str, Any]) -> dict[str, tuple[float, float]]:
    """The quartiles of each score over the photographs that have it.

    Args:
        tables: Frames `images` and, where a rule had further scores, `scores`, with a column for each score.
    """
    columns = {
        name: tables[table][name]
        for table in ("scores", "images")
        if table in tables
        for name in get_args(ScoreName)
        if name in tables[table]
    }
    values = {name: column.dropna() for name, column in columns.items()}
    return {
        name: (float(column.quantile(0.25)), float(column.quantile(0.75)))
        for name, column in values.items()
        if len(column)
    }


class EarlierVersions:
    """The last two versions of the data that met all critical expectations.

    Args:
        path: A file of JSON in the home, which need not be there.
    """

    def __init__(self, path: Path):
        self._path = path

    def before(self, curated: Path) -> Halves:
        """Of the last version that is another than this one; nothing when there is none."""
        now = sha256_file(curated / "images.csv")
        return next((halves for version, halves in reversed(self._versions()) if version != now), {})

    def passed(self, curated: Path, halves: Halves) -> None:
        """Records that this version met the expectations."""
        now = sha256_file(curated / "images.csv")
        others = [(version, kept) for version, kept in self._versions() if version != now]
        write_json(self._path, [*others[-1:], (now, halves)])

    def _versions(self) -> list[tuple[str, Halves]]:
        if not self._path.is_file():
            return []
        return read_as(
            list[tuple[str, Halves]],
            self._path,
            next_step=f"remove {self._path}; it is made anew",
        )
