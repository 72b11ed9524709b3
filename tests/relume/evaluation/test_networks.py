"""Networks on an image: in tiles what the served tiler gives, and nothing lost."""

import numpy as np
import pytest
import torch

from relume.evaluation.networks import run_tiled, run_whole, tiled
from relume.inference.plan import Inference

PICTURE = np.random.default_rng(2).normal(0.5, 0.4, (50, 70, 3)).astype(np.float32)


class Blur(torch.nn.Module):
    """The mean over 3 x 3 pixels, so that a halo of one pixel is enough."""

    def forward(self, image):
        return torch.nn.functional.avg_pool2d(image, 3, stride=1, padding=1, count_include_pad=False)


@pytest.mark.parametrize(("tile", "halo"), [(16, 2), (32, 5), (64, 0), (96, 8)])
def test_tiles_give_what_the_whole_image_gives(tile, halo):
    """For a network that sees no further than the halo, also where the image is smaller than a tile."""
    network = Blur()
    whole = run_whole(network, PICTURE).clip(0, 1)
    inside = np.s_[: 50 - (tile > 50), : 70 - (tile > 70)] if halo else np.s_[:0]
    np.testing.assert_allclose(
        run_tiled(network, PICTURE, Inference(tile=tile, halo=halo, overlap=3))[inside], whole[inside], atol=1e-6
    )


def test_tiles_without_a_halo_lose_nothing_of_an_identity():
    """Values beyond [0, 1] are kept where tiles of float32 are served."""
    plan = Inference(tile=16, halo=0, overlap=0)
    np.testing.assert_array_equal(run_tiled(torch.nn.Identity(), PICTURE, plan), PICTURE.clip(0, 1))
    np.testing.assert_array_equal(run_tiled(torch.nn.Identity(), PICTURE, plan.in_orientations(2)), PICTURE)


class Stretch(torch.nn.Module):
    """Each tile's contrast stretched about its own mean, beyond [0, 1], so that tiles differ where they overlap."""

    def forward(self, image):
        mean = image.mean((2, 3), keepdim=True)
        return mean + 3 * (image - mean)


@pytest.mark.parametrize("network", [Blur(), Stretch()])
def test_float_tiles_round_to_the_served_ones(network):
    """On 8-bit input the difference to the served tiler is its rounding of each tile, one level at most."""
    levels = np.random.default_rng(3).integers(0, 256, (50, 70, 3), np.uint8)
    levels[:, 35:] //= 2
    served = tiled(network, Inference(tile=32, halo=4, overlap=8), batch=2)(levels)
    result = run_tiled(network, levels / np.float32(255), Inference(tile=32, halo=4, overlap=8))
    assert np.abs(result * 255 - served).max() <= 1
