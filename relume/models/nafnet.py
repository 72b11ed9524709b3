"""NAFNet, a U-Net of blocks without nonlinear activation functions, and the Baseline that it was derived from.

Source: Chen et al., "Simple Baselines for Image Restoration", ECCV 2022 (arXiv 2204.04676).
State-dict keys and values are those of the official implementation. No deviation.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

from relume.models.layers import ChannelLayerNorm, PointwiseConv, channels_last, pad_to_multiple, pointwise
from relume.models.registry import Variant


class SimpleGate(nn.Module):
    """The product of the two halves of the channels (section 3.3, eq. 4)."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, 2C, H, W) to (N, C, H, W)."""
        first, second = x.chunk(2, dim=1)
        return first * second


def scaled(x: torch.Tensor, convolution: PointwiseConv, scale: torch.Tensor) -> torch.Tensor:
    """scale · convolution(x), with the scale (1, C, 1, 1) in the weights instead of on every pixel."""
    return pointwise(x, convolution.weight * scale.view(-1, 1, 1, 1), convolution.bias * scale.view(-1))


class NAFBlock(nn.Module):
    """Gated depthwise convolution with simplified channel attention, then a gated feed-forward (figure 3d).

    Args:
        channels: C, unchanged by the block.

    The residual scales `beta` and `gamma` start at zero, so that a new block is the identity.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.conv1 = PointwiseConv(channels, 2 * channels)
        self.conv2 = nn.Conv2d(2 * channels, 2 * channels, 3, padding=1, groups=2 * channels)
        self.conv3 = PointwiseConv(channels, channels)
        # Simplified channel attention: a linear map of the global mean, without a sigmoid (eq. 6).
        self.sca = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(channels, channels, 1))
        self.sg = SimpleGate()
        self.conv4 = PointwiseConv(channels, 2 * channels)
        self.conv5 = PointwiseConv(channels, channels)
        self.norm1 = ChannelLayerNorm(channels, eps=1e-6)
        self.norm2 = ChannelLayerNorm(channels, eps=1e-6)
        self.beta = nn.Parameter(torch.zeros(1, channels, 1, 1))
        self.gamma = nn.Parameter(torch.zeros(1, channels, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) to (N, C, H, W)."""
        gated = self.sg(self.conv2(self.conv1(self.norm1(x))))
        x = x + scaled(gated * self.sca(gated), self.conv3, self.beta)
        return x + scaled(self.sg(self.conv4(self.norm2(x))), self.conv5, self.gamma)


class BaselineBlock(nn.Module):
    """Depthwise convolution with GELU and channel attention, then a feed-forward (figure 3c).

    Args:
        channels: C, unchanged by the block.
        depthwise_expansion: Channels of the depthwise convolution over C.
        feedforward_expansion: Hidden channels of the feed-forward over C.

    The residual scales `beta` and `gamma` start at zero, so that a new block is the identity.
    """

    def __init__(self, channels: int, depthwise_expansion: int, feedforward_expansion: int):
        super().__init__()
        wide, hidden = depthwise_expansion * channels, feedforward_expansion * channels
        self.conv1 = PointwiseConv(channels, wide)
        self.conv2 = nn.Conv2d(wide, wide, 3, padding=1, groups=wide)
        self.conv3 = PointwiseConv(wide, channels)
        self.se = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(wide, wide // 2, 1),
            nn.ReLU(),
            nn.Conv2d(wide // 2, wide, 1),
            nn.Sigmoid(),
        )
        self.conv4 = PointwiseConv(channels, hidden)
        self.conv5 = PointwiseConv(hidden, channels)
        self.norm1 = ChannelLayerNorm(channels, eps=1e-6)
        self.norm2 = ChannelLayerNorm(channels, eps=1e-6)
        self.beta = nn.Parameter(torch.zeros(1, channels, 1, 1))
        self.gamma = nn.Parameter(torch.zeros(1, channels, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) to (N, C, H, W)."""
        wide = F.gelu(self.conv2(self.conv1(self.norm1(x))))
        x = x + scaled(wide * self.se(wide), self.conv3, self.beta)
        return x + scaled(F.gelu(self.conv4(self.norm2(x))), self.conv5, self.gamma)


class NAFNet(nn.Module):
    """One-stage U-Net of NAF blocks, with additive skips and a global residual.

    Args:
        width: Channels at full resolution; doubled at each level down.
        encoder_blocks: Blocks per encoder level; as many levels as entries.
        middle_blocks: Blocks at the coarsest level.
        decoder_blocks: Blocks per decoder level, from the coarsest up.
        channels: Image channels.
    """

    block: Callable[[int], nn.Module] = NAFBlock  # of so many channels

    def __init__(
        self,
        *,
        width: int,
        encoder_blocks: list[int],
        middle_blocks: int,
        decoder_blocks: list[int],
        channels: int = 3,
    ):
        super().__init__()
        self.intro = nn.Conv2d(channels, width, 3, padding=1)
        self.ending = nn.Conv2d(width, channels, 3, padding=1)
        # In the order of the official state dict; middle_blks takes its place before it is filled.
        self.encoders, self.decoders = nn.ModuleList(), nn.ModuleList()
        self.middle_blks = nn.Sequential()
        self.ups, self.downs = nn.ModuleList(), nn.ModuleList()
        for blocks in encoder_blocks:
            self.encoders.append(nn.Sequential(*(self.block(width) for _ in range(blocks))))
            self.downs.append(nn.Conv2d(width, 2 * width, 2, stride=2))
            width *= 2
        self.middle_blks = nn.Sequential(*(self.block(width) for _ in range(middle_blocks)))
        for blocks in decoder_blocks:
            self.ups.append(nn.Sequential(PointwiseConv(width, 2 * width, bias=False), nn.PixelShuffle(2)))
            width //= 2
            self.decoders.append(nn.Sequential(*(self.block(width) for _ in range(blocks))))
        self.size_multiple = 2 ** len(encoder_blocks)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) in [0, 1] to the same shape, not clamped; any H and W."""
        return self.last_features(image)[0]

    def last_features(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """What `forward` gives, and the features (N, width, H, W) that it is made of, for fusions."""
        height, width = image.shape[-2:]
        padded = pad_to_multiple(image, self.size_multiple, mode="constant")
        x = channels_last(self.intro(padded))
        skips = []
        for encoder, down in zip(self.encoders, self.downs, strict=True):
            x = encoder(x)
            skips.append(x)
            x = down(x)
        x = self.middle_blks(x)
        for decoder, up, skip in zip(self.decoders, self.ups, reversed(skips), strict=True):
            x = decoder(up(x) + skip)
        return (self.ending(x) + padded)[:, :, :height, :width], x[:, :, :height, :width]


class Baseline(NAFNet):
    """The same U-Net of baseline blocks.

    Args:
        width: As in `NAFNet`.
        encoder_blocks: As in `NAFNet`.
        middle_blocks: As in `NAFNet`.
        decoder_blocks: As in `NAFNet`.
        depthwise_expansion: As in `BaselineBlock`: 1 in the published SIDD model of width 32, 2 in those of width 64.
        feedforward_expansion: As in `BaselineBlock`.
        channels: As in `NAFNet`.
    """

    def __init__(
        self,
        *,
        width: int,
        encoder_blocks: list[int],
        middle_blocks: int,
        decoder_blocks: list[int],
        depthwise_expansion: int = 1,
        feedforward_expansion: int = 2,
        channels: int = 3,
    ):
        self.block = lambda count: BaselineBlock(count, depthwise_expansion, feedforward_expansion)
        super().__init__(
            width=width,
            encoder_blocks=encoder_blocks,
            middle_blocks=middle_blocks,
            decoder_blocks=decoder_blocks,
            channels=channels,
        )


def _sidd(width: int) -> dict:
    return {"width": width, "encoder_blocks": [2, 2, 4, 8], "middle_blocks": 12, "decoder_blocks": [2, 2, 2, 2]}


def _gopro(width: int) -> dict:
    return {"width": width, "encoder_blocks": [1, 1, 1, 28], "middle_blocks": 1, "decoder_blocks": [1, 1, 1, 1]}


VARIANTS = {
    "nafnet-sidd-width32": Variant(
        architecture="nafnet", arguments=_sidd(32), about="camera noise, SIDD", parameters=29_159_715
    ),
    "nafnet-sidd-width64": Variant(
        architecture="nafnet", arguments=_sidd(64), about="camera noise, SIDD", parameters=115_982_915
    ),
    "nafnet-gopro-width32": Variant(
        architecture="nafnet", arguments=_gopro(32), about="motion blur, GoPro", parameters=17_111_907
    ),
    "nafnet-gopro-width64": Variant(
        architecture="nafnet", arguments=_gopro(64), about="motion blur, GoPro", parameters=67_888_835
    ),
    "nafnet-demo": Variant(
        architecture="nafnet",
        arguments={"width": 16, "encoder_blocks": [1, 1, 2], "middle_blocks": 2, "decoder_blocks": [1, 1, 1]},
        about="minutes on a CPU",
    ),
    "baseline-sidd-width32": Variant(
        architecture="baseline", arguments=_sidd(32), about="camera noise, SIDD", parameters=29_056_227
    ),
    "baseline-sidd-width64": Variant(
        architecture="baseline",
        arguments=_sidd(64) | {"depthwise_expansion": 2},
        about="camera noise, SIDD",
        parameters=194_419_779,
    ),
    "baseline-gopro-width32": Variant(
        architecture="baseline", arguments=_gopro(32), about="motion blur, GoPro", parameters=17_023_875
    ),
    "baseline-gopro-width64": Variant(
        architecture="baseline",
        arguments=_gopro(64) | {"depthwise_expansion": 2},
        about="motion blur, GoPro",
        parameters=112_036_291,
    ),
    "baseline-demo": Variant(
        architecture="baseline",
        arguments={"width": 16, "encoder_blocks": [1, 1, 2], "middle_blocks": 2, "decoder_blocks": [1, 1, 1]},
        about="minutes on a CPU",
    ),
}
