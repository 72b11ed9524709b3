"""What a level in and out of the training range does, and the level that is fixed or estimated."""

import pytest
import torch
from torch import nn

from relume.errors import ConfigError
from relume.inference.strength import AtLevel, Blind, Strength


class Told(nn.Module):
    """Returns the level it was told in every pixel."""

    def forward(self, image, level):
        return torch.ones_like(image) * level.view(-1, 1, 1, 1)


IMAGE = torch.zeros(3, 3, 2, 4)
LEVELS = torch.tensor([5.0, 40.0, 120.0])


@pytest.mark.parametrize(("beyond", "expected"), [("clamp", [15.0, 40.0, 75.0]), ("extrapolate", [5.0, 40.0, 120.0])])
def test_policy_beyond_the_range(beyond, expected):
    """Clamping takes the nearest trained level, extrapolation the level itself; inside, both take the level."""
    told = Strength(Told(), trained=(15, 75), beyond=beyond)(IMAGE, LEVELS)
    assert told[:, 0, 0, 0].tolist() == expected


def test_refusal_names_the_range():
    """A refused level raises with the allowed range; one inside does not."""
    network = Strength(Told(), trained=(15, 75), beyond="refuse")
    with pytest.raises(ConfigError, match="from 15 to 75"):
        network(IMAGE, LEVELS)
    assert network(IMAGE, torch.tensor([15.0, 40.0, 75.0]))[2, 0, 0, 0] == 75


@pytest.mark.parametrize("beyond", ["clamp", "extrapolate"])
def test_policy_is_part_of_an_exported_program(beyond):
    """The captured program follows the policy for other levels than it was captured with."""
    network = Strength(Told(), trained=(15, 75), beyond=beyond).eval()
    program = torch.export.export(network, (IMAGE, torch.tensor([20.0, 30.0, 40.0])))
    assert torch.equal(program.module()(IMAGE, LEVELS), network(IMAGE, LEVELS))


def test_fixed_level():
    """A network at a level is told that level for every image, and has no further state."""
    network = AtLevel(Told(), 25)
    assert network(IMAGE).unique().tolist() == [25.0]
    assert not network.state_dict()


def test_blind_network_is_told_the_estimate():
    """The estimator's value for each image reaches the network, through the policy."""

    class Mean(nn.Module):
        def forward(self, image):
            return 255 * image.mean(dim=(1, 2, 3))

    image = torch.tensor([0.02, 0.1, 0.9]).view(3, 1, 1, 1).expand(3, 3, 2, 4)
    network = Blind(Strength(Told(), trained=(15, 75)), Mean())
    assert network(image)[:, 0, 0, 0].tolist() == pytest.approx([15.0, 25.5, 75.0])
