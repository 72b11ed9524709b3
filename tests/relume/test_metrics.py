"""PSNR and SSIM against scikit-image and closed forms."""

import math

import numpy as np
import pytest
import skimage.color
import skimage.data
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from relume.metrics import EQUAL, luma, measure, psnr, psnr_in_float, shaved, ssim, to_8_bit


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


def test_luma_equals_scikit_image(pair):
    """The same value as an independent implementation of BT.601; gray is its own luma."""
    _, clean = pair
    np.testing.assert_allclose(luma(clean), skimage.color.rgb2ycbcr(clean)[..., 0], atol=1e-3)
    np.testing.assert_array_equal(luma(clean[..., :1]), clean[..., 0])


def test_shaved_leaves_the_middle():
    """Two pixels less at each side; none for a border of 0."""
    image = np.arange(48).reshape(6, 8)
    np.testing.assert_array_equal(shaved(image, 2), [[18, 19, 20, 21], [26, 27, 28, 29]])
    np.testing.assert_array_equal(shaved(image, 0), image)


def test_to_8_bit_clamps_and_rounds():
    """Values beyond [0, 1] go to its ends."""
    assert to_8_bit(np.array([-0.2, 0, 0.4 / 255, 0.6 / 255, 1, 3])).tolist() == [0, 0, 0, 1, 255, 255]


def test_psnr_in_float_is_that_of_the_same_levels(pair):
    """In [0, 1] and in single precision it is the same value; equal images have 100 dB."""
    noisy, clean = (torch.from_numpy(image / np.float32(255)) for image in pair)
    assert math.isclose(psnr_in_float(noisy, clean), psnr(*pair), abs_tol=1e-4)
    assert math.isclose(psnr_in_float(clean, clean), 100, abs_tol=1e-4)


def test_a_result_is_measured_as_a_file_holds_it(pair):
    """A float result is clamped and rounded first, but for the PSNR of what is measured unrounded."""
    _, clean = pair
    result = (clean + np.random.default_rng(1).normal(0, 25, clean.shape)).astype(np.float32) / np.float32(255)
    rounded = to_8_bit(result)
    assert measure(result, clean) == measure(rounded, clean) == (psnr(rounded, clean), ssim(rounded, clean))
    assert measure(result, clean, unrounded=True) == (psnr(result * np.float32(255), clean), ssim(rounded, clean))
    assert measure(clean, clean) == (EQUAL, 1)


def test_a_result_is_measured_inside_the_border_and_on_the_luma(pair):
    """Both are what PSNR and SSIM are of the parts that are named."""
    noisy, clean = pair
    inside = shaved(noisy, 3), shaved(clean, 3)
    assert measure(noisy, clean, border=3) == (psnr(*inside), ssim(*inside))
    on_luma = luma(inside[0]), luma(inside[1])
    assert measure(noisy, clean, border=3, on_luma=True) == (psnr(*on_luma), ssim(*on_luma))
