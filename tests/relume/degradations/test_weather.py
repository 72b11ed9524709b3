"""Rain and haze against their models in closed form."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from relume.degradations import add_haze, add_rain, counter_rng, smooth_depth


def test_haze_of_a_known_depth_is_the_scattering_model():
    """I = J t + A (1 - t): the clean image at depth 0, the airlight far away, and half of each at ln 2 / beta."""
    clean = np.random.default_rng(0).random((3, 4, 6), dtype=np.float32)
    depth = np.broadcast_to(np.array([0, math.log(2) / 1.3, 100], np.float32).repeat(2), (4, 6))
    hazy = add_haze(clean, depth, beta=1.3, airlight=0.9)
    assert hazy.dtype == np.float32
    np.testing.assert_allclose(hazy[..., :2], clean[..., :2], atol=1e-6)
    np.testing.assert_allclose(hazy[..., 2:4], 0.5 * clean[..., 2:4] + 0.45, atol=1e-6)
    np.testing.assert_allclose(hazy[..., 4:], 0.9, atol=1e-6)


@settings(deadline=None)
@given(st.floats(0.1, 3), st.floats(0, 1), st.integers(0, 2**32 - 1))
def test_haze_on_two_images_shares_its_transmission(beta, airlight, seed):
    """The difference of two images is multiplied by t alone, between exp(-beta) and 1, the same in all channels."""
    black, white = np.zeros((3, 32, 24), np.float32), np.ones((3, 32, 24), np.float32)
    low = add_haze(black, np.random.default_rng(seed), beta=beta, airlight=airlight)
    high = add_haze(white, np.random.default_rng(seed), beta=beta, airlight=airlight)
    transmission = high - low
    assert np.ptp(transmission, axis=0).max() == 0
    np.testing.assert_allclose(transmission.min(), math.exp(-beta), atol=1e-5)
    np.testing.assert_allclose(transmission.max(), 1, atol=1e-5)
    np.testing.assert_allclose(low, airlight * (1 - transmission), atol=1e-5)


@pytest.mark.parametrize("seed", range(5))
def test_depth_is_smooth_and_spans_near_and_far(seed):
    """From exactly 0 to exactly 1 without a step larger than the coarse grid allows."""
    depth = smooth_depth(np.random.default_rng(seed), 128, 96)
    assert depth.shape == (128, 96)
    assert depth.min() == 0
    assert depth.max() == 1
    assert max(np.abs(np.diff(depth, axis=0)).max(), np.abs(np.diff(depth, axis=1)).max()) < 0.1


def streaks(**changes):
    """The layer that rain adds to black."""
    rain = {"density": 0.0005, "length": 20, "angle": 0, "width": 0.8} | changes
    return add_rain(np.zeros((3, 300, 300), np.float32), counter_rng(1, "sample", 0), **rain)


def test_rain_only_brightens_and_is_gray():
    """No pixel gets darker or brighter than white, and all channels gain the same."""
    clean = np.random.default_rng(0).random((3, 64, 64), dtype=np.float32) * np.float32(0.2)
    rainy = add_rain(clean, counter_rng(1, "sample", 1), density=0.02, length=15, angle=20, width=1)
    assert rainy.dtype == np.float32
    assert (rainy >= clean).all()
    assert rainy.max() <= 1
    gained = np.where((rainy < 1).all(axis=0), rainy - clean, 0)
    assert np.ptp(gained, axis=0).max() < 1e-6
    assert gained.max() > 0.1
    dry = add_rain(clean, counter_rng(1, "sample", 1), density=0, length=15, angle=20, width=1)
    assert np.array_equal(dry, clean)


def test_rain_has_streaks_of_the_size_and_number_asked_for():
    """A streak that stands alone has √(2π) · width · length times its peak of light; peaks are in [0.2, 0.8]."""
    density, length, width = 0.0002, 20, 0.8
    layer = streaks(density=density, length=length, width=width)[0]
    labels, count = ndimage.label(layer > 1e-6)
    boxes = ndimage.find_objects(labels)
    inside = [box for box in boxes if all(side.start > 0 and side.stop < 300 for side in box)]
    shortest = min(box[0].stop - box[0].start for box in inside)
    alone = [layer[y, x] for y, x in inside if y.stop - y.start == shortest and x.stop - x.start <= 9]
    assert len(alone) > 5
    for streak in alone:
        assert 0.2 <= streak.max() <= 0.8
        assert math.isclose(streak.sum(), streak.max() * length * math.sqrt(2 * math.pi) * width, rel_tol=0.01)
    expected = density * (300 + length) * 300  # those that reach in count too
    assert abs(count - expected) < 5 * math.sqrt(expected)


@pytest.mark.parametrize("angle", [0, 45, -30])
def test_streaks_lie_along_their_angle(angle):
    """Structure lies along the angle: gradients along it are far smaller than across."""
    layer = streaks(angle=angle, length=30)[0]
    down, right = np.gradient(layer)
    cos, sin = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    along, across = down * cos - right * sin, right * cos + down * sin  # positive: to the lower left
    assert np.square(along).mean() < 0.15 * np.square(across).mean()
