"""Noise and flatness by OpenCV's block means, against the plain formulas in float64 that they replace."""

import math

import numpy as np
import pytest
from scipy.signal import convolve2d

from relume.curation.hashes import perceptual_hash
from relume.curation.quality import flat_fraction, gray, noise_sigma, sharpness
from tests.relume.curation.photographs import skimage_photograph


def blocks(values, side):
    """Whole blocks as the last axis."""
    rows, columns = (length // side for length in values.shape)
    cut = values[: rows * side, : columns * side].reshape(rows, side, columns, side)
    return cut.transpose(0, 2, 1, 3).reshape(rows, columns, side * side)


@pytest.mark.parametrize("name", ["astronaut.png", "coffee.png", "grass.png", "clock_motion.png", "moon.png"])
@pytest.mark.parametrize("cut", [0, 5])
def test_both_are_their_formulas(name, cut):
    """Of real photographs of any size the figures are those of the definition, to the last bit that float64 has."""
    luma = gray(skimage_photograph(name))[cut:, cut:]
    exact = luma.astype(np.float64)
    assert flat_fraction(luma) == (blocks(exact, 8).var(axis=-1) < 9).mean()
    response = np.abs(convolve2d(exact, [[1, -2, 1], [-2, 4, -2], [1, -2, 1]], "valid"))
    means, sigmas = blocks(exact[1:-1, 1:-1], 32).mean(axis=-1), blocks(response, 32).mean(axis=-1)
    sigmas = math.sqrt(math.pi / 2) / 6 * sigmas[(means > 8) & (means < 247)]
    assert noise_sigma(luma) == pytest.approx(np.quantile(sigmas, 0.1) if sigmas.size else 0, rel=1e-6)


def test_whole_numbers_need_not_be_floats_and_bands_do_not_show():
    """Of uint8 gray values the figures are those of the same values as float32, whatever is filtered at once."""
    luma = gray(np.tile(skimage_photograph("coffee.png"), (3, 2, 1)))[:-3, :-5]  # several bands, the last one lower
    levels = luma.astype(np.uint8)
    assert (noise_sigma(levels), flat_fraction(levels)) == (noise_sigma(luma), flat_fraction(luma))
    assert sharpness(levels) == sharpness(luma)
    assert perceptual_hash(levels) == perceptual_hash(luma)
    exact = luma[: len(luma) // 8 * 8].astype(np.float64)
    assert flat_fraction(levels) == (blocks(exact, 8).var(axis=-1) < 9).mean()
