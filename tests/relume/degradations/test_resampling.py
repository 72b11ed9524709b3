"""Bicubic resampling against Pillow, which antialiases with the same kernel and treats borders differently."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from skimage import data

from relume.degradations import downscale_bicubic, upscale_bicubic


@pytest.fixture(scope="module")
def photograph():
    """A gray photograph, float32 (1, 120, 96)."""
    return data.camera()[60:180, 200:296][None].astype(np.float32) / 255


def pillow(image, height, width):
    """One gray channel resized by Pillow's BICUBIC."""
    return np.asarray(Image.fromarray(image[0]).resize((width, height), Image.Resampling.BICUBIC))


@pytest.mark.parametrize("factor", [2, 3, 4])
def test_shrinking_is_pillows_inside(photograph, factor):
    """Equal beyond the kernel's reach of two output pixels from the border."""
    ours = downscale_bicubic(photograph, factor)
    assert ours.shape == (1, 120 // factor, 96 // factor)
    expected = pillow(photograph, 120 // factor, 96 // factor)
    np.testing.assert_allclose(ours[0, 2:-2, 2:-2], expected[2:-2, 2:-2], rtol=0, atol=2e-6)


@pytest.mark.parametrize("factor", [1.5, 2, 3])
def test_enlarging_is_pillows_inside(photograph, factor):
    """Equal beyond the kernel's reach of two input pixels, whole factor or not."""
    ours = upscale_bicubic(photograph, factor)
    height, width = int(120 * factor), int(96 * factor)
    reach = int(np.ceil(2.5 * factor))
    inside = (slice(reach, -reach), slice(reach, -reach))
    np.testing.assert_allclose(ours[0][inside], pillow(photograph, height, width)[inside], rtol=0, atol=2e-6)


def test_the_border_is_mirrored_with_its_pixel_repeated(photograph):
    """An image continued by its mirror image shrinks to the same pixels."""
    continued = np.pad(photograph, ((0, 0), (24, 24), (24, 24)), mode="symmetric")
    ours = downscale_bicubic(continued, 3)[:, 8:-8, 8:-8]
    np.testing.assert_allclose(downscale_bicubic(photograph, 3), ours, rtol=0, atol=2e-6)


@settings(deadline=None)
@given(st.floats(1, 6), st.integers(9, 40), st.integers(9, 40))
def test_a_constant_stays_and_sizes_cover_the_image(factor, height, width):
    """Weights sum to 1 for any factor and size, and down and up again never gives fewer pixels."""
    flat = np.full((2, height, width), 0.3, np.float32)
    small = downscale_bicubic(flat, factor)
    large = upscale_bicubic(small, factor)
    np.testing.assert_allclose(small, 0.3, rtol=1e-5)
    np.testing.assert_allclose(large, 0.3, rtol=1e-5)
    assert small.shape[1] - 1 < height / factor <= small.shape[1] + 1e-6
    assert large.shape[1] >= height
    assert large.shape[2] >= width


def test_factor_one_changes_nothing(photograph):
    """The kernel interpolates: at the pixels themselves it is 1 and 0."""
    assert np.array_equal(downscale_bicubic(photograph, 1), photograph)
