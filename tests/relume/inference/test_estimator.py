"""The level of an image by a level estimator: which pixels are seen, and in which type."""

import numpy as np
import pytest
import torch

from relume.inference.estimator import CENTRE, TILE, estimate_level
from relume.models import level_estimator
from relume.models.registry import build, variants


def test_the_tile_is_that_of_the_network():
    """Both are written down, so that restoring needs no torch."""
    assert TILE == level_estimator.TILE


@pytest.mark.parametrize(("height", "width"), [(128, 128), (300, 500), (1000, 700), (513, 639)])
def test_the_mean_of_the_centre(height, width):
    """Of as many whole tiles as there are, at most 512 pixels a side; each in a batch of no more than was asked."""
    image = np.random.default_rng(1).integers(0, 256, (height, width, 3), np.uint8)
    rows, columns = (min(side, CENTRE) // TILE * TILE for side in (height, width))
    top, left = (height - rows) // 2, (width - columns) // 2
    batches = []

    def estimate(tiles_NCHW):
        batches.append(tiles_NCHW.shape)
        return tiles_NCHW.mean(axis=(1, 2, 3)) * 255

    found = estimate_level(image, estimate, batch=3)
    assert found == pytest.approx(image[top : top + rows, left : left + columns].mean(), abs=1e-3)
    assert sum(shape[0] for shape in batches) == rows * columns // TILE**2
    assert {shape[1:] for shape in batches} == {(3, TILE, TILE)}
    assert max(shape[0] for shape in batches) <= 3


@pytest.mark.parametrize("size", [(1, 2), (60, 128), (256, 384)])
def test_it_is_what_the_network_gives_of_these_pixels(size):
    """Also where they are fewer than a tile and are mirrored; from 8 and 16 bits, floats and 8-bit tiles the same."""
    torch.manual_seed(0)
    network = build("level_estimator", variants()["level-estimator-demo"].arguments).eval()
    image = np.random.default_rng(2).integers(0, 256, (*size, 3), np.uint8)
    as_float = image / np.float32(255)

    def estimate(tiles_NCHW):
        values = torch.from_numpy(tiles_NCHW).float()
        with torch.inference_mode():
            return network(values / 255 if tiles_NCHW.dtype == np.uint8 else values).numpy()

    with torch.inference_mode():
        expected = network(torch.from_numpy(as_float.transpose(2, 0, 1)[None])).item()
    for given in (image, image.astype(np.uint16) * 257, as_float):
        for dtype in ("uint8", "float32"):
            assert estimate_level(given, estimate, dtype=dtype) == pytest.approx(expected, abs=1e-5)
