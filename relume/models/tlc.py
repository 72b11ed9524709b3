"""Test-time local converter (TLC): the same weights, with global statistics over the image replaced by local ones.

Source: Chu et al., "Improving Image Restoration by Revisiting Global Information Aggregation", ECCV 2022
(arXiv 2112.04491). A network that is trained on patches and pools over the whole image meets other statistics in a
larger image than in training. TLC pools over windows of about the training patch. No parameter is added: checkpoints
of NAFNet and Restormer load as they are. Features no larger than the window fall back to the global form.

Deviations in formulation, not in result: the local means come from running sums in float64 (the published float32
integral image loses precision in large images), and Restormer's overlapping windows are cut into the cells of their
common grid, so that each pixel is read once, whatever the overlap and the batch.
"""

from collections.abc import Sequence
from itertools import pairwise
from math import ceil

import torch
import torch.nn.functional as F
from torch import nn

from relume.models.layers import channels_last
from relume.models.nafnet import VARIANTS as NAFNET_VARIANTS
from relume.models.nafnet import NAFBlock, NAFNet
from relume.models.registry import Variant
from relume.models.restormer import VARIANTS as RESTORMER_VARIANTS
from relume.models.restormer import Restormer, TransformerBlock, TransposedAttention

Size = int | Sequence[int]  # pixels: the side of a square, or height and width


def both_sides(size: Size) -> tuple[int, int]:
    """Height and width."""
    height, width = (size, size) if isinstance(size, int) else size
    return height, width


def layer_window(level: int, size_multiple: int, train_size: Size, base_size: Size | None) -> tuple[int, int]:
    """Height and width of the window at a level of a U-shape: what `base_size` of the image is in the feature.

    Args:
        level: 0 at full resolution; each level halves it.
        size_multiple: To which the network pads its input.
        train_size: Of the training patch in pixels.
        base_size: Of the window at full resolution; None for the published 1.5 training patches.
    """
    trained = both_sides(train_size)
    base = tuple(int(1.5 * side) for side in trained) if base_size is None else both_sides(base_size)
    features = (ceil(side / size_multiple) * size_multiple >> level for side in trained)
    height, width = (f * b // t for f, b, t in zip(features, base, trained, strict=True))
    return height, width


class LocalMean(nn.Module):
    """Mean over each position of a window inside the image; the global mean when the window covers the image.

    Args:
        window: In pixels.
    """

    def __init__(self, window: Size):
        super().__init__()
        self.window = both_sides(window)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) to (N, C, H - h + 1, W - w + 1), h and w the window's or the smaller ones of the image."""
        height, width = min(self.window[0], x.shape[-2]), min(self.window[1], x.shape[-1])
        if (height, width) == x.shape[-2:]:
            return x.mean(dim=(2, 3), keepdim=True)
        x = x.contiguous()  # a running sum of channels_last memory takes three times as long
        for axis, length in ((-1, width), (-2, height)):
            x = self.running_mean(x, axis, length)
        return channels_last(x)

    @staticmethod
    def running_mean(x: torch.Tensor, axis: int, length: int) -> torch.Tensor:
        """Mean over every `length` neighbours along an axis."""
        sums = x.cumsum(dim=axis, dtype=torch.float64)
        count = x.shape[axis] - length
        first = sums.narrow(axis, length - 1, 1)
        rest = sums.narrow(axis, length, count) - sums.narrow(axis, 0, count)
        return (torch.cat([first, rest], dim=axis) / length).to(x.dtype)


class LocalChannelAttention(nn.Sequential):
    """NAFNet's simplified channel attention with local means, under the keys of the global one.

    Positions nearer to the border than half a window take the factors of the nearest whole window. The
    linear map works per position, so it runs before they are repeated.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) to factors of the same size, or (N, C, 1, 1)."""
        factors = super().forward(x)
        bottom, right = x.shape[-2] - factors.shape[-2], x.shape[-1] - factors.shape[-1]
        if factors.shape[-2:] == (1, 1):
            return factors
        return F.pad(factors, (right // 2, (right + 1) // 2, bottom // 2, (bottom + 1) // 2), mode="replicate")


class NAFNetLocal(NAFNet):
    """NAFNet with local channel attention.

    Args:
        train_size: Of the training patch in pixels: its side, or height and width.
        base_size: Of the window at full resolution, likewise; 1.5 training patches when None.
        width: As in `NAFNet`.
        encoder_blocks: As in `NAFNet`.
        middle_blocks: As in `NAFNet`.
        decoder_blocks: As in `NAFNet`.
        channels: As in `NAFNet`.
    """

    def __init__(
        self,
        *,
        width: int,
        encoder_blocks: list[int],
        middle_blocks: int,
        decoder_blocks: list[int],
        channels: int = 3,
        train_size: Size = 256,
        base_size: Size | None = None,
    ):
        super().__init__(
            width=width,
            encoder_blocks=encoder_blocks,
            middle_blocks=middle_blocks,
            decoder_blocks=decoder_blocks,
            channels=channels,
        )
        depth = len(encoder_blocks)
        levels = [*enumerate(self.encoders), (depth, self.middle_blks)]
        levels += [(depth - 1 - i, decoder) for i, decoder in enumerate(self.decoders)]
        for level, blocks in levels:
            window = layer_window(level, self.size_multiple, train_size, base_size)
            for block in blocks.modules():
                if isinstance(block, NAFBlock):
                    block.sca = LocalChannelAttention(LocalMean(window), block.sca[1])


def window_starts(size: int, window: int) -> list[int]:
    """First positions of the windows along one axis: evenly spaced, as few as cover it, the last at its end."""
    count = ceil(size / window)
    if count == 1:
        return [0]
    step = ceil((size - window) / (count - 1))
    return [*range(0, size - window, step), size - window]


def cells(size: int, window: int) -> tuple[list[int], list[list[bool]]]:
    """Cuts one axis where a window starts or ends.

    Returns:
        The lengths of the cells, and for each window which cells it holds.
    """
    window = min(size, window)
    starts = window_starts(size, window)
    cuts = sorted({0, size, *starts, *(start + window for start in starts)})
    spans = list(pairwise(cuts))
    holds = [[start <= first and last <= start + window for first, last in spans] for start in starts]
    return [last - first for first, last in spans], holds


class LocalTransposedAttention(TransposedAttention):
    """Restormer's attention across channels, over overlapping windows whose results are averaged.

    A window's attention map depends on sums over its pixels, which are sums over the cells it holds. The
    average of the results of the windows that hold a cell is the average of their maps, applied once.

    Args:
        channels: As in `TransposedAttention`.
        heads: As in `TransposedAttention`.
        bias: As in `TransposedAttention`.
        window: Of the windows, in pixels.
    """

    def __init__(self, channels: int, heads: int, bias: bool, window: Size):
        super().__init__(channels, heads, bias)
        self.window = both_sides(window)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) to (N, C, H, W)."""
        if all(window >= side for window, side in zip(self.window, x.shape[-2:], strict=True)):
            return super().forward(x)
        rows, row_holds = cells(x.shape[-2], self.window[0])
        columns, column_holds = cells(x.shape[-1], self.window[1])
        query, key, value = (
            [cell for band in part.split(rows, dim=2) for cell in band.split(columns, dim=3)]
            for part in self.qkv_dwconv(self.qkv(x)).chunk(3, dim=1)
        )
        moments = zip(*(self.moments(*pair) for pair in zip(query, key, strict=True)), strict=True)
        # (windows, cells), both counted row by row
        holds = torch.kron(torch.tensor(row_holds, dtype=x.dtype), torch.tensor(column_holds, dtype=x.dtype)).to(x)
        weights = self.weights(*(torch.tensordot(holds, torch.stack(moment), 1) for moment in moments))
        weights = torch.tensordot((holds / holds.sum(dim=0)).t(), weights, 1)
        mixed = [self.project(*pair) for pair in zip(value, weights.unbind(), strict=True)]
        bands = [torch.cat(mixed[i : i + len(columns)], dim=3) for i in range(0, len(mixed), len(columns))]
        return torch.cat(bands, dim=2)


class RestormerLocal(Restormer):
    """Restormer with local attention.

    As published, images are padded with zeros, not by reflection as `Restormer` does.

    Args:
        train_size: Of the training patch in pixels: its side, or height and width. The published code takes 256 also
            for the models whose last training stage had patches of 384.
        base_size: Of the window at full resolution, likewise; 1.5 training patches when None.
        width: As in `Restormer`.
        blocks: As in `Restormer`.
        refinement_blocks: As in `Restormer`.
        heads: As in `Restormer`.
        expansion: As in `Restormer`.
        bias: As in `Restormer`.
        bias_free_norm: As in `Restormer`.
        channels: As in `Restormer`.
    """

    padding = "constant"

    def __init__(
        self,
        *,
        width: int = 48,
        blocks: tuple[int, int, int, int] = (4, 6, 6, 8),
        refinement_blocks: int = 4,
        heads: tuple[int, int, int, int] = (1, 2, 4, 8),
        expansion: float = 2.66,
        bias: bool = False,
        bias_free_norm: bool = True,
        channels: int = 3,
        train_size: Size = 256,
        base_size: Size | None = None,
    ):
        super().__init__(
            width=width,
            blocks=blocks,
            refinement_blocks=refinement_blocks,
            heads=heads,
            expansion=expansion,
            bias=bias,
            bias_free_norm=bias_free_norm,
            channels=channels,
        )
        levels: Sequence[tuple[int, nn.Sequential]] = (
            (0, self.encoder_level1),
            (1, self.encoder_level2),
            (2, self.encoder_level3),
            (3, self.latent),
            (2, self.decoder_level3),
            (1, self.decoder_level2),
            (0, self.decoder_level1),
            (0, self.refinement),
        )
        for level, stack in levels:
            window = layer_window(level, self.size_multiple, train_size, base_size)
            for block in stack.modules():
                if isinstance(block, TransformerBlock):
                    width = block.attn.project_out.out_channels
                    block.attn = LocalTransposedAttention(width, block.attn.heads, bias, window)


VARIANTS = {
    f"{name}-local": Variant(
        architecture=f"{variant.architecture}_local",
        arguments=variant.arguments | ({"train_size": 48} if name.endswith("demo") else {}),
        about=f"{variant.about}, local statistics",
        parameters=variant.parameters,
    )
    for name, variant in (NAFNET_VARIANTS | RESTORMER_VARIANTS).items()
    if variant.architecture in ("nafnet", "restormer")
}
