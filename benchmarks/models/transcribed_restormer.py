"""Restormer, Restormer-local, PromptIR and DyNet in the plain order of their papers.

Every normalisation goes to (N, H·W, C) and back, query and key are normalised as written, attention is followed by
the projection of every pixel, and the local form runs window by window in a loop and averages.
"""

from math import ceil

import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.models.case import Case


class Norm(nn.Module):
    """Layer normalisation of (N, H·W, C)."""

    def __init__(self, channels: int, bias_free: bool):
        super().__init__()
        self.bias_free = bias_free
        self.weight = nn.Parameter(torch.ones(channels))
        if not bias_free:
            self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """As the paper has it."""
        variance = x.var(-1, keepdim=True, unbiased=False)
        if self.bias_free:
            return x / torch.sqrt(variance + 1e-5) * self.weight
        return (x - x.mean(-1, keepdim=True)) / torch.sqrt(variance + 1e-5) * self.weight + self.bias


class ImageNorm(nn.Module):
    """Layer normalisation of (N, C, H, W) by way of (N, H·W, C)."""

    def __init__(self, channels: int, bias_free: bool):
        super().__init__()
        self.body = Norm(channels, bias_free)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) to the same."""
        y = self.body(x.flatten(2).transpose(1, 2).contiguous())
        return y.transpose(1, 2).contiguous().view(x.shape)


class Attention(nn.Module):
    """Attention across channels, over the image or window by window."""

    def __init__(self, channels: int, heads: int, bias: bool, window: int | None = None):
        super().__init__()
        self.heads, self.window = heads, window
        self.temperature = nn.Parameter(torch.ones(heads, 1, 1))
        self.qkv = nn.Conv2d(channels, 3 * channels, 1, bias=bias)
        self.qkv_dwconv = nn.Conv2d(3 * channels, 3 * channels, 3, 1, 1, groups=3 * channels, bias=bias)
        self.project_out = nn.Conv2d(channels, channels, 1, bias=bias)

    def attend(self, qkv: torch.Tensor) -> torch.Tensor:
        """(N, 3C, h, w) to (N, C, h, w)."""
        n, channels, height, width = qkv.shape
        q, k, v = (x.reshape(n, self.heads, -1, height * width) for x in qkv.chunk(3, dim=1))
        q, k = F.normalize(q, dim=-1), F.normalize(k, dim=-1)
        maps = (q @ k.transpose(-2, -1)) * self.temperature
        return (maps.softmax(dim=-1) @ v).reshape(n, channels // 3, height, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) to the same."""
        qkv = self.qkv_dwconv(self.qkv(x))
        height, width = x.shape[2:]
        if self.window is None or (self.window >= height and self.window >= width):
            return self.project_out(self.attend(qkv))
        total, count = torch.zeros_like(x), torch.zeros_like(x[:, :1])
        rows, columns = min(self.window, height), min(self.window, width)
        for i in starts(height, rows):
            for j in starts(width, columns):
                place = (..., slice(i, i + rows), slice(j, j + columns))
                total[place] += self.attend(qkv[place])
                count[place] += 1
        return self.project_out(total / count)


def starts(size: int, window: int) -> list[int]:
    """Evenly spaced windows, the last at the border."""
    count = ceil(size / window)
    step = 1 if count == 1 else ceil((size - window) / (count - 1))
    return [min(i * step, size - window) for i in range(count)]


class FeedForward(nn.Module):
    """Gated feed-forward."""

    def __init__(self, channels: int, expansion: float, bias: bool):
        super().__init__()
        hidden = int(channels * expansion)
        self.project_in = nn.Conv2d(channels, 2 * hidden, 1, bias=bias)
        self.dwconv = nn.Conv2d(2 * hidden, 2 * hidden, 3, 1, 1, groups=2 * hidden, bias=bias)
        self.project_out = nn.Conv2d(hidden, channels, 1, bias=bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) to the same."""
        first, second = self.dwconv(self.project_in(x)).chunk(2, dim=1)
        return self.project_out(F.gelu(first) * second)


class Block(nn.Module):
    """Transformer block."""

    def __init__(self, channels: int, heads: int, bias_free: bool, window: int | None = None):
        super().__init__()
        self.norm1 = ImageNorm(channels, bias_free)
        self.attn = Attention(channels, heads, False, window)
        self.norm2 = ImageNorm(channels, bias_free)
        self.ffn = FeedForward(channels, 2.66, False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) to the same."""
        x = x + self.attn(self.norm1(x))
        return x + self.ffn(self.norm2(x))


class Body(nn.Module):
    """Something under the key `body`."""

    def __init__(self, *layers: nn.Module):
        super().__init__()
        self.body = nn.Sequential(*layers)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Applies it."""
        return self.body(x)


def down(c: int) -> Body:
    """Halves the size."""
    return Body(nn.Conv2d(c, c // 2, 3, 1, 1, bias=False), nn.PixelUnshuffle(2))


def up(c: int) -> Body:
    """Doubles the size."""
    return Body(nn.Conv2d(c, 2 * c, 3, 1, 1, bias=False), nn.PixelShuffle(2))


def narrow(inputs: int, outputs: int) -> nn.Conv2d:
    """1x1 convolution."""
    return nn.Conv2d(inputs, outputs, 1, bias=False)


class Trunk(nn.Module):
    """What the four networks have in common."""

    def __init__(
        self,
        *,
        width: int = 48,
        blocks: tuple[int, ...] = (4, 6, 6, 8),
        refinement_blocks: int = 4,
        heads: tuple[int, ...] = (1, 2, 4, 8),
        bias_free: bool = True,
        train_size: int | None = None,
    ):
        super().__init__()

        def stack(level: int, c: int, count: int | None = None) -> nn.Sequential:
            window = None if train_size is None else (train_size >> level) * int(1.5 * train_size) // train_size
            count = blocks[level] if count is None else count
            return nn.Sequential(*(Block(c, heads[level], bias_free, window) for _ in range(count)))

        c = width
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(3, c, 3, 1, 1, bias=False)})
        self.encoder_level1, self.down1_2 = stack(0, c), down(c)
        self.encoder_level2, self.down2_3 = stack(1, 2 * c), down(2 * c)
        self.encoder_level3, self.down3_4 = stack(2, 4 * c), down(4 * c)
        self.latent = stack(3, 8 * c)
        self.up4_3, self.reduce_chan_level3 = up(8 * c), narrow(8 * c, 4 * c)
        self.decoder_level3, self.up3_2 = stack(2, 4 * c), up(4 * c)
        self.reduce_chan_level2, self.decoder_level2 = narrow(4 * c, 2 * c), stack(1, 2 * c)
        self.up2_1, self.decoder_level1 = up(2 * c), stack(0, 2 * c)
        self.refinement = stack(0, 2 * c, refinement_blocks)
        self.output = nn.Conv2d(2 * c, 3, 3, 1, 1, bias=False)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Restormer, for sizes that are multiples of 8."""
        level1 = self.encoder_level1(self.patch_embed["proj"](image))
        level2 = self.encoder_level2(self.down1_2(level1))
        level3 = self.encoder_level3(self.down2_3(level2))
        x = self.up4_3(self.latent(self.down3_4(level3)))
        x = self.decoder_level3(self.reduce_chan_level3(torch.cat([x, level3], 1)))
        x = self.decoder_level2(self.reduce_chan_level2(torch.cat([self.up3_2(x), level2], 1)))
        x = self.decoder_level1(torch.cat([self.up2_1(x), level1], 1))
        return self.output(self.refinement(x)) + image


class Prompt(nn.Module):
    """Prompt generation with the components repeated for every image."""

    def __init__(self, prompt_channels: int, size: int, channels: int):
        super().__init__()
        self.prompt_param = nn.Parameter(torch.rand(1, 5, prompt_channels, size, size))
        self.linear_layer = nn.Linear(channels, 5)
        self.conv3x3 = nn.Conv2d(prompt_channels, prompt_channels, 3, 1, 1, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) to (N, P, H, W)."""
        weights = self.linear_layer(x.mean(dim=(-2, -1))).softmax(dim=1)
        prompt = weights[:, :, None, None, None] * self.prompt_param.repeat(x.shape[0], 1, 1, 1, 1)
        return self.conv3x3(F.interpolate(prompt.sum(dim=1), x.shape[2:], mode="bilinear"))


class Prompted(Trunk):
    """PromptIR; with `reuse`, DyNet."""

    def __init__(
        self,
        *,
        blocks: tuple[int, ...] = (4, 6, 6, 8),
        refinement_blocks: int = 4,
        reuse: tuple[int, ...] | None = None,
    ):
        super().__init__(
            blocks=blocks if reuse is None else (1,) * 4, refinement_blocks=refinement_blocks, bias_free=False
        )
        self.reuse = reuse
        for level, (p, size, c, reduced) in enumerate([(64, 64, 96, 96), (128, 32, 192, 192), (320, 16, 384, 192)], 1):
            self.add_module(f"prompt{level}", Prompt(p, size, c))
            self.add_module(f"noise_level{level}", Block(c + p, 4, False))
            self.add_module(f"reduce_noise_level{level}", narrow(c + p, reduced))
            self.add_module(f"reduce_noise_channel_{level}", narrow(*((112, 48), (224, 96), (448, 192))[level - 1]))
            if reuse is None:
                self.add_module(f"chnl_reduce{level}", narrow(p, (64, 128, 256)[level - 1]))
        self.up4_3, self.reduce_chan_level3 = up(192), narrow(288, 192)
        if reuse is not None:  # the keys of a single block have no index
            for name in ("encoder_level1", "encoder_level2", "encoder_level3", "latent"):
                setattr(self, name, getattr(self, name)[0])
            for name in ("decoder_level3", "decoder_level2", "decoder_level1"):
                setattr(self, name, getattr(self, name)[0])

    def prompted(self, x: torch.Tensor, level: int) -> torch.Tensor:
        """Joins a feature and its prompt."""
        x = torch.cat([x, getattr(self, f"prompt{level}")(x)], 1)
        return getattr(self, f"reduce_noise_level{level}")(getattr(self, f"noise_level{level}")(x))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """For sizes that are multiples of 8."""
        reuse = (1,) * 4 if self.reuse is None else self.reuse

        def run(name: str, x: torch.Tensor, times: int) -> torch.Tensor:
            for _ in range(times):
                x = getattr(self, name)(x)
            return x

        level1 = run("encoder_level1", self.patch_embed["proj"](image), reuse[0])
        level2 = run("encoder_level2", self.down1_2(level1), reuse[1])
        level3 = run("encoder_level3", self.down2_3(level2), reuse[2])
        x = self.up4_3(self.prompted(run("latent", self.down3_4(level3), reuse[3]), 3))
        skip3 = level3 if self.reuse is None else self.prompted(level3, 2)
        x = run("decoder_level3", self.reduce_chan_level3(torch.cat([x, skip3], 1)), reuse[2])
        x = self.up3_2(self.prompted(x, 2) if self.reuse is None else x)
        skip2 = level2 if self.reuse is None else self.prompted(level2, 1)
        x = run("decoder_level2", self.reduce_chan_level2(torch.cat([x, skip2], 1)), reuse[1])
        x = self.up2_1(self.prompted(x, 1) if self.reuse is None else x)
        x = run("decoder_level1", torch.cat([x, level1], 1), reuse[0])
        return self.output(self.refinement(x)) + image


CASES = [
    Case(name="restormer-denoise", architecture="restormer", arguments={}, transcription=Trunk, size=(128, 128)),
    Case(
        name="restormer-demo",
        architecture="restormer",
        arguments={"width": 12, "blocks": [1, 1, 1, 2], "refinement_blocks": 1, "heads": [1, 2, 2, 4]},
        transcription=Trunk,
        size=(192, 192),
    ),
    Case(
        name="restormer-denoise-local, 1 block a level",
        architecture="restormer_local",
        arguments={"blocks": (1, 1, 1, 1), "refinement_blocks": 1, "train_size": 64},
        transcription=Trunk,
        size=(192, 256),
    ),
    Case(name="promptir", architecture="promptir", arguments={}, transcription=Prompted, size=(128, 128)),
    Case(
        name="dynet-code-small",
        architecture="dynet",
        arguments={"reuse": (2, 3, 3, 4), "prompts": "code"},
        transcription=Prompted,
        size=(128, 128),
    ),
]
