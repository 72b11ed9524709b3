"""An adjustable network at a fixed level."""

import torch
from torch import nn


class AtLevel(nn.Module):
    """An adjustable network at one level, as a network without level.

    Args:
        network: (image, level) to image.
        level: Of the network's kind, or all conditions of a network that has several.
    """

    def __init__(self, network: nn.Module, level: float | tuple[float, ...]):
        super().__init__()
        self.network = network
        self.register_buffer("level", torch.tensor([level], dtype=torch.float32), persistent=False)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) to the same shape."""
        return self.network(image, self.level)
