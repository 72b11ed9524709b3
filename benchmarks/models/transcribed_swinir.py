"""SwinIR, and the masked transformer built like it, in the plain order of their papers: roll, partition, attend, undo.

Tokens change between (N, H·W, C) and (N, C, H, W) around every convolution, each block rolls and partitions its input
and undoes both, and scores, bias, mask and softmax are steps of their own. The mask of a size is made once and kept.
"""

import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.models.case import Case


def partition(x: torch.Tensor, window: int) -> torch.Tensor:
    """(N, H, W, C) to (windows, window², C)."""
    n, height, width, c = x.shape
    x = x.view(n, height // window, window, width // window, window, c)
    return x.permute(0, 1, 3, 2, 4, 5).contiguous().view(-1, window * window, c)


def reverse(windows: torch.Tensor, window: int, height: int, width: int) -> torch.Tensor:
    """The inverse of `partition`."""
    n = windows.shape[0] // (height // window * (width // window))
    x = windows.view(n, height // window, width // window, window, window, -1)
    return x.permute(0, 1, 3, 2, 4, 5).contiguous().view(n, height, width, -1)


def shift_mask(height: int, width: int, window: int, shift: int) -> torch.Tensor:
    """(windows, T, T): -100 between tokens of different regions of the rolled image."""
    regions, number = torch.zeros(1, height, width, 1), 0
    cuts = (slice(0, -window), slice(-window, -shift), slice(-shift, None))
    for rows in cuts:
        for columns in cuts:
            regions[:, rows, columns] = number
            number += 1
    regions = partition(regions, window).squeeze(-1)
    difference = regions.unsqueeze(1) - regions.unsqueeze(2)
    return torch.zeros_like(difference).masked_fill(difference != 0, -100.0)


class Attention(nn.Module):
    """Window attention, step by step."""

    def __init__(self, channels: int, heads: int, window: int, stored_index: bool = True):
        super().__init__()
        self.heads, self.area = heads, window * window
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * window - 1) ** 2, heads))
        if stored_index:
            self.register_buffer("relative_position_index", torch.zeros(self.area, self.area, dtype=torch.long))
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj = nn.Linear(channels, channels)

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None, index: torch.Tensor | None = None) -> torch.Tensor:
        """(windows, T, C) to the same."""
        index = self.relative_position_index if index is None else index
        windows, area, channels = x.shape
        qkv = self.qkv(x).reshape(windows, area, 3, self.heads, channels // self.heads).permute(2, 0, 3, 1, 4)
        query, key, value = qkv[0], qkv[1], qkv[2]
        scores = (query * (channels // self.heads) ** -0.5) @ key.transpose(-2, -1)
        bias = self.relative_position_bias_table[index.view(-1)].view(area, area, -1)
        scores = scores + bias.permute(2, 0, 1).contiguous().unsqueeze(0)
        if mask is not None:
            count = mask.shape[0]
            scores = scores.view(windows // count, count, self.heads, area, area) + mask.unsqueeze(1).unsqueeze(0)
            scores = scores.view(-1, self.heads, area, area)
        mixed = scores.softmax(dim=-1) @ value
        return self.proj(mixed.transpose(1, 2).reshape(windows, area, channels))


class FeedForward(nn.Module):
    """Linear, GELU, linear."""

    def __init__(self, channels: int, hidden: int):
        super().__init__()
        self.fc1 = nn.Linear(channels, hidden)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(hidden, channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(..., C) to the same."""
        return self.fc2(self.act(self.fc1(x)))


class Block(nn.Module):
    """Swin block on (N, H·W, C)."""

    def __init__(self, channels: int, heads: int, window: int, shift: int, hidden: int, image_size: int):
        super().__init__()
        self.window, self.shift = window, shift
        self.masks: dict[tuple[int, int], torch.Tensor] = {}
        if shift:
            windows = (image_size // window) ** 2
            self.register_buffer("attn_mask", torch.zeros(windows, window**2, window**2))
        self.norm1 = nn.LayerNorm(channels)
        self.attn = Attention(channels, heads, window)
        self.norm2 = nn.LayerNorm(channels)
        self.mlp = FeedForward(channels, hidden)

    def forward(self, x: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        """(N, H·W, C) to the same."""
        n, _, channels = x.shape
        y = self.norm1(x).view(n, *size, channels)
        if self.shift:
            y = torch.roll(y, (-self.shift, -self.shift), (1, 2))
            if size not in self.masks:
                self.masks[size] = shift_mask(*size, self.window, self.shift).to(x.device)
        windows = self.attn(partition(y, self.window), self.masks.get(size))
        y = reverse(windows, self.window, *size)
        if self.shift:
            y = torch.roll(y, (self.shift, self.shift), (1, 2))
        x = x + y.view(n, -1, channels)
        return x + self.mlp(self.norm2(x))


def flat(x: torch.Tensor) -> torch.Tensor:
    """(N, C, H, W) to (N, H·W, C)."""
    return x.flatten(2).transpose(1, 2)


def square(x: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """(N, H·W, C) to (N, C, H, W)."""
    return x.transpose(1, 2).view(x.shape[0], -1, *size)


class Blocks(nn.Module):
    """The blocks of a group."""

    def __init__(self, blocks: list[Block]):
        super().__init__()
        self.blocks = nn.ModuleList(blocks)

    def forward(self, x: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        """(N, H·W, C) to the same."""
        for block in self.blocks:
            x = block(x, size)
        return x


def tail(channels: int, bottleneck: bool) -> nn.Module:
    """The convolution after a group."""
    if not bottleneck:
        return nn.Conv2d(channels, channels, 3, 1, 1)
    return nn.Sequential(
        nn.Conv2d(channels, channels // 4, 3, 1, 1),
        nn.LeakyReLU(0.2),
        nn.Conv2d(channels // 4, channels // 4, 1),
        nn.LeakyReLU(0.2),
        nn.Conv2d(channels // 4, channels, 3, 1, 1),
    )


class Group(nn.Module):
    """Residual group."""

    def __init__(self, blocks: list[Block], channels: int, bottleneck: bool):
        super().__init__()
        self.residual_group = Blocks(blocks)
        self.conv = tail(channels, bottleneck)

    def forward(self, x: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        """(N, H·W, C) to the same."""
        return flat(self.conv(square(self.residual_group(x, size), size))) + x


class Embedding(nn.Module):
    """The first normalisation."""

    def __init__(self, channels: int):
        super().__init__()
        self.norm = nn.LayerNorm(channels)


class SwinIR(nn.Module):
    """SwinIR for denoising; with `masked`, the masked transformer without masks."""

    def __init__(
        self,
        *,
        width: int = 180,
        blocks: tuple[int, ...] = (6,) * 6,
        heads: tuple[int, ...] = (6,) * 6,
        window: int = 8,
        image_size: int = 128,
        channels: int = 3,
        masked: bool = False,
    ):
        super().__init__()
        self.masked, self.window = masked, window
        self.mean = (
            torch.tensor([0.4488, 0.4371, 0.4040]).view(1, 3, 1, 1) if channels == 3 else torch.zeros(1, 1, 1, 1)
        )
        self.conv_first = nn.Conv2d(channels, width, 1) if masked else nn.Conv2d(channels, width, 3, 1, 1)
        self.patch_embed = Embedding(width)
        self.layers = nn.ModuleList(
            Group(
                [Block(width, h, window, window // 2 * (i % 2), 2 * width, image_size) for i in range(count)],
                width,
                masked,
            )
            for count, h in zip(blocks, heads, strict=True)
        )
        self.norm = nn.LayerNorm(width)
        self.conv_after_body = tail(width, masked)
        self.conv_last = nn.Conv2d(width, channels, 3, 1, 1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) to the same."""
        height, width = image.shape[2:]
        bottom, right = -height % self.window, -width % self.window
        mean = self.mean.to(image)
        x = F.pad(image, (0, right, 0, bottom), "reflect") - mean
        size = tuple(x.shape[2:])
        shallow = self.conv_first(x)
        y = self.patch_embed.norm(flat(shallow))
        for group in self.layers:
            y = group(y, size)
        y = self.conv_after_body(square(self.norm(y), size))
        y = self.conv_last(y) if self.masked else x + self.conv_last(y + shallow)
        return (y + mean)[:, :, :height, :width]


def masked_transformer(
    *,
    width: int = 60,
    blocks: tuple[int, ...] = (6,) * 4,
    heads: tuple[int, ...] = (6,) * 4,
    image_size: int = 64,
    attention_mask_ratio: float = 0.0,
) -> SwinIR:
    """The masked transformer with its masks off."""
    assert attention_mask_ratio == 0
    return SwinIR(width=width, blocks=blocks, heads=heads, image_size=image_size, masked=True)


CASES = [
    Case(name="swinir-denoise", architecture="swinir", arguments={}, transcription=SwinIR, size=(64, 64)),
    Case(
        name="swinir-denoise, 1 group of 6",
        architecture="swinir",
        arguments={"blocks": (6,), "heads": (6,)},
        transcription=SwinIR,
        size=(128, 128),
    ),
    Case(
        name="masked-denoise, masks off",
        architecture="masked",
        arguments={"attention_mask_ratio": 0.0},
        transcription=masked_transformer,
        size=(128, 128),
    ),
]
