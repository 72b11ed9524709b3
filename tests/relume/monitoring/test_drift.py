"""How often the test of a change is wrong, and how soon it is right, by simulated traffic."""

import numpy as np
import pytest

from relume.monitoring.drift import compare, limit_of_p
from relume.monitoring.statistics import NAMES

LIMIT = limit_of_p(0.01, window_minutes=60, statistics=len(NAMES))


def traffic(rng, requests, *, louder=1.0):
    """Statistics as requests have them: skewed, positive, some of them equal to 0."""
    values = {name: rng.lognormal(1.0, 0.6, requests) for name in NAMES}
    values["clipped"] = np.where(rng.random(requests) < 0.6, 0.0, rng.beta(1, 50, requests))
    values["noise"] = values["noise"] * louder
    return values


def test_the_limit_is_shared_by_all_tests_of_a_day():
    """24 windows of an hour and six statistics, and no less than one window a day."""
    assert pytest.approx(0.01 / (24 * 6)) == LIMIT
    assert limit_of_p(0.01, window_minutes=7 * 24 * 60, statistics=6) == pytest.approx(0.01 / 6)


def test_false_alarms_are_rarer_than_is_asked_for():
    """Of 30 simulated days without a change, each with 24 windows, the share with an alarm is within the bound.

    With a true rate of 1 %, more than 2 alarms in 30 days have a probability of 0.3 %.
    """
    rng, alarms = np.random.default_rng(5), 0
    for _ in range(30):
        reference = traffic(rng, 500)
        windows = (compare(reference, traffic(rng, 60), limit=LIMIT) for _ in range(24))
        alarms += any(comparison.changed for window in windows for comparison in window)
    assert alarms <= 2


def test_a_shift_of_practical_size_is_found_in_an_hour():
    """Twice the noise, in 60 requests, is found at once in 19 of 20 hours at least; and only the noise is named."""
    rng, found = np.random.default_rng(6), 0
    for _ in range(40):
        window = compare(traffic(rng, 500), traffic(rng, 60, louder=2.0), limit=LIMIT)
        found += [comparison.statistic for comparison in window if comparison.changed] == ["noise"]
    assert found >= 38


def test_the_distance_is_that_of_the_distribution_functions():
    """Against its definition, counted point by point; and the medians are those of numpy."""
    rng = np.random.default_rng(7)
    before, after = rng.normal(0, 1, 41), rng.normal(0.7, 1.3, 30)
    points = np.concatenate([before, after])
    distance = max(abs(np.mean(before <= point) - np.mean(after <= point)) for point in points)
    (found,) = compare({"noise": before}, {"noise": after}, limit=0.5)
    assert (found.statistic, found.distance) == ("noise", pytest.approx(distance))
    assert (found.reference, found.window) == (np.median(before), np.median(after))
