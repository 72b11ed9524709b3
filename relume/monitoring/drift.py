"""Whether two sets of requests differ: a two-sample test of each statistic, with a bounded rate of false alarms.

Source: the Kolmogorov-Smirnov test, and Bonferroni's bound for many tests.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

_DAY_MINUTES = 24 * 60


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One statistic of a window beside that of the reference.

    Attributes:
        statistic: Its name.
        reference: Median of the reference.
        window: Median of the window.
        distance: The largest difference of their distribution functions, 0 to 1.
        p: Probability of such a distance or a larger one between requests of one kind.
        changed: Whether `p` is below the limit.
    """

    statistic: str
    reference: float
    window: float
    distance: float
    p: float
    changed: bool


def limit_of_p(false_alarms_per_day: float, *, window_minutes: float, statistics: int) -> float:
    """The `p` below which one statistic of one window gives an alarm.

    Args:
        false_alarms_per_day: Largest probability of an alarm on a day without any change.
        window_minutes: Length of a window; so often the test is made.
        statistics: How many there are.
    """
    return false_alarms_per_day / (max(1.0, _DAY_MINUTES / window_minutes) * statistics)


def compare(reference: Mapping[str, np.ndarray], window: Mapping[str, np.ndarray], *, limit: float) -> list[Comparison]:
    """Compares the requests of a window with those of the reference, statistic by statistic.

    Args:
        reference: By name, (M,) values.
        window: By the same names, (N,) values.
        limit: See `limit_of_p`.
    """
    from scipy.stats import ks_2samp

    comparisons = []
    for name, before in reference.items():
        found = ks_2samp(before, window[name])
        comparisons.append(
            Comparison(
                statistic=name,
                reference=float(np.median(before)),
                window=float(np.median(window[name])),
                distance=float(found.statistic),
                p=float(found.pvalue),
                changed=bool(found.pvalue < limit),
            )
        )
    return comparisons
