"""Blur against SciPy and against moments in closed form."""

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from skimage import data

from relume.degradations import blur_gaussian, blur_motion, counter_rng, motion_kernel

KERNELS = Path(__file__).parents[4] / "shared" / "data" / "kernels" / "levin09.npz"


@pytest.fixture(scope="module")
def photograph():
    """A small colour photograph, float32 (3, 90, 70)."""
    return data.astronaut()[:90, 150:220].transpose(2, 0, 1).astype(np.float32) / 255


def test_round_and_upright_gaussians_are_scipys(photograph):
    """Blur along the axes equals scipy.ndimage.gaussian_filter, up to the border."""
    expected = ndimage.gaussian_filter(photograph, (0, 2.5, 1.2), mode="mirror", radius=(0, 10, 10))
    np.testing.assert_allclose(blur_gaussian(photograph, 1.2, 2.5, 0), expected, rtol=0, atol=2e-6)
    np.testing.assert_allclose(blur_gaussian(photograph, 2.5, 1.2, 90), expected, rtol=0, atol=2e-6)


def covariance(kernel):
    """Mean and covariance (columns, rows) of a kernel taken as a distribution."""
    y, x = np.indices(kernel.shape)
    mean = np.array([(kernel * x).sum(), (kernel * y).sum()])
    offsets = np.stack([x - mean[0], y - mean[1]]).reshape(2, -1)
    return mean, (offsets * kernel.ravel()) @ offsets.T


def test_a_turned_gaussian_has_the_turned_covariance():
    """The image of a point has covariance R diag(σx², σy²) Rᵀ."""
    point = np.zeros((1, 61, 61), np.float32)
    point[0, 30, 30] = 1
    spread = blur_gaussian(point, 4.0, 1.5, 30)[0].astype(np.float64)
    cos, sin = math.cos(math.radians(30)), math.sin(math.radians(30))
    turn = np.array([[cos, -sin], [sin, cos]])
    assert math.isclose(spread.sum(), 1, rel_tol=1e-5)
    # Cut at four standard deviations, a Gaussian lacks 0.1 % of its variance.
    np.testing.assert_allclose(covariance(spread)[1], turn @ np.diag([16, 2.25]) @ turn.T, atol=0.03)


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([5, 15, 31]), st.floats(0.1, 40), st.floats(0, 6))
def test_a_motion_kernel_keeps_brightness_and_place(seed, size, length, shake):
    """Not negative, sum 1, centre of mass in the middle, whatever the path."""
    kernel = motion_kernel(np.random.default_rng(seed), size, length=length, shake=shake)
    assert kernel.shape == (size, size)
    assert kernel.min() >= 0
    assert math.isclose(kernel.sum(dtype=np.float64), 1, rel_tol=1e-5)
    np.testing.assert_allclose(covariance(kernel.astype(np.float64))[0], (size - 1) / 2, atol=1e-3)


@pytest.mark.parametrize("seed", range(5))
def test_a_steady_move_is_a_line_of_its_length(seed):
    """Without shake, the variance along the path is length² / 12, and across only what pixels add, below 1/4."""
    kernel = motion_kernel(np.random.default_rng(seed), 41, length=30, shake=0)
    across, along = np.linalg.eigvalsh(covariance(kernel.astype(np.float64))[1])
    assert abs(along - 30**2 / 12) < 0.3
    assert across <= 0.25 + 1e-3


def test_shake_shortens_the_reach_of_a_path():
    """A path that turns ends nearer to where it began, so its mean square extent falls with the shake."""
    extents = [
        np.mean(
            [
                np.trace(covariance(motion_kernel(counter_rng(1, "sample", n), 41, length=30, shake=shake))[1])
                for n in range(40)
            ]
        )
        for shake in (0, 2, 5)
    ]
    assert extents[0] > 1.2 * extents[1] > 1.2**2 * extents[2]


def test_motion_blur_is_a_convolution_and_no_correlation(photograph):
    """It equals scipy.ndimage.convolve with an asymmetric kernel, up to the border."""
    kernel = motion_kernel(counter_rng(1, "sample", 7), 13, length=18, shake=2)
    assert not np.allclose(kernel, kernel[::-1, ::-1], atol=1e-3)
    expected = np.stack([ndimage.convolve(channel, kernel, mode="mirror") for channel in photograph])
    np.testing.assert_allclose(blur_motion(photograph, kernel), expected, rtol=0, atol=2e-6)


@pytest.mark.skipif(not KERNELS.is_file(), reason="the recorded camera-shake kernels are not on this machine")
def test_recorded_camera_shakes_blur_as_scipy_does(photograph):
    """All eight kernels of Levin et al. 2009, 13 to 27 pixels wide."""
    kernels = np.load(KERNELS)
    assert len(kernels.files) == 8
    for kernel in kernels.values():
        expected = ndimage.convolve(photograph[1].astype(np.float64), kernel, mode="mirror")
        np.testing.assert_allclose(blur_motion(photograph, kernel)[1], expected, rtol=0, atol=2e-6)
