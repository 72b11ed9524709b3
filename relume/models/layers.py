"""Layers that several families share: normalisation over channels, and padding to the size a network needs."""

import torch
import torch.nn.functional as F
from torch import nn


class ChannelLayerNorm(nn.Module):
    """Layer normalisation over the channels of each pixel, with weight and bias.

    Args:
        channels: C.
        eps: Added to the variance: 1e-6 in NAFNet (`LayerNorm2d`), 1e-5 in Restormer.
    """

    def __init__(self, channels: int, eps: float):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.eps = eps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) to (N, C, H, W); in channels_last memory both permutes are free."""
        normed = F.layer_norm(x.permute(0, 2, 3, 1), self.weight.shape, self.weight, self.bias, self.eps)
        return normed.permute(0, 3, 1, 2)


def pad_to_multiple(x: torch.Tensor, multiple: int, mode: str) -> torch.Tensor:
    """Pads (N, C, H, W) at the right and bottom until height and width are multiples of `multiple`.

    Args:
        x: Image or feature.
        multiple: In pixels.
        mode: As in `torch.nn.functional.pad`. "reflect" needs more pixels than it adds; sides too
            short for it are padded by their edge pixel.

    Returns:
        `x` itself when nothing is to be added.
    """
    height, width = x.shape[-2:]
    bottom, right = -height % multiple, -width % multiple
    if bottom == 0 and right == 0:
        return x
    if mode == "reflect" and (bottom >= height or right >= width):
        mode = "replicate"
    return F.pad(x, (0, right, 0, bottom), mode=mode)
