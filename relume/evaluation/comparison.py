"""Two systems on the same images: the mean difference with its confidence interval, wins, best and worst cases."""

import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import NormalDist
from typing import Literal

import numpy as np

RESAMPLES = 10_000
CONFIDENCE = 0.95
CASES = 3  # best and worst, kept as images
FEWEST = 5  # images; from fewer, resampling gives no interval
BLOCK = 2**20  # draws at a time, which bounds the memory


def bootstrap_interval(
    differences: Sequence[float],
    *,
    method: Literal["bca", "percentile"] = "bca",
    confidence: float = CONFIDENCE,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> tuple[float, float]:
    """The confidence interval of the mean by resampling images.

    Args:
        differences: One for each image, two at least.
        method: `bca` corrects the percentiles for bias and skewness.
        confidence: Of the two-sided interval.
        resamples: Drawn with replacement.
        seed: Of the draws.

    Returns:
        Lower and upper end; the mean itself, twice, when all differences are equal.

    Source: Efron and Tibshirani, "An introduction to the bootstrap", 1993: eq. 13.5 (percentile), 14.9 to 14.15 (BCa).
    """
    values = np.asarray(differences, dtype=np.float64)
    if np.ptp(values) == 0:
        return float(values[0]), float(values[0])
    rng, rows = np.random.default_rng(seed), max(1, BLOCK // len(values))
    means = np.empty(resamples)
    for start in range(0, resamples, rows):
        block = means[start : start + rows]
        block[:] = values[rng.integers(0, len(values), (len(block), len(values)))].mean(axis=1)
    levels = [(1 - confidence) / 2, (1 + confidence) / 2]
    if method == "bca":
        normal, mean = NormalDist(), values.mean()
        below = ((means < mean).mean() + (means <= mean).mean()) / 2
        bias = normal.inv_cdf(float(np.clip(below, 1 / resamples, 1 - 1 / resamples)))
        # Leaving image i out moves the mean by (mean - value) / (n - 1), which the jackknife's ratio cancels.
        influence = values - mean
        acceleration = (influence**3).sum() / (6 * (influence**2).sum() ** 1.5)
        for end, level in enumerate(levels):
            z = bias + normal.inv_cdf(level)
            levels[end] = normal.cdf(bias + z / (1 - acceleration * z))
    low, high = np.percentile(means, [100 * level for level in levels])
    return float(low), float(high)


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A system against another on one set under one protocol at one level.

    Attributes:
        set: Name of the set.
        protocol: Name of the protocol.
        level: Of the protocol's parameter; None for one without.
        first: The system that is compared with.
        second: The system whose gain this is.
        images: How many images.
        gain: Mean PSNR of the second minus that of the first, in dB.
        low: Lower end of the gain's 95 % confidence interval; None with fewer than five images.
        high: Upper end.
        wins: Images on which the second is better.
        losses: Images on which it is worse; the others are ties.
        best: Image of the largest gain.
        worst: Image of the smallest gain.
    """

    set: str
    protocol: str
    level: float | None
    first: str
    second: str
    images: int
    gain: float
    low: float | None
    high: float | None
    wins: int
    losses: int
    best: str
    worst: str


def compare(gains: dict[str, float], *, seed: int = 0, **where: object) -> Comparison:
    """Summarises the gains of a second system over a first.

    Args:
        gains: PSNR difference in dB by image.
        seed: Of the bootstrap.
        where: `set`, `protocol`, `level`, `first` and `second` of the comparison.
    """
    values = list(gains.values())
    low, high = bootstrap_interval(values, seed=seed) if len(values) >= FEWEST else (None, None)
    return Comparison(
        images=len(values),
        gain=math.fsum(values) / len(values),
        low=low,
        high=high,
        wins=sum(value > 0 for value in values),
        losses=sum(value < 0 for value in values),
        best=max(gains, key=gains.__getitem__),
        worst=min(gains, key=gains.__getitem__),
        **where,  # type: ignore[arg-type]
    )


@dataclass
class Cases:
    """Keeps the images of the largest and the smallest gains of a run, no others.

    Args:
        count: How many of each.
    """

    count: int = CASES
    best: list[tuple[float, str, np.ndarray]] = field(default_factory=list)
    worst: list[tuple[float, str, np.ndarray]] = field(default_factory=list)

    def add(self, gain: float, image: str, sheet: np.ndarray) -> None:
        """Offers an image."""
        case = (gain, image, sheet)
        self.best = heapq.nlargest(self.count, [*self.best, case], key=lambda kept: kept[0])
        self.worst = heapq.nsmallest(self.count, [*self.worst, case], key=lambda kept: kept[0])


def sheet(images: Sequence[np.ndarray]) -> np.ndarray:
    """Images of one size, uint8 (H, W, 1 or 3), side by side as RGB with four white pixels between them."""
    height = images[0].shape[0]
    parts: list[np.ndarray] = []
    for image in images:
        parts += [np.full((height, 4, 3), 255, np.uint8), np.broadcast_to(image, (*image.shape[:2], 3))]
    return np.concatenate(parts[1:], axis=1)
