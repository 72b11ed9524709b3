"""PSNR and SSIM against scikit-image and closed forms."""

import math

import numpy as np
import pytest
import skimage.data
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from relume.metrics import psnr, ssim


@pytest.fixture(scope="module")
def pair():
    """A photograph and a noisy version of it, uint8."""
    clean = skimage.data.astronaut()[100:260, 100:300]
    noisy = clean + np.random.default_rng(0).normal(0, 25, clean.shape)
    return np.clip(noisy, 0, 255).astype(np.uint8), clean


def test_psnr_equals_scikit_image(pair):
    """The same value as an independent implementation."""
    noisy, clean = pair
    assert math.isclose(psnr(noisy, clean), peak_signal_noise_ratio(clean, noisy, data_range=255), abs_tol=1e-4)


def test_psnr_of_a_constant_offset():
    """An offset of 10 levels has 20 log10(25.5) dB."""
    image = np.full((12, 12, 3), 100, dtype=np.uint8)
    assert math.isclose(psnr(image + np.uint8(10), image), 20 * math.log10(25.5), abs_tol=1e-6)
    assert psnr(image, image) == math.inf


@pytest.mark.parametrize("gray", [False, True])
def test_ssim_equals_scikit_image(pair, gray):
    """The same value as an independent implementation with the published window, colour and gray."""
    noisy, clean = (image[..., 0] if gray else image for image in pair)
    expected = structural_similarity(
        clean,
        noisy,
        data_range=255,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        channel_axis=None if gray else 2,
    )
    assert math.isclose(ssim(noisy, clean), expected, abs_tol=1e-6)
