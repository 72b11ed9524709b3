"""Paired comparison: the interval against SciPy and by its coverage, wins, and the cases that are kept."""

import tracemalloc

import numpy as np
import pytest
import scipy.stats

from relume.evaluation.comparison import Cases, bootstrap_interval, compare, sheet

GAINS = np.random.default_rng(4).exponential(0.3, 24) - 0.1
WHERE = {"set": "s", "protocol": "awgn", "level": 25.0, "first": "a", "second": "b"}


@pytest.mark.parametrize("method", ["bca", "percentile"])
@pytest.mark.parametrize("confidence", [0.95, 0.8])
def test_the_interval_equals_scipy(method, confidence):
    """With the same draws the ends are the same, on skewed differences."""
    expected = scipy.stats.bootstrap(
        (GAINS,),
        np.mean,
        confidence_level=confidence,
        n_resamples=2000,
        method=method,
        rng=np.random.default_rng(9),
    ).confidence_interval
    found = bootstrap_interval(GAINS, method=method, confidence=confidence, resamples=2000, seed=9)
    assert found == pytest.approx((expected.low, expected.high), rel=1e-9)


@pytest.mark.parametrize("images", [7, 1000, 2001])
def test_blocks_draw_the_same_numbers_in_bounded_memory(images):
    """The ends are, to the bit, those of all draws at once, which for 2001 images would take 320 MB."""
    values = np.random.default_rng(2).normal(0.1, 1, images)
    draws = np.random.default_rng(5).integers(0, images, (10_000, images))
    low, high = np.percentile(values[draws].mean(axis=1), [100 * (1 - 0.95) / 2, 100 * (1 + 0.95) / 2])
    del draws
    tracemalloc.start()
    found = bootstrap_interval(values, method="percentile", seed=5)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found == (low, high)
    assert peak < 40e6


@pytest.mark.parametrize("method", ["bca", "percentile"])
def test_the_interval_covers_the_truth(method):
    """Of 400 sets of 40 images the true gain lies inside of about 95 %."""
    rng = np.random.default_rng(1)
    covered = 0
    for _ in range(400):
        low, high = bootstrap_interval(rng.normal(0.2, 0.5, 40), method=method, resamples=500)
        covered += low <= 0.2 <= high
    assert 0.91 <= covered / 400 <= 0.975


def test_equal_differences_have_no_width():
    """Two systems that differ by a constant, or not at all."""
    assert bootstrap_interval([0.25] * 6) == (0.25, 0.25)


def test_a_comparison_counts():
    """Mean, wins, losses, ties and the extreme images; from fewer than five images there is no interval."""
    gains = {"p": 0.5, "q": -0.25, "r": 0.0, "s": 0.75, "t": 0.25}
    found = compare(gains, **WHERE)
    assert (found.images, found.gain, found.wins, found.losses) == (5, 0.25, 3, 1)
    assert (found.best, found.worst) == ("s", "q")
    assert found.low < 0.25 < found.high
    few = compare(dict(list(gains.items())[:4]), **WHERE)
    assert (few.low, few.high) == (None, None)


def test_the_extreme_cases_are_kept():
    """The same as sorting all of them, best first and worst first."""
    cases = Cases(count=3)
    for number, gain in enumerate(GAINS):
        cases.add(gain, str(number), np.zeros((1, 1, 3), np.uint8))
    order = [str(number) for number in np.argsort(GAINS)]
    assert [image for _, image, _ in cases.worst] == order[:3]
    assert [image for _, image, _ in cases.best] == order[:-4:-1]


def test_a_sheet_shows_the_images_in_their_order():
    """Side by side with white between; gray becomes RGB."""
    images = [np.full((5, 7, 1), 10, np.uint8), np.full((5, 7, 3), 20, np.uint8)]
    whole = sheet(images)
    assert whole.shape == (5, 18, 3)
    assert (whole[:, :7] == 10).all()
    assert (whole[:, 7:11] == 255).all()
    assert (whole[:, 11:] == 20).all()
