"""Noise against its closed forms and the published noisy-input figures."""

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from relume.degradations import (
    add_correlated_noise,
    add_gaussian_noise,
    add_poisson_gaussian_noise,
    add_poisson_noise,
    add_rendering_noise,
    add_salt_and_pepper,
    add_speckle_noise,
    as_8_bits,
    counter_rng,
)
from relume.images import read_image

CBSD68 = Path(__file__).parents[4] / "shared" / "data" / "test" / "cbsd68"


@pytest.mark.parametrize("sigma", [15, 25, 50])
def test_unclipped_noise_has_the_standard_deviation_asked_for(sigma):
    """Mean 0 and sigma/255 within five standard errors, and no correlation between neighbours."""
    clean = np.full((3, 256, 256), 0.5, dtype=np.float32)
    noise = add_gaussian_noise(clean, sigma, counter_rng(1, "sample", sigma), clipped=False) - clean
    errors = 5 / math.sqrt(noise.size)
    assert abs(noise.mean()) < sigma / 255 * errors
    assert abs(noise.std() / (sigma / 255) - 1) < errors
    assert abs(np.corrcoef(noise[:, :, 1:].ravel(), noise[:, :, :-1].ravel())[0, 1]) < 2 * errors


def test_clipped_noise_is_what_an_8_bit_file_holds():
    """All values are whole 8-bit levels, and black stays black as often as a half normal law says."""
    noisy = add_gaussian_noise(np.zeros((3, 200, 200), np.float32), 25, counter_rng(1, "sample", 0), clipped=True)
    levels = noisy * 255
    assert np.array_equal(levels, np.rint(levels))
    assert levels.min() >= 0
    assert levels.max() <= 255
    assert abs((levels == 0).mean() - norm.cdf(0.5 / 25)) < 0.01


@pytest.mark.skipif(not CBSD68.is_dir(), reason="the CBSD68 photographs are not on this machine")
@pytest.mark.parametrize(
    ("sigma", "clipped", "published"),
    [
        (15, False, 24.619),
        (25, False, 20.182),
        (50, False, 14.161),
        (15, True, 24.844),
        (25, True, 20.543),
        (50, True, 15.003),
    ],
)
def test_noisy_cbsd68_has_the_known_psnr(sigma, clipped, published):
    """The mean PSNR of the noisy input over CBSD68 is the known one within 0.02 dB, in both protocols."""
    values = []
    for number, path in enumerate(sorted(CBSD68.iterdir())):
        clean = read_image(path).pixels.astype(np.float32) / np.float32(255)
        noisy = add_gaussian_noise(clean, sigma, counter_rng(0, "evaluation", number), clipped=clipped)
        values.append(-10 * math.log10(np.square(noisy - clean, dtype=np.float64).mean()))
    assert abs(np.mean(values) - published) < 0.02


def flat(value, side=256):
    """A gray image of one value, float32 (3, side, side)."""
    return np.full((3, side, side), value, dtype=np.float32)


def assert_mean_and_variance(noise, mean, variance, kurtosis=3.0):
    """Both within five standard errors of a sample of independent values."""
    assert abs(noise.mean(dtype=np.float64) - mean) < 5 * math.sqrt(variance / noise.size)
    assert abs(noise.var(dtype=np.float64) / variance - 1) < 5 * math.sqrt((kurtosis - 1) / noise.size)


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_eight_bits_are_nearest_levels(seed):
    """Within [0, 1] nothing moves by more than half a level, and rounding again changes nothing."""
    image = np.random.default_rng(seed).random((3, 8, 8), dtype=np.float32)
    rounded = as_8_bits(image)
    assert np.abs(rounded - image).max() <= 0.5 / 255 + 1e-6
    assert np.array_equal(as_8_bits(rounded), rounded)


@pytest.mark.parametrize("brightness", [0.0, 0.1, 0.7])
def test_poisson_gaussian_noise_has_variance_gain_times_brightness_plus_sigma_squared(brightness):
    """The mean stays, the variance is the line of the model, from black to bright."""
    gain, sigma = 0.01, 5
    noisy = add_poisson_gaussian_noise(flat(brightness), gain, sigma, counter_rng(1, "sample", 1))
    # The fourth cumulant of gain · Poisson(x / gain) is gain³ · x.
    variance = gain * brightness + (sigma / 255) ** 2
    assert_mean_and_variance(noisy, brightness, variance, 3 + gain**3 * brightness / variance**2)
    assert noisy.dtype == np.float32


def test_poisson_gaussian_noise_without_gain_is_gaussian_noise():
    """With gain 0 the very same numbers come out as of the Gaussian noise."""
    noisy = add_poisson_gaussian_noise(flat(0.5, 16), 0.0, 20, counter_rng(1, "sample", 2))
    assert np.array_equal(noisy, add_gaussian_noise(flat(0.5, 16), 20, counter_rng(1, "sample", 2), clipped=False))


@pytest.mark.parametrize(("levels", "photons"), [(2, 2), (5, 8), (256, 256)])
def test_poisson_noise_counts_photons_by_gray_levels(levels, photons):
    """With n gray levels the variance is strength² · x / 2^ceil(log2 n)."""
    clean = flat(128 / 255)
    clean[0, 0] = ((128 + np.arange(256) % levels) % 256).astype(np.float32) / 255
    noise = (add_poisson_noise(clean, counter_rng(1, "sample", levels)) - clean)[1:]
    x = 128 / 255
    assert_mean_and_variance(noise, 0, 4 * x / photons, 3 + 1 / (x * photons))


def test_speckle_noise_is_a_uniform_multiplier():
    """The relative noise has the variance asked for, never exceeds √(3 v), and black stays black."""
    noisy = add_speckle_noise(flat(0.4), 0.024, counter_rng(1, "sample", 3))
    relative = noisy / np.float32(0.4) - 1
    assert_mean_and_variance(relative, 0, 0.024, kurtosis=1.8)
    assert 0.999 < np.abs(relative).max() / math.sqrt(3 * 0.024) < 1.00001
    assert not add_speckle_noise(flat(0, 16), 0.024, counter_rng(1, "sample", 3)).any()


@pytest.mark.parametrize(("rays", "found"), [(64, 0.1), (16, 0.5)])
def test_rendering_noise_is_an_estimate_without_bias_in_linear_light(rays, found):
    """In linear light the mean stays and the variance is x² (1 - p) / (n p); all channels share a pixel's factor; with
    rays that always find the light there is no noise."""
    noisy = add_rendering_noise(flat(0.5), rays, counter_rng(1, "sample", 6), found=found)
    linear, x = noisy.astype(np.float64) ** 2.2, 0.5**2.2
    variance = x**2 * (1 - found) / (rays * found)
    excess = (1 - 6 * found * (1 - found)) / (rays * found * (1 - found))
    assert_mean_and_variance(linear[0], x, variance, 3 + excess)
    assert np.array_equal(noisy[0], noisy[1])
    assert np.array_equal(noisy[0], noisy[2])
    assert np.array_equal(add_rendering_noise(flat(0.5), rays, counter_rng(1, "sample", 6), found=1), flat(0.5))


def test_salt_and_pepper_come_in_equal_parts_of_the_density():
    """Of all values, density / 2 become 0, density / 2 become 1, and no other changes."""
    clean, density = flat(0.3), 0.02
    noisy = add_salt_and_pepper(clean, density, counter_rng(1, "sample", 4))
    error = 5 * math.sqrt(density / 2 / noisy.size)
    assert abs((noisy == 0).mean() - density / 2) < error
    assert abs((noisy == 1).mean() - density / 2) < error
    assert set(np.unique(noisy)) == {0, np.float32(0.3), 1}
    assert np.array_equal(clean, flat(0.3))


@pytest.mark.parametrize("width", [1.0, 2.5])
def test_correlated_noise_has_the_autocorrelation_of_a_filtered_gaussian(width):
    """At distance d the correlation is exp(-d² / 4w²) across and down, up to the border, and sigma is kept."""
    clean = flat(0.5, 384)
    noise = add_correlated_noise(clean, 25, counter_rng(1, "sample", 5), width=width) - clean
    # The field of one channel holds about side² / (4π w²) independent values.
    error = 5 / math.sqrt(noise.size / (4 * math.pi * width**2))
    assert abs(noise.std() / (25 / 255) - 1) < error
    assert abs(noise[:, :4].std() / (25 / 255) - 1) < error * math.sqrt(384 / 4)
    for distance in (1, 2, 4, 7):
        expected = math.exp(-(distance**2) / (4 * width**2))
        for first, second in [
            (noise[:, :, distance:], noise[:, :, :-distance]),
            (noise[:, distance:], noise[:, :-distance]),
        ]:
            assert abs(np.corrcoef(first.ravel(), second.ravel())[0, 1] - expected) < error
    assert abs(np.corrcoef(noise[0].ravel(), noise[1].ravel())[0, 1]) < error


def test_correlated_noise_of_no_width_is_white_noise():
    """With width 0 the very same numbers come out as of the Gaussian noise."""
    noisy = add_correlated_noise(flat(0.5, 32), 20, counter_rng(1, "sample", 6), width=0)
    white = add_gaussian_noise(flat(0.5, 32), 20, counter_rng(1, "sample", 6), clipped=False)
    np.testing.assert_allclose(noisy, white, rtol=0, atol=1e-7)
