"""HAT in the plain order of its paper; see `transcribed_swinir`. Overlapping windows are cut by `unfold`."""

import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.models.case import Case
from benchmarks.models.transcribed_swinir import (
    Attention,
    Embedding,
    FeedForward,
    flat,
    partition,
    reverse,
    shift_mask,
    square,
)


class ChannelAttention(nn.Module):
    """Squeeze and excitation."""

    def __init__(self, channels: int, squeeze: int):
        super().__init__()
        self.attention = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(channels, channels // squeeze, 1),
            nn.ReLU(),
            nn.Conv2d(channels // squeeze, channels, 1),
            nn.Sigmoid(),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) to the same."""
        return x * self.attention(x)


class ConvolutionBranch(nn.Module):
    """Convolutions and channel attention."""

    def __init__(self, channels: int, compress: int, squeeze: int):
        super().__init__()
        self.cab = nn.Sequential(
            nn.Conv2d(channels, channels // compress, 3, 1, 1),
            nn.GELU(),
            nn.Conv2d(channels // compress, channels, 3, 1, 1),
            ChannelAttention(channels, squeeze),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) to the same."""
        return self.cab(x)


class HybridBlock(nn.Module):
    """Window attention and convolution branch side by side, then feed-forward."""

    def __init__(self, channels: int, heads: int, window: int, shift: int, squeeze: int):
        super().__init__()
        self.window, self.shift = window, shift
        self.norm1 = nn.LayerNorm(channels)
        self.attn = Attention(channels, heads, window, stored_index=False)
        self.conv_block = ConvolutionBranch(channels, 3, squeeze)
        self.norm2 = nn.LayerNorm(channels)
        self.mlp = FeedForward(channels, 2 * channels)

    def forward(self, x: torch.Tensor, size: tuple[int, int], index: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """(N, H·W, C) to the same."""
        n, _, channels = x.shape
        normed = self.norm1(x).view(n, *size, channels)
        convolved = flat(self.conv_block(normed.permute(0, 3, 1, 2)))
        y = torch.roll(normed, (-self.shift, -self.shift), (1, 2)) if self.shift else normed
        windows = self.attn(partition(y, self.window), mask if self.shift else None, index)
        y = reverse(windows, self.window, *size)
        if self.shift:
            y = torch.roll(y, (self.shift, self.shift), (1, 2))
        x = x + y.view(n, -1, channels) + convolved * 0.01
        return x + self.mlp(self.norm2(x))


class OverlappingBlock(nn.Module):
    """Overlapping cross-attention and feed-forward."""

    def __init__(self, channels: int, heads: int, window: int):
        super().__init__()
        self.heads, self.window, self.overlapping = heads, window, window * 3 // 2
        self.relative_position_bias_table = nn.Parameter(torch.zeros((window + self.overlapping - 1) ** 2, heads))
        self.norm1 = nn.LayerNorm(channels)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.unfold = nn.Unfold(self.overlapping, stride=window, padding=(self.overlapping - window) // 2)
        self.proj = nn.Linear(channels, channels)
        self.norm2 = nn.LayerNorm(channels)
        self.mlp = FeedForward(channels, 2 * channels)

    def forward(self, x: torch.Tensor, size: tuple[int, int], index: torch.Tensor) -> torch.Tensor:
        """(N, H·W, C) to the same."""
        n, _, channels = x.shape
        depth, area, larger = channels // self.heads, self.window**2, self.overlapping**2
        qkv = self.qkv(self.norm1(x).view(n, *size, channels)).reshape(n, *size, 3, channels).permute(3, 0, 4, 1, 2)
        query = partition(qkv[0].permute(0, 2, 3, 1), self.window)
        around = self.unfold(torch.cat((qkv[1], qkv[2]), dim=1))  # (N, 2C·larger, windows)
        around = around.view(n, 2, channels, larger, -1).permute(1, 0, 4, 3, 2).contiguous()
        key, value = around.view(2, -1, larger, channels)
        windows = query.shape[0]
        query = query.reshape(windows, area, self.heads, depth).permute(0, 2, 1, 3)
        key = key.reshape(windows, larger, self.heads, depth).permute(0, 2, 1, 3)
        value = value.reshape(windows, larger, self.heads, depth).permute(0, 2, 1, 3)
        scores = (query * depth**-0.5) @ key.transpose(-2, -1)
        bias = self.relative_position_bias_table[index.view(-1)].view(area, larger, -1)
        scores = scores + bias.permute(2, 0, 1).contiguous().unsqueeze(0)
        mixed = (scores.softmax(dim=-1) @ value).transpose(1, 2).reshape(windows, area, channels)
        x = self.proj(reverse(mixed, self.window, *size).view(n, -1, channels)) + x
        return x + self.mlp(self.norm2(x))


class Blocks(nn.Module):
    """Hybrid blocks and the overlapping one."""

    def __init__(self, blocks: list[HybridBlock], overlap_attn: OverlappingBlock):
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.overlap_attn = overlap_attn


class Group(nn.Module):
    """Residual group."""

    def __init__(self, channels: int, heads: int, window: int, count: int, squeeze: int):
        super().__init__()
        blocks = [HybridBlock(channels, heads, window, window // 2 * (i % 2), squeeze) for i in range(count)]
        self.residual_group = Blocks(blocks, OverlappingBlock(channels, heads, window))
        self.conv = nn.Conv2d(channels, channels, 3, 1, 1)

    def forward(
        self,
        x: torch.Tensor,
        size: tuple[int, int],
        index: torch.Tensor,
        overlap_index: torch.Tensor,
        mask: torch.Tensor,
    ) -> torch.Tensor:
        """(N, H·W, C) to the same."""
        y = x
        for block in self.residual_group.blocks:
            y = block(y, size, index, mask)
        y = self.residual_group.overlap_attn(y, size, overlap_index)
        return flat(self.conv(square(y, size))) + x


class HAT(nn.Module):
    """HAT at upscale 1."""

    def __init__(
        self,
        *,
        width: int = 180,
        blocks: tuple[int, ...] = (6,) * 6,
        heads: tuple[int, ...] = (6,) * 6,
        window: int = 16,
        squeeze: int = 30,
    ):
        super().__init__()
        self.window = window
        self.masks: dict[tuple[int, int], torch.Tensor] = {}
        self.mean = torch.tensor([0.4488, 0.4371, 0.4040]).view(1, 3, 1, 1)
        area, larger = window**2, (window * 3 // 2) ** 2
        self.register_buffer("relative_position_index_SA", torch.zeros(area, area, dtype=torch.long))
        self.register_buffer("relative_position_index_OCA", torch.zeros(area, larger, dtype=torch.long))
        self.conv_first = nn.Conv2d(3, width, 3, 1, 1)
        self.patch_embed = Embedding(width)
        self.layers = nn.ModuleList(
            Group(width, h, window, count, squeeze) for count, h in zip(blocks, heads, strict=True)
        )
        self.norm = nn.LayerNorm(width)
        self.conv_after_body = nn.Conv2d(width, width, 3, 1, 1)
        self.conv_before_upsample = nn.Sequential(nn.Conv2d(width, 64, 3, 1, 1), nn.LeakyReLU())
        self.conv_last = nn.Conv2d(64, 3, 3, 1, 1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """(N, 3, H, W) to the same."""
        height, width = image.shape[2:]
        mean = self.mean.to(image)
        x = F.pad(image, (0, -width % self.window, 0, -height % self.window), "reflect") - mean
        size = x.shape[2], x.shape[3]
        if size not in self.masks:
            self.masks[size] = shift_mask(*size, self.window, self.window // 2).to(image.device)
        shallow = self.conv_first(x)
        y = self.patch_embed.norm(flat(shallow))
        for group in self.layers:
            y = group(y, size, self.relative_position_index_SA, self.relative_position_index_OCA, self.masks[size])
        y = self.conv_after_body(square(self.norm(y), size)) + shallow
        return (self.conv_last(self.conv_before_upsample(y)) + mean)[:, :, :height, :width]


CASES = [
    Case(name="hat-denoise", architecture="hat", arguments={}, transcription=HAT, size=(64, 64)),
    Case(
        name="hat-denoise, 1 group of 6",
        architecture="hat",
        arguments={"blocks": (6,), "heads": (6,)},
        transcription=HAT,
        size=(128, 128),
    ),
]
