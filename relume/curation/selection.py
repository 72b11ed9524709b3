"""The best photographs by several scores at once."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from relume.curation.measuring import Measured
from relume.curation.scores import Scores
from relume.curation.settings import KeepBest

# Of all other scores a low value is good.
_HIGH_IS_GOOD = frozenset({"sharpness", "sharpness_native", "jpeg_quality", "entropy"})


def keep_best(measured: Sequence[Measured], reasons: dict[str, str], rule: KeepBest) -> dict[str, dict[str, int]]:
    """Applies a rule to the photographs of each set.

    Args:
        measured: All photographs.
        reasons: Why each is rejected, by image_id; what the rule rejects is entered as `not_best_niqe` and the like.
        rule: The rule.

    Returns:
        For each photograph that was not rejected before its ranks, such as `rank_niqe`.
    """
    ranks: dict[str, dict[str, int]] = {}
    left = sorted((item for item in measured if not item.reason), key=lambda item: item.image_id)
    for of_set in {item.photograph.set for item in left}:
        names = [item.image_id for item in left if item.photograph.set == of_set]
        figures = [item.figures for item in left if item.photograph.set == of_set]
        by_score: dict[str, np.ndarray] = {
            score: rank(score, [of_one[score] for of_one in figures]) for score in rule.by
        }
        judged = by_score
        if rule.joint == "mean_rank":
            judged = {"mean_rank": rank("mean_rank", list(np.mean(list(by_score.values()), axis=0)))}
        for position, (name, score) in enumerate(zip(names, outside(judged, rule.fraction), strict=True)):
            ranks[name] = {f"rank_{score}": int(of_all[position]) for score, of_all in by_score.items()}
            reasons[name] = score and f"not_best_{score}"
    return ranks


def write_scores(
    path: Path, measured: Sequence[Measured], ranks: dict[str, dict[str, int]], reasons: dict[str, str]
) -> None:
    """Writes a row for each photograph: its scores, the ranks that `keep_best` returned, and why it was rejected."""
    import pyarrow
    from pyarrow import parquet

    unranked: dict[str, Any] = dict.fromkeys(next(iter(ranks.values()), {}))
    further: dict[str, Any] = dict.fromkeys(field.name for field in fields(Scores))
    rows = []
    for item in measured:
        photograph = item.photograph
        file = {name: getattr(photograph, name) for name in ("image_id", "set", "width", "height", "bit_depth")}
        name = item.image_id
        rows.append(file | further | item.figures | unranked | ranks.get(name, {}) | {"reason": reasons[name]})
    parquet.write_table(pyarrow.Table.from_pylist(rows), path)


def rank(name: str, values: Sequence[float]) -> np.ndarray:
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


def outside(ranks: Mapping[str, np.ndarray], fraction: float) -> list[str]:
    """For each photograph the first score by which it is not among the best; empty where it is among them by all.

    Args:
        ranks: (N,) for each score.
        fraction: The share of the photographs that are the best, rounded up to whole ones.
    """
    names = list(ranks)
    failed = np.stack([ranks[name] > math.ceil(fraction * len(ranks[name]) - 1e-9) for name in names], axis=1)
    return [names[row.argmax()] if row.any() else "" for row in failed]
