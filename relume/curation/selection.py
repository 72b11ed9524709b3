"""The best photographs by several scores at once."""

import math
from collections.abc import Mapping, Sequence

import numpy as np

# Of all other scores a low value is good.
_HIGH_IS_GOOD = frozenset({"sharpness", "sharpness_native", "jpeg_quality", "entropy"})


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
