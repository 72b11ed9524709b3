"""NAFNet, Baseline and NAFNet-local in the plain order of their papers: convolve, gate, attend, scale, add."""

import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.models.case import Case


class ChannelNorm(nn.Module):
    """Layer normalisation over channels, step by step."""

    def __init__(self, channels: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) to the same."""
        mean = x.mean(1, keepdim=True)
        variance = (x - mean).pow(2).mean(1, keepdim=True)
        y = (x - mean) / (variance + 1e-6).sqrt()
        return self.weight.view(1, -1, 1, 1) * y + self.bias.view(1, -1, 1, 1)


class LocalPool(nn.Module):
    """Sliding mean by a two-dimensional integral image, repeated towards the borders."""

    def __init__(self, window: int):
        super().__init__()
        self.window = window

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) to the same, or (N, C, 1, 1) when the window covers it."""
        height, width = x.shape[2:]
        if self.window >= height and self.window >= width:
            return F.adaptive_avg_pool2d(x, 1)
        k, m = min(height, self.window), min(width, self.window)
        sums = F.pad(x.cumsum(-1).cumsum(-2), (1, 0, 1, 0))
        mean = (sums[:, :, k:, m:] + sums[:, :, :-k, :-m] - sums[:, :, :-k, m:] - sums[:, :, k:, :-m]) / (k * m)
        bottom, right = height - mean.shape[2], width - mean.shape[3]
        return F.pad(mean, (right // 2, (right + 1) // 2, bottom // 2, (bottom + 1) // 2), mode="replicate")


def gate(x: torch.Tensor) -> torch.Tensor:
    """The product of the halves of the channels."""
    first, second = x.chunk(2, dim=1)
    return first * second


class Block(nn.Module):
    """NAF block, or baseline block when `expansions` are given."""

    def __init__(self, c: int, pool: nn.Module, expansions: tuple[int, int] | None = None):
        super().__init__()
        self.naf = expansions is None
        wide, hidden = (expansions[0] * c, expansions[1] * c) if expansions else (2 * c, 2 * c)
        inner, last = (wide // 2, hidden // 2) if self.naf else (wide, hidden)
        self.conv1 = nn.Conv2d(c, wide, 1)
        self.conv2 = nn.Conv2d(wide, wide, 3, 1, 1, groups=wide)
        self.conv3 = nn.Conv2d(inner, c, 1)
        if self.naf:
            self.sca = nn.Sequential(pool, nn.Conv2d(inner, inner, 1))
        else:
            self.se = nn.Sequential(
                pool, nn.Conv2d(wide, wide // 2, 1), nn.ReLU(), nn.Conv2d(wide // 2, wide, 1), nn.Sigmoid()
            )
        self.conv4 = nn.Conv2d(c, hidden, 1)
        self.conv5 = nn.Conv2d(last, c, 1)
        self.norm1, self.norm2 = ChannelNorm(c), ChannelNorm(c)
        self.beta = nn.Parameter(torch.zeros(1, c, 1, 1))
        self.gamma = nn.Parameter(torch.zeros(1, c, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) to the same."""
        activation = gate if self.naf else F.gelu
        y = activation(self.conv2(self.conv1(self.norm1(x))))
        y = y * (self.sca(y) if self.naf else self.se(y))
        x = x + self.conv3(y) * self.beta
        y = activation(self.conv4(self.norm2(x)))
        return x + self.conv5(y) * self.gamma


class UNet(nn.Module):
    """The U-Net of the three networks."""

    def __init__(
        self,
        *,
        width: int,
        encoder_blocks: list[int],
        middle_blocks: int,
        decoder_blocks: list[int],
        channels: int = 3,
        depthwise_expansion: int | None = None,
        feedforward_expansion: int = 2,
        train_size: int | None = None,
    ):
        super().__init__()
        expansions = None if depthwise_expansion is None else (depthwise_expansion, feedforward_expansion)

        def stack(count: int, level: int) -> nn.Sequential:
            window = None if train_size is None else (train_size >> level) * int(1.5 * train_size) // train_size
            pools = [nn.AdaptiveAvgPool2d(1) if window is None else LocalPool(window) for _ in range(count)]
            return nn.Sequential(*(Block(width << level, pool, expansions) for pool in pools))

        depth = len(encoder_blocks)
        self.intro = nn.Conv2d(channels, width, 3, 1, 1)
        self.ending = nn.Conv2d(width, channels, 3, 1, 1)
        self.encoders = nn.ModuleList(stack(count, level) for level, count in enumerate(encoder_blocks))
        self.decoders = nn.ModuleList(stack(count, depth - 1 - i) for i, count in enumerate(decoder_blocks))
        self.middle_blks = stack(middle_blocks, depth)
        self.ups = nn.ModuleList(
            nn.Sequential(nn.Conv2d(width << level, 2 * width << level, 1, bias=False), nn.PixelShuffle(2))
            for level in range(depth, 0, -1)
        )
        self.downs = nn.ModuleList(nn.Conv2d(width << level, 2 * width << level, 2, 2) for level in range(depth))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) to the same."""
        height, width = image.shape[2:]
        multiple = 2 ** len(self.downs)
        image = F.pad(image, (0, -width % multiple, 0, -height % multiple))
        x, skips = self.intro(image), []
        for encoder, down in zip(self.encoders, self.downs, strict=True):
            x = encoder(x)
            skips.append(x)
            x = down(x)
        x = self.middle_blks(x)
        for decoder, up, skip in zip(self.decoders, self.ups, skips[::-1], strict=True):
            x = decoder(up(x) + skip)
        return (self.ending(x) + image)[:, :, :height, :width]


SIDD = {"width": 32, "encoder_blocks": [2, 2, 4, 8], "middle_blocks": 12, "decoder_blocks": [2, 2, 2, 2]}
GOPRO = {"width": 32, "encoder_blocks": [1, 1, 1, 28], "middle_blocks": 1, "decoder_blocks": [1, 1, 1, 1]}

CASES = [
    Case(name="nafnet-sidd-width32", architecture="nafnet", arguments=SIDD, transcription=UNet, size=(256, 256)),
    Case(
        name="baseline-sidd-width32",
        architecture="baseline",
        arguments=SIDD | {"depthwise_expansion": 1},
        transcription=UNet,
        size=(256, 256),
    ),
    Case(
        name="nafnet-gopro-width32-local",
        architecture="nafnet_local",
        arguments=GOPRO | {"train_size": 128},
        transcription=UNet,
        size=(384, 512),
    ),
]
