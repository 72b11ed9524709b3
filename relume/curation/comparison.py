"""What a version of the curated data holds, and what changed between two."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from relume.reading import read_table, reading

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
_SCORES = ("sharpness", "noise_sigma", "flat_fraction")
_COLUMNS = {"image_id": str, "set": str, "address": str, "split": str, "reason": str} | dict.fromkeys(_SCORES, float)
_FETCH = "run `dvc fetch`, or `dvc repro --force curate`"


@dataclass(frozen=True, kw_only=True)
class CuratedTables:
    """The tables of a version of the curated data.

    Attributes:
        addresses: Of each photograph by its id.
        sides: Of each photograph by its id: `train`, `validation`, `test`, or why it was rejected.
        sets: The number of photographs of each set.
        patches: The number of training patches.
        scores: The values of each score over the photographs that were measured by it, sorted.
    """

    addresses: Mapping[str, str]
    sides: Mapping[str, str]
    sets: Mapping[str, int]
    patches: int
    scores: Mapping[str, np.ndarray]

    @property
    def counts(self) -> dict[str, int]:
        """The number of photographs on each side, and by each reason."""
        counted = Counter(self.sides.values())
        first = [side for side in ("train", "validation", "test") if side in counted]
        return {side: counted[side] for side in (*first, *sorted(counted.keys() - first))}


@dataclass(frozen=True, kw_only=True)
class Shift:
    """How the distribution of a score changed.

    Attributes:
        before: Its quantiles, of `QUANTILES`.
        after: The same now.
        distance: Of Kolmogorov and Smirnov: the largest difference of the two distribution functions, 0 to 1.
    """

    before: tuple[float, ...]
    after: tuple[float, ...]
    distance: float


@dataclass(frozen=True, kw_only=True)
class DataChange:
    """What changed from one version to another.

    Attributes:
        counts: Before and after, by side, by reason, and of `patches`.
        added: Addresses of photographs that are new, by their bytes.
        removed: Addresses of those that are gone.
        moved: Those that are in both on another side or with another reason: address, before, after.
        shifts: Of each score that both have.
    """

    counts: Mapping[str, tuple[int, int]]
    added: tuple[str, ...]
    removed: tuple[str, ...]
    moved: tuple[tuple[str, str, str], ...]
    shifts: Mapping[str, Shift]

    def __bool__(self) -> bool:
        return bool(self.added or self.removed or self.moved or any(a != b for a, b in self.counts.values()))


def read_curated_tables(files: Mapping[str, Path]) -> CuratedTables:
    """Reads the tables of a curated folder.

    Args:
        files: Where each is, by its name in the folder: `images.csv`, `patches.parquet` and, where a rule had further
            scores, `scores.parquet`.

    Raises:
        BrokenFileError: One is missing or damaged.
    """
    import pyarrow.parquet

    rows = read_table(files["images.csv"], _COLUMNS, next_step=_FETCH)
    scores = {name: np.sort([row[name] for row in rows]) for name in _SCORES}
    with reading(files["patches.parquet"], next_step=_FETCH):
        patches = pyarrow.parquet.ParquetFile(files["patches.parquet"]).metadata.num_rows
    if path := files.get("scores.parquet"):
        with reading(path, next_step=_FETCH):
            table = pyarrow.parquet.read_table(path)
            for field in table.schema:
                if pyarrow.types.is_floating(field.type) and not field.name.startswith("rank"):
                    values = table.column(field.name).to_numpy()
                    scores[field.name] = np.sort(values[np.isfinite(values)])
    return CuratedTables(
        addresses={row["image_id"]: row["address"] for row in rows},
        sides={row["image_id"]: row["reason"] or row["split"] for row in rows},
        sets=dict(sorted(Counter(row["set"] for row in rows).items())),
        patches=patches,
        scores={name: values for name, values in scores.items() if len(values)},
    )


def compare(before: CuratedTables, after: CuratedTables) -> DataChange:
    """What changed. Photographs are the same when their bytes are, wherever they lie."""
    from scipy.stats import ks_2samp

    old, new = before.sides, after.sides
    counts = {
        name: (before.counts.get(name, 0), after.counts.get(name, 0)) for name in {**after.counts, **before.counts}
    }
    return DataChange(
        counts={**counts, "patches": (before.patches, after.patches)},
        added=tuple(sorted(after.addresses[name] for name in new.keys() - old.keys())),
        removed=tuple(sorted(before.addresses[name] for name in old.keys() - new.keys())),
        moved=tuple(
            sorted(
                (after.addresses[name], old[name], new[name]) for name in old if new.get(name, old[name]) != old[name]
            )
        ),
        shifts={
            name: Shift(
                before=quantiles(values),
                after=quantiles(after.scores[name]),
                distance=float(ks_2samp(values, after.scores[name], method="asymp").statistic),
            )
            for name, values in before.scores.items()
            if name in after.scores
        },
    )


def quantiles(values: np.ndarray) -> tuple[float, ...]:
    """The quantiles of a score that people are shown."""
    return tuple(float(value) for value in np.quantile(values, QUANTILES))
