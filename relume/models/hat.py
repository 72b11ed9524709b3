"""HAT: hybrid attention, of windows, overlapping windows and channels, for super-resolution and denoising.

Source: Chen et al., "Activating More Pixels in Image Super-Resolution Transformer", CVPR 2023 (arXiv 2205.04437).
State-dict keys and values are those of the official implementation. Deviations: images of any size are padded by
reflection to multiples of the window inside `forward`, as the official test script does; `residual` is ours.

The official class is a super-resolution network without a residual of the image. With `upscale=1` its upsampling
stage is empty, and it is used for denoising that way; `residual=True` adds the image, which is what denoisers
usually learn around, and changes no key.
"""

from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from relume.models.layers import channels_last, pad_to_multiple
from relume.models.registry import Variant
from relume.models.swinir import DIV2K_MEAN, Embedding, convolve
from relume.models.window_attention import (
    DropPath,
    FeedForward,
    TokenLinear,
    WindowAttention,
    Windows,
    attend,
    divide,
    drop_path_rates,
    initialise,
    position_bias,
    relative_position_index,
)


def overlap_position_index(window: int, overlapping: int) -> torch.Tensor:
    """(T, K) bias-table row for each pair of a window's and an overlapping window's token, as the checkpoints hold it.

    The offsets are counted from window - overlapping + 1 and not from the smallest one, so that some are negative. They
    count from the end of the table, and all rows are used. Trained tables depend on it.
    """
    small, large = torch.arange(window), torch.arange(overlapping)
    offsets = large - small[:, None] + window - overlapping + 1
    rows, columns = offsets[:, None, :, None], offsets[None, :, None, :]
    return (rows * (window + overlapping - 1) + columns).reshape(window**2, overlapping**2)


class ChannelAttention(nn.Module):
    """Per-channel factors in (0, 1) from the mean of each channel, through a bottleneck of C / squeeze."""

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


class ChannelAttentionBlock(nn.Module):
    """Two 3x3 convolutions through C / compress channels, then channel attention (CAB, section 3.2.2)."""

    def __init__(self, channels: int, compress: int, squeeze: int):
        super().__init__()
        self.cab = nn.Sequential(
            nn.Conv2d(channels, channels // compress, 3, padding=1),
            nn.GELU(),
            nn.Conv2d(channels // compress, channels, 3, padding=1),
            ChannelAttention(channels, squeeze),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) to the same."""
        return self.cab(x)


class HybridBlock(nn.Module):
    """x + window attention(norm(x)) + scale · CAB(norm(x)), then x + feed-forward(norm(x)) (HAB, section 3.2.2)."""

    def __init__(
        self,
        channels: int,
        heads: int,
        window: int,
        shift: int,
        hidden: int,
        compress: int,
        squeeze: int,
        conv_scale: float,
        drop_path: float,
    ):
        super().__init__()
        self.shift, self.conv_scale = shift, conv_scale
        self.norm1 = nn.LayerNorm(channels)
        self.attn = WindowAttention(channels, heads, window, index=False)
        self.conv_block = ChannelAttentionBlock(channels, compress, squeeze)
        self.drop_path = DropPath(drop_path)
        self.norm2 = nn.LayerNorm(channels)
        self.mlp = FeedForward(channels, hidden)

    def forward(self, x: torch.Tensor, grids: tuple[Windows, Windows], index: torch.Tensor) -> torch.Tensor:
        """(N, H, W, C) to the same; `index` as in `WindowAttention`."""
        windows = grids[self.shift > 0]
        normed = self.norm1(x)
        rows = normed.view(-1, x.shape[-1]).index_select(0, windows.order)
        mixed = self.drop_path(self.attn(rows, windows, self.shift, index), windows)
        x = x + mixed.index_select(0, windows.place).view(x.shape)
        x = torch.add(x, convolve(self.conv_block, normed), alpha=self.conv_scale)
        return x + self.drop_path.of_images(self.mlp(self.norm2(x).view(rows.shape)).view(x.shape))


class OverlappingBlock(nn.Module):
    """Attention of each window over a larger one around it, then feed-forward, both residual (OCAB, section 3.2.3).

    Args:
        channels: C, divisible by `heads`.
        heads: Attention heads.
        window: Side of the windows that ask, in pixels.
        overlap: By which part of `window` the windows that answer are larger; beyond the image they hold zeros.
        hidden: Channels inside the feed-forward.
    """

    def __init__(self, channels: int, heads: int, window: int, overlap: float, hidden: int):
        super().__init__()
        self.heads, self.window, self.overlapping = heads, window, window + int(window * overlap)
        self.relative_position_bias_table = nn.Parameter(torch.zeros((window + self.overlapping - 1) ** 2, heads))
        self.norm1 = nn.LayerNorm(channels)
        self.qkv = TokenLinear(channels, 3 * channels)
        self.proj = TokenLinear(channels, channels)
        self.norm2 = nn.LayerNorm(channels)
        self.mlp = FeedForward(channels, hidden)

    def forward(self, x: torch.Tensor, windows: Windows, around: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        """(N, H, W, C) to the same.

        Args:
            x: Feature.
            windows: Its plain grid.
            around: From `overlapping_tokens`.
            index: From `overlap_position_index`, made positive.
        """
        channels = x.shape[-1]
        tokens = self.qkv(self.norm1(x).view(-1, channels))
        query = (
            tokens[:, :channels]
            .index_select(0, windows.order)
            .view(-1, windows.area, self.heads, channels // self.heads)
        )
        # One row of zeros is what lies beyond the image.
        others = F.pad(tokens[:, channels:], (0, 0, 0, 1)).index_select(0, around)
        key, value = others.view(query.shape[0], -1, 2, self.heads, channels // self.heads).unbind(2)
        mixed = attend(query, key, value, position_bias(self.relative_position_bias_table, index))
        x = x + self.proj(mixed.view(-1, channels)).index_select(0, windows.place).view(x.shape)
        return x + self.mlp(self.norm2(x).view(-1, channels)).view(x.shape)


@lru_cache(maxsize=64)
def overlapping_order(height: int, width: int, window: int, overlapping: int) -> np.ndarray:
    """The pixels of one image in the order of overlapping windows, (windows · overlapping²,), -1 beyond the image."""
    margin = (overlapping - window) // 2
    padded = np.full((height + 2 * margin, width + 2 * margin), -1)
    padded[margin : margin + height, margin : margin + width] = np.arange(height * width).reshape(height, width)
    reach = np.arange(overlapping)
    down, across = ((np.arange(0, side, window)[:, None] + reach).reshape(-1) for side in (height, width))
    cut = padded[down][:, across].reshape(height // window, overlapping, width // window, overlapping)
    return cut.transpose(0, 2, 1, 3).reshape(-1)


def overlapping_tokens(shape: torch.Size, window: int, overlapping: int, device: torch.device) -> torch.Tensor:
    """Image tokens of (N, H, W, C) in the order of overlapping windows, as `divide` orders plain ones.

    Returns:
        (windows · N · overlapping²,) rows of the tokens counted through (N, H, W); N·H·W stands for beyond the image.
    """
    images, height, width = shape[:3]
    pixels = torch.from_numpy(overlapping_order(height, width, window, overlapping)).to(device)
    pixels = pixels.view(-1, 1, overlapping**2)
    tokens = pixels + torch.arange(images, device=device).view(1, -1, 1) * (height * width)
    return torch.where(pixels < 0, images * height * width, tokens).flatten()


class HybridBlocks(nn.Module):
    """Hybrid blocks, every other one in the shifted grid, and an overlapping block after them."""

    def __init__(self, blocks: list[HybridBlock], overlap_attn: OverlappingBlock):
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.overlap_attn = overlap_attn


class ResidualHybridGroup(nn.Module):
    """Residual hybrid attention group (RHAG): x + convolution(blocks(x)) (section 3.2.1)."""

    def __init__(self, channels: int, blocks: list[HybridBlock], overlap_attn: OverlappingBlock):
        super().__init__()
        self.residual_group = HybridBlocks(blocks, overlap_attn)
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(
        self,
        x: torch.Tensor,
        grids: tuple[Windows, Windows],
        around: torch.Tensor,
        index: torch.Tensor,
        overlap_index: torch.Tensor,
    ) -> torch.Tensor:
        """(N, H, W, C) to the same."""
        y = x
        for block in self.residual_group.blocks:
            y = block(y, grids, index)
        y = self.residual_group.overlap_attn(y, grids[0], around, overlap_index)
        return x + convolve(self.conv, y)


class HAT(nn.Module):
    """Hybrid attention transformer.

    Args:
        width: Channels C.
        blocks: Hybrid blocks of each residual group.
        heads: Attention heads of each group.
        window: Side of a window in pixels.
        overlap: By which part the overlapping windows are larger.
        mlp_ratio: Hidden channels of the feed-forward over C.
        compress: Divisor of C inside the convolution branch.
        squeeze: Divisor of C inside the channel attention.
        conv_scale: Weight of the convolution branch.
        upscale: 1 for denoising; 2, 3 or 4 enlarges the image.
        residual: Whether the image is added to the output; for `upscale` 1 only.
        drop_path: Stochastic depth at the last block in training; 0.1 in the published recipe.
        channels: Image channels.
    """

    def __init__(
        self,
        *,
        width: int = 180,
        blocks: tuple[int, ...] = (6, 6, 6, 6, 6, 6),
        heads: tuple[int, ...] = (6, 6, 6, 6, 6, 6),
        window: int = 16,
        overlap: float = 0.5,
        mlp_ratio: float = 2,
        compress: int = 3,
        squeeze: int = 30,
        conv_scale: float = 0.01,
        upscale: int = 1,
        residual: bool = False,
        drop_path: float = 0.1,
        channels: int = 3,
    ):
        super().__init__()
        assert not (residual and upscale > 1), "an enlarged image has no residual of its own size"
        self.window, self.upscale, self.residual = window, upscale, residual
        self.overlapping = window + int(window * overlap)
        mean = DIV2K_MEAN if channels == 3 else (0.0,) * channels
        self.register_buffer("image_mean", torch.tensor(mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("relative_position_index_SA", relative_position_index(window))
        self.register_buffer("relative_position_index_OCA", overlap_position_index(window, self.overlapping))
        self.conv_first = nn.Conv2d(channels, width, 3, padding=1)
        self.patch_embed = Embedding(width)
        hidden, rates = int(width * mlp_ratio), iter(drop_path_rates(drop_path, sum(blocks)))
        self.layers = nn.ModuleList(
            ResidualHybridGroup(
                width,
                [
                    HybridBlock(
                        width,
                        group_heads,
                        window,
                        window // 2 * (i % 2),
                        hidden,
                        compress,
                        squeeze,
                        conv_scale,
                        next(rates),
                    )
                    for i in range(count)
                ],
                OverlappingBlock(width, group_heads, window, overlap, hidden),
            )
            for count, group_heads in zip(blocks, heads, strict=True)
        )
        self.norm = nn.LayerNorm(width)
        self.conv_after_body = nn.Conv2d(width, width, 3, padding=1)
        self.conv_before_upsample = nn.Sequential(nn.Conv2d(width, 64, 3, padding=1), nn.LeakyReLU(0.01))
        factors = {1: [], 2: [2], 3: [3], 4: [2, 2]}[upscale]
        stages = [(nn.Conv2d(64, 64 * factor**2, 3, padding=1), nn.PixelShuffle(factor)) for factor in factors]
        self.upsample = nn.Sequential(*(layer for stage in stages for layer in stage))
        self.conv_last = nn.Conv2d(64, channels, 3, padding=1)
        initialise(self)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) in [0, 1] to (N, C, upscale·H, upscale·W), not clamped; any H and W."""
        height, width = image.shape[-2] * self.upscale, image.shape[-1] * self.upscale
        padded = pad_to_multiple(image, self.window, mode="reflect")
        shallow = channels_last(self.conv_first(padded - self.image_mean)).permute(0, 2, 3, 1)
        grids = (
            divide(shallow.shape, self.window, 0, image.device),
            divide(shallow.shape, self.window, self.window // 2, image.device),
        )
        around = overlapping_tokens(shallow.shape, self.window, self.overlapping, image.device)
        overlap_index = self.relative_position_index_OCA % (self.window + self.overlapping - 1) ** 2
        x = self.patch_embed(shallow)
        for group in self.layers:
            x = group(x, grids, around, self.relative_position_index_SA, overlap_index)
        x = (convolve(self.conv_after_body, self.norm(x)) + shallow).permute(0, 3, 1, 2)
        x = self.conv_last(self.upsample(self.conv_before_upsample(x)))
        return (x + (padded if self.residual else self.image_mean))[:, :, :height, :width]


VARIANTS = {
    "hat-denoise": Variant(
        architecture="hat", arguments={}, about="the official network at the image's own size", parameters=20_477_083
    ),
    "hat-denoise-residual": Variant(
        architecture="hat",
        arguments={"residual": True},
        about="the same, learning what to add to the image",
        parameters=20_477_083,
    ),
    "hat-x2": Variant(
        architecture="hat", arguments={"upscale": 2}, about="super-resolution to twice the size", parameters=20_624_795
    ),
    "hat-x4": Variant(
        architecture="hat", arguments={"upscale": 4}, about="super-resolution to four times", parameters=20_772_507
    ),
    "hat-demo": Variant(
        architecture="hat",
        arguments={
            "width": 24,
            "blocks": [2],
            "heads": [2],
            "window": 8,
            "squeeze": 6,
            "residual": True,
            "drop_path": 0.0,
        },
        about="minutes on a CPU",
    ),
}
