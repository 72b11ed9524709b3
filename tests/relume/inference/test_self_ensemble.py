"""The eight orientations are undone exactly, and a turned image gives the turned result."""

import pytest
import torch
from torch import nn

from relume.inference.self_ensemble import SelfEnsemble, orient, orient_back

ORIENTATIONS = [(turns, mirrored) for turns in range(4) for mirrored in (False, True)]


@pytest.fixture
def picture():
    """An image whose sides differ, with no symmetry."""
    return torch.rand(2, 3, 5, 8, generator=torch.Generator().manual_seed(2))


def test_the_eight_orientations_differ(picture):
    """No two orientations of an image without symmetry are equal, so the eight are the whole group."""
    square = picture[..., :5]
    oriented = [orient(square, *orientation) for orientation in ORIENTATIONS]
    assert all(not torch.equal(oriented[i], oriented[j]) for i in range(8) for j in range(i))


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_each_orientation_is_undone(picture, orientation):
    """Turning back gives the image bit for bit."""
    assert torch.equal(orient_back(orient(picture, *orientation), *orientation), picture)


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (6, 6), (9, 4), (13, 21)])
def test_identity_stays_the_identity(size):
    """With a network that returns its input, the output is the input bit for bit, at any sides."""
    image = torch.rand(2, 3, *size)
    assert torch.equal(SelfEnsemble(nn.Identity())(image), image)


def test_result_is_the_mean_over_the_group(picture):
    """With a convolution the result is that of the kernel averaged over its eight orientations."""
    torch.manual_seed(0)
    convolution = nn.Conv2d(3, 3, 3, padding=1)
    mean = nn.Conv2d(3, 3, 3, padding=1)
    with torch.no_grad():
        kernels = torch.stack([orient(convolution.weight, *orientation) for orientation in ORIENTATIONS])
        mean.weight.copy_(kernels.mean(dim=0))
        mean.bias.copy_(convolution.bias)
        assert torch.allclose(SelfEnsemble(convolution)(picture), mean(picture), atol=1e-6)


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_a_turned_image_gives_the_turned_result(picture, orientation):
    """The self-ensemble commutes with every orientation, whatever the network."""
    torch.manual_seed(0)
    network = SelfEnsemble(
        nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.GELU(), nn.Conv2d(4, 3, (1, 3), padding=(0, 1)))
    )
    with torch.no_grad():
        turned = network(orient(picture, *orientation))
        assert torch.allclose(turned, orient(network(picture), *orientation), atol=1e-6)


def test_maps_turn_with_the_image_and_levels_do_not(picture):
    """A further input with pixels is turned as the image is; a level for each image is passed on."""

    class Product(nn.Module):
        def forward(self, image, level, weights):
            return image * level.view(-1, 1, 1, 1) * weights

    level, weights = torch.tensor([0.5, 2.0]), torch.rand(2, 1, 5, 8)
    expected = picture * level.view(-1, 1, 1, 1) * weights
    assert torch.equal(SelfEnsemble(Product())(picture, level, weights), expected)


def test_mean_is_taken_before_clamping(picture):
    """Values outside [0, 1] are averaged as they are."""
    network = SelfEnsemble(nn.Identity())
    assert torch.equal(network(3 * picture - 1), 3 * picture - 1)
