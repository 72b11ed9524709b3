"""Self-attention inside (shifted) windows with a learned relative position bias, shared by the Swin-like families.

Source: Liu et al., "Swin Transformer", ICCV 2021 (arXiv 2103.14030), as used by SwinIR, HAT and Xformer.
State-dict keys are those of these families' checkpoints.

Two formulations differ from the published code, not in the result:

- Tokens are rows of a matrix (tokens, C). One `index_select` moves them from the order of the image, or of another
  window grid, into the order of windows; rolling, partitioning and their inverses need no copies of their own, and
  everything that works per token (normalisation, linear maps) runs in whatever order the rows stand.
- A shifted grid has four kinds of windows: inside, and in the last column, the last row, the last corner. Their masks
  depend on the window and the shift alone, so that neither memory nor an exported graph holds a mask per window.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

# What the published code adds to the score of two tokens that a shift brought into one window from opposite borders.
APART = -100.0


@dataclass(frozen=True, kw_only=True)
class Windows:
    """The grid of windows over a batch of features, as two permutations of the tokens.

    Rows in window order go through the windows, then the images of the batch, then the tokens of a window.

    Attributes:
        order: (R,) the image token, counted through (N, H, W), that stands at each row in window order.
        place: (R,) the row in window order of each image token: the inverse of `order`.
        spans: For each kind of window its first row, the row after its last, and whether the windows join
            opposite (rows, columns) of the image.
        area: Tokens of a window.
        images: Images in the batch.
    """

    order: torch.Tensor
    place: torch.Tensor
    spans: list[tuple[int, int, tuple[bool, bool]]]
    area: int
    images: int


@lru_cache(maxsize=64)
def window_order(height: int, width: int, window: int, shift: int) -> tuple[np.ndarray, np.ndarray]:
    """The pixels of one image in the order of its windows, (windows · window²,), and the inverse permutation.

    A shifted grid begins with the windows inside, then come those of the last column, the last row and the corner.
    """
    pixels = np.roll(np.arange(height * width).reshape(height, width), (-shift, -shift), (0, 1))
    grid = pixels.reshape(height // window, window, width // window, window).transpose(0, 2, 1, 3)
    kinds = [grid[:-1, :-1], grid[:-1, -1], grid[-1, :-1], grid[-1, -1]] if shift else [grid]
    order = np.concatenate([kind.reshape(-1) for kind in kinds])
    return order, np.argsort(order)


def divide(shape: torch.Size, window: int, shift: int, device: torch.device) -> Windows:
    """The window grid of features (N, H, W, C), H and W multiples of `window`, moved by `shift` pixels."""
    images, height, width = shape[:3]
    down, across, area = height // window, width // window, window**2
    order, place = (torch.from_numpy(table).to(device) for table in window_order(height, width, window, shift))
    image = torch.arange(images, device=device)
    order = order.view(-1, 1, area) + image.view(1, -1, 1) * (height * width)
    place = place // area * area * images + place % area + image.view(-1, 1) * area
    inside, column, row = (down - 1) * (across - 1), down - 1, across - 1
    kinds = [(inside, (False, False)), (column, (False, True)), (row, (True, False)), (1, (True, True))]
    spans, start = [], 0
    for count, joins in kinds if shift else [(down * across, (False, False))]:
        if count:
            spans.append((start * images, (start + count) * images, joins))
            start += count
    return Windows(order=order.flatten(), place=place.flatten(), spans=spans, area=area, images=images)


def relative_position_index(window: int) -> torch.Tensor:
    """(T, T) row of the bias table, of (2 window - 1)^2 offsets, for every pair of a window's T tokens."""
    y, x = torch.arange(window**2).div(window, rounding_mode="floor"), torch.arange(window**2).remainder(window)
    return (y[:, None] - y + window - 1) * (2 * window - 1) + x[:, None] - x + window - 1


def border_mask(window: int, shift: int, joins: tuple[bool, bool], like: torch.Tensor) -> torch.Tensor:
    """(T, T) with 0 for tokens of a window that are neighbours in the image and `APART` for those that are not."""
    far = torch.arange(window, device=like.device) >= window - shift
    sides = far.expand(window, window)
    apart = torch.zeros(window**2, window**2, dtype=torch.bool, device=like.device)
    for joined, side in zip(joins, (sides.t(), sides), strict=True):
        if joined:
            apart = apart | (side.reshape(-1, 1) != side.reshape(1, -1))
    return apart.to(like.dtype) * APART


def border_masks_of_size(height: int, width: int, window: int, shift: int) -> torch.Tensor:
    """(windows, T, T): the buffer `attn_mask` of the checkpoints, for one size of image. Never used to compute."""
    grid = torch.zeros(height // window, width // window, window**2, window**2)
    for rows in (False, True):
        for columns in (False, True):
            mask = border_mask(window, shift, (rows, columns), grid)
            grid[-1 if rows else slice(None), -1 if columns else slice(None)] = mask
    return grid.flatten(0, 1)


def attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """Attention of every window over its own keys.

    Args:
        query: (windows, T, heads, C / heads).
        key: (windows, K, heads, C / heads).
        value: As `key`.
        bias: (heads, T, K), added to the scaled scores.

    Returns:
        (windows, T, C).
    """
    query, key, value = query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2)
    if torch.compiler.is_exporting():
        # The exporter replaces the fused operator by these steps, but not the memory layout that it promised.
        scores = query * query.shape[-1] ** -0.5 @ key.transpose(-2, -1) + bias
        mixed = scores.softmax(dim=-1) @ value
    else:
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=bias.unsqueeze(0))
    return mixed.transpose(1, 2).flatten(2)


def position_bias(table: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """(heads, T, K) from a table (offsets, heads) and the rows (T, K) to take from it."""
    return table.t().index_select(1, index.flatten()).unflatten(1, index.shape)


class TokenLinear(nn.Linear):
    """`Linear` over rows; in float32 on a CPU by oneDNN, where PyTorch's own path (MKL) takes about twice as long."""

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """(R, inputs) to (R, outputs)."""
        plain = torch.compiler.is_compiling() or rows.device.type != "cpu" or torch.is_autocast_enabled("cpu")
        if plain or rows.dtype != torch.float32:
            return super().forward(rows)
        # Rows are the pixels of one channels_last image, and a linear map is a 1x1 convolution of it.
        image = rows.view(1, -1, 1, self.in_features).permute(0, 3, 1, 2)
        mapped = torch.mkldnn_convolution(image, self.weight[:, :, None, None], self.bias, [0, 0], [1, 1], [1, 1], 1)
        return mapped.permute(0, 2, 3, 1).reshape(-1, self.out_features)


class WindowAttention(nn.Module):
    """Multi-head self-attention inside windows: softmax(q·kᵀ/√d + bias)·v.

    Args:
        channels: C, divisible by `heads`.
        heads: Attention heads.
        window: Side of a window in pixels.
        index: Whether the position index is a buffer of this module, as in all checkpoints but HAT's.
    """

    def __init__(self, channels: int, heads: int, window: int, index: bool = True):
        super().__init__()
        self.heads, self.window = heads, window
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * window - 1) ** 2, heads))
        if index:
            self.register_buffer("relative_position_index", relative_position_index(window))
        self.qkv = TokenLinear(channels, 3 * channels)
        self.proj = TokenLinear(channels, channels)

    def forward(
        self, rows: torch.Tensor, windows: Windows, shift: int, index: torch.Tensor | None = None
    ) -> torch.Tensor:
        """(R, C) to (R, C), both in the order of `windows`, a grid that is moved by `shift`."""
        index = self.relative_position_index if index is None else index
        bias = position_bias(self.relative_position_bias_table, index)
        query, key, value = self.qkv(rows).view(-1, windows.area, 3, self.heads, rows.shape[1] // self.heads).unbind(2)
        mixed = []
        for start, stop, joins in windows.spans:
            shifted = bias + border_mask(self.window, shift, joins, bias) if any(joins) else bias
            mixed.append(attend(query[start:stop], key[start:stop], value[start:stop], shifted))
        return self.proj((torch.cat(mixed) if len(mixed) > 1 else mixed[0]).view(rows.shape))


class FeedForward(nn.Module):
    """Linear, GELU, linear."""

    def __init__(self, channels: int, hidden: int):
        super().__init__()
        self.fc1 = TokenLinear(channels, hidden)
        self.fc2 = TokenLinear(hidden, channels)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """(R, C) to (R, C)."""
        return self.fc2(F.gelu(self.fc1(rows)))


class DropPath(nn.Module):
    """Stochastic depth: in training, leaves out a residual branch for a random part of the images of a batch.

    Args:
        rate: Probability in [0, 1) of leaving it out.
    """

    def __init__(self, rate: float):
        super().__init__()
        self.rate = rate

    def forward(self, rows: torch.Tensor, windows: Windows) -> torch.Tensor:
        """(R, C) in window order to the same."""
        return self.of_images(rows.view(-1, windows.images, windows.area, rows.shape[1]), axis=1).view(rows.shape)

    def of_images(self, x: torch.Tensor, axis: int = 0) -> torch.Tensor:
        """A tensor of four axes to the same; `axis` counts the images."""
        if not self.training or self.rate == 0:
            return x
        kept = torch.rand(x.shape[axis], device=x.device) >= self.rate
        return x * (kept / (1 - self.rate)).to(x.dtype).view([-1 if i == axis else 1 for i in range(4)])


def drop_path_rates(rate: float, blocks: int) -> list[float]:
    """Rates of the blocks of a network: rising linearly from 0 at the first to `rate` at the last."""
    return [rate * i / max(blocks - 1, 1) for i in range(blocks)]


class SwinBlock(nn.Module):
    """x + attention(norm(x)), then x + feed-forward(norm(x)); in a shifted grid if `shift` is not zero.

    Args:
        channels: C.
        heads: Attention heads.
        window: Side of a window in pixels.
        shift: By how many pixels the window grid is moved; half a window in every other block.
        hidden: Channels inside the feed-forward.
        drop_path: Rate of stochastic depth in training.
        image_size: The size that the checkpoint's buffer `attn_mask` was made for; it is kept, not used.
    """

    def __init__(
        self, channels: int, heads: int, window: int, shift: int, hidden: int, drop_path: float, image_size: int
    ):
        super().__init__()
        self.shift = shift
        if shift:
            self.register_buffer("attn_mask", border_masks_of_size(image_size, image_size, window, shift))
        self.norm1 = nn.LayerNorm(channels)
        self.attn = WindowAttention(channels, heads, window)
        self.drop_path = DropPath(drop_path)
        self.norm2 = nn.LayerNorm(channels)
        self.mlp = FeedForward(channels, hidden)

    def forward(self, rows: torch.Tensor, windows: Windows, keep: torch.Tensor | None = None) -> torch.Tensor:
        """(R, C) in the order of `windows` to the same; `keep` (R, 1) multiplies the attention's input."""
        normed = self.norm1(rows)
        if keep is not None:
            normed = normed * keep
        rows = rows + self.drop_path(self.attn(normed, windows, self.shift), windows)
        return rows + self.drop_path(self.mlp(self.norm2(rows)), windows)


def run_blocks(
    blocks: nn.ModuleList, x: torch.Tensor, grids: tuple[Windows, Windows], keeps: list[torch.Tensor] | None = None
) -> torch.Tensor:
    """Sends a feature through Swin blocks, reordering its tokens only where the grid changes.

    Args:
        blocks: Of `SwinBlock`.
        x: (N, H, W, C), H and W multiples of the window.
        grids: The plain and the shifted window grid of `x`.
        keeps: For each block a factor (N·H·W, 1) of the attention's input tokens, in image order.

    Returns:
        (N, H, W, C).
    """
    rows = x.reshape(-1, x.shape[-1])
    here: Windows | None = None
    for number, block in enumerate(blocks):
        there = grids[block.shift > 0]
        if there is not here:
            order = there.order if here is None else here.place.index_select(0, there.order)
            rows = rows.index_select(0, order)
            here = there
        keep = None if keeps is None else keeps[number].index_select(0, here.order)
        rows = block(rows, here, keep)
    assert here is not None, "there is at least one block"
    return rows.index_select(0, here.place).view(x.shape)


def initialise(network: nn.Module) -> None:
    """Swin's initialisation: linear weights and position biases from N(0, 0.02²), linear biases 0."""
    for module in network.modules():
        if isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=0.02)
            nn.init.zeros_(module.bias)
        table = getattr(module, "relative_position_bias_table", None)
        if table is not None:
            nn.init.trunc_normal_(table, std=0.02)
