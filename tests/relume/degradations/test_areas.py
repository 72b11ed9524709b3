"""The patchwork of degraded, masked and untouched cells."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relume.degradations import compress_jpeg, counter_rng, degraded_areas


def cells(image, side):
    """(rows, columns, C · side · side): the pixels of each cell."""
    channels, height, width = image.shape
    split = image.reshape(channels, height // side, side, width // side, side)
    return split.transpose(1, 3, 0, 2, 4).reshape(height // side, width // side, -1)


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_shares_are_exact_and_disjoint(seed):
    """Of 100 cells exactly 50 are degraded, 30 black and 20 untouched, at any seed."""
    rng = np.random.default_rng(seed)
    clean = rng.uniform(0.2, 0.8, (3, 160, 160)).astype(np.float32)
    result = degraded_areas(clean, rng, quality=(5, 20), sigma=(20, 60))
    assert result.dtype == np.float32
    black = (cells(result, 16) == 0).all(axis=-1)
    same = (cells(result, 16) == cells(clean, 16)).all(axis=-1)
    assert black.sum() == 30
    assert same.sum() == 20
    assert (~black & ~same).sum() == 50


def test_128_pixels_have_the_nearest_whole_cells():
    """64 cells: 32 degraded, 19 masked for 19.2, 13 untouched."""
    clean = np.random.default_rng(0).uniform(0.2, 0.8, (3, 128, 128)).astype(np.float32)
    result = cells(degraded_areas(clean, counter_rng(1, "sample", 0), sigma=(20, 60)), 16)
    assert (result == 0).all(axis=-1).sum() == 19
    assert (result == cells(clean, 16)).all(axis=-1).sum() == 13


def test_jpeg_areas_are_cut_from_the_whole_compressed_image():
    """Cells that are no multiple of the 8-pixel grid still show the image compressed as one."""
    clean = np.random.default_rng(1).uniform(0.2, 0.8, (3, 60, 60)).astype(np.float32)
    whole = compress_jpeg(clean, 10)
    result = degraded_areas(clean, counter_rng(1, "sample", 1), degraded=1, masked=0, cell=12, quality=(10, 10))
    found = (cells(result, 12) == cells(whole, 12)).all(axis=-1)
    assert 2 <= found.sum() <= 18  # about a third of 25


def test_all_three_kinds_appear():
    """Cells of a gray image show whole 8-bit levels of JPEG (flat), Gaussian and bounded uniform noise."""
    clean = np.full((1, 320, 320), 128 / 255, np.float32)
    result = cells(degraded_areas(clean, counter_rng(1, "sample", 2), degraded=1, masked=0, sigma=(30, 30)), 16)
    deviation = np.abs(result - clean[0, 0, 0]) * 255
    flat = deviation.max(axis=-1) == 0
    uniform = ~flat & (deviation.max(axis=-1) <= np.sqrt(3) * 30 + 1)
    gaussian = deviation.max(axis=-1) > np.sqrt(3) * 30 + 1
    for kind in (flat, uniform, gaussian):
        assert 0.2 < kind.mean() < 0.47
    # A uniform law's largest of 256 values is near √3 sigma, a normal law's near 2.9 sigma.
    assert deviation[uniform].max(axis=-1).min() > 0.9 * np.sqrt(3) * 30


@pytest.mark.parametrize("shape", [(1, 50, 33), (3, 16, 16), (3, 7, 9)])
def test_any_size_is_covered(shape):
    """Cells at the border may be cut; shape and type stay."""
    clean = np.full(shape, 0.5, np.float32)
    result = degraded_areas(clean, counter_rng(1, "sample", 3), degraded=0, masked=1)
    assert result.shape == shape
    assert not result.any()
