"""Noise against its closed forms and the published noisy-input figures."""

import math
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import norm

from relume.degradations import add_gaussian_noise, counter_rng
from relume.images import read_image

CBSD68 = Path(__file__).parents[3] / "shared" / "data" / "test" / "cbsd68"


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


def test_numbers_depend_on_every_counter_and_on_nothing_else():
    """The same arguments give the same numbers; any other argument gives others."""
    first = counter_rng(7, "sample", 3, 4).random(4)
    assert np.array_equal(first, counter_rng(7, "sample", 3, 4).random(4))
    for other in [(8, "sample", 3, 4), (7, "order", 3, 4), (7, "sample", 4, 4), (7, "sample", 3, 5), (7, "sample", 3)]:
        assert not np.array_equal(first, counter_rng(*other).random(4))


@pytest.mark.skipif(not CBSD68.is_dir(), reason="the CBSD68 photographs are not on this machine")
@pytest.mark.parametrize(
    ("sigma", "clipped", "published"),
    [(15, False, 24.619), (25, False, 20.182), (50, False, 14.161), (15, True, 24.844), (50, True, 15.003)],
)
def test_noisy_cbsd68_has_the_known_psnr(sigma, clipped, published):
    """The mean PSNR of the noisy input over CBSD68 is the known one within 0.02 dB, in both protocols."""
    values = []
    for number, path in enumerate(sorted(CBSD68.iterdir())):
        clean = read_image(path).pixels.astype(np.float32) / np.float32(255)
        noisy = add_gaussian_noise(clean, sigma, counter_rng(0, "evaluation", number), clipped=clipped)
        values.append(-10 * math.log10(np.square(noisy - clean, dtype=np.float64).mean()))
    assert abs(np.mean(values) - published) < 0.02
