"""The best photographs by several scores at once."""

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from relume.curation.collection import FIGURES, Collection
from relume.curation.records import Records
from relume.curation.settings import KeepBest
from relume.ingestion.ingest import Photograph

_ROWS_AT_ONCE = 1 << 12  # of the table, until they are written

# Of all other scores a low value is good.
_HIGH_IS_GOOD = frozenset({"sharpness", "sharpness_native", "jpeg_quality", "entropy"})


def keep_best(photographs: Collection, rule: KeepBest) -> dict[str, np.ndarray]:
    """Applies a rule to the photographs of each set; what it rejects has the reason `not_best_niqe` and the like.

    Args:
        photographs: All photographs, with the figures of the rule.
        rule: The rule.

    Returns:
        For each score the rank of each photograph in its set, 0 for those that were rejected before.
    """
    ranks: dict[str, np.ndarray] = {score: np.zeros(len(photographs), np.int32) for score in rule.by}
    left = photographs.left()
    left = left[np.argsort(photographs.id[left])]
    for number in range(len(photographs.sets)):
        members = left[photographs.set[left] == number]
        by_score: dict[str, np.ndarray] = {score: rank(score, photographs.figures[score][members]) for score in rule.by}
        judged = by_score
        if rule.joint == "mean_rank" and len(members):
            judged = {"mean_rank": rank("mean_rank", np.mean(list(by_score.values()), axis=0))}
        failed = outside(judged, rule.fraction)
        for position, score in enumerate(judged):
            photographs.reject(members[failed == position], f"not_best_{score}")
        for score, of_all in by_score.items():
            ranks[score][members] = of_all
    return ranks


def write_scores(
    path: Path, manifest: Iterable[Photograph], photographs: Collection, records: Records, ranks: dict[str, np.ndarray]
) -> None:
    """Writes a row for each photograph: its scores, the ranks that `keep_best` returned, and why it was rejected."""
    import pyarrow as pa
    from pyarrow import parquet

    columns = [("image_id", pa.string()), ("set", pa.string())]
    columns += [(name, pa.int64()) for name in ("width", "height", "bit_depth")]
    columns += [(name, pa.float64()) for name in FIGURES]
    columns += [(f"rank_{score}", pa.int64()) for score in ranks] + [("reason", pa.string())]

    def row(position: int, photograph: Photograph) -> dict[str, Any]:
        figures = records.figures(photograph.image_id)[1].tolist()
        found = {name: getattr(photograph, name) for name in ("image_id", "set", "width", "height", "bit_depth")}
        found |= dict(zip(FIGURES, figures, strict=False))
        found |= {f"rank_{score}": int(of_all[position]) or None for score, of_all in ranks.items()}
        return found | {"reason": photographs.reason(position)}

    rows = (row(position, photograph) for position, photograph in enumerate(manifest))
    with parquet.ParquetWriter(path, schema := pa.schema(columns)) as file:
        while some := list(itertools.islice(rows, _ROWS_AT_ONCE)):
            file.write_table(pa.Table.from_pylist(some, schema))


def rank(name: str, values: np.ndarray | Sequence[float]) -> np.ndarray:
    """The rank of each photograph by one score.

    Args:
        name: The score, of `Quality` or `Scores`.
        values: (N,) of the photographs, in an order that decides between equals; NaN is worse than all.

    Returns:
        (N,) whole numbers, 1 is the best.
    """
    badness = np.array(values, np.float64) * (-1 if name in _HIGH_IS_GOOD else 1)
    ranks = np.empty(len(badness), np.int64)
    ranks[np.argsort(badness, kind="stable")] = np.arange(1, len(badness) + 1)
    return ranks


def outside(ranks: Mapping[str, np.ndarray], fraction: float) -> np.ndarray:
    """For each photograph the number of the first score by which it is not among the best, -1 where there is none.

    Args:
        ranks: (N,) for each score.
        fraction: The share of the photographs that are the best, rounded up to whole ones.
    """
    failed = np.stack([of_all > math.ceil(fraction * len(of_all) - 1e-9) for of_all in ranks.values()], axis=1)
    return np.where(failed.any(axis=1), failed.argmax(axis=1), -1)
