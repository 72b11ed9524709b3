"""Layers that several families share: normalisation over channels, residual blocks, and padding to fitting sizes."""

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


class ResidualBlock(nn.Module):
    """x + conv3x3(ReLU(conv3x3(x))), with biases."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) to (N, C, H, W)."""
        return x + self.conv2(F.relu(self.conv1(x)))


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


def channels_last(x: torch.Tensor) -> torch.Tensor:
    """(N, C, H, W) in channels_last memory, in which these networks are fastest; unchanged in an exported graph."""
    return x if torch.compiler.is_compiling() else x.contiguous(memory_format=torch.channels_last)


def pointwise(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """1x1 convolution, on one CPU thread two to three times as fast as `conv2d` left to itself.

    Dilation means nothing to a 1x1 kernel, but with it PyTorch takes oneDNN, forward and backward, where
    it else takes a path of its own on one thread. An exported graph holds the plain convolution.
    """
    dilation = 2 if x.device.type == "cpu" and not torch.compiler.is_compiling() else 1
    return F.conv2d(x, weight, bias, dilation=dilation)


class PointwiseConv(nn.Conv2d):
    """1x1 convolution (`pointwise`), with the parameters and the state-dict keys of `Conv2d`."""

    def __init__(self, inputs: int, outputs: int, bias: bool = True):
        super().__init__(inputs, outputs, 1, bias=bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, inputs, H, W) to (N, outputs, H, W)."""
        return pointwise(x, self.weight, self.bias)


def in_halves(x: torch.Tensor, *convolutions: nn.Conv2d) -> tuple[torch.Tensor, torch.Tensor]:
    """The two halves of the channels after a chain of 1x1 and depthwise convolutions; the first is a 1x1.

    Each half is computed on its own, so that the product of a gate runs over whole memory instead of
    over slices of pixels. An exported graph keeps one node per convolution.
    """
    if torch.compiler.is_compiling():
        for convolution in convolutions:
            x = convolution(x)
        first, second = x.chunk(2, dim=1)
        return first, second
    halves = [x, x]
    for convolution in convolutions:
        weights = convolution.weight.chunk(2)
        biases = (None, None) if convolution.bias is None else convolution.bias.chunk(2)
        if convolution.groups == 1:
            halves = [pointwise(*half) for half in zip(halves, weights, biases, strict=True)]
        else:
            options = {"padding": convolution.padding, "groups": convolution.groups // 2}
            halves = [F.conv2d(*half, **options) for half in zip(halves, weights, biases, strict=True)]
    return halves[0], halves[1]
