"""An adjustable network at a fixed level."""

import torch
from torch import nn

from relume.inference.level import AtLevel


class Given(nn.Module):
    """Returns the level it was given in every pixel."""

    def forward(self, image, level):
        return torch.ones_like(image) * level.view(-1, 1, 1, 1)


def test_fixed_level():
    """A network at a level is given that level for every image, and has no further state."""
    network = AtLevel(Given(), 25)
    assert network(torch.zeros(3, 3, 2, 4)).unique().tolist() == [25.0]
    assert not network.state_dict()
