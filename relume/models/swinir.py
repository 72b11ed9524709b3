"""SwinIR: residual groups of shifted-window transformer blocks at full resolution.

Source: Liang et al., "SwinIR: Image Restoration Using Swin Transformer", ICCVW 2021 (arXiv 2108.10257).
State-dict keys and values are those of the official implementation, buffers included. The shift masks are those of
the image at hand, never the stored ones. Deviation: none in the result; see `relume.models.window_attention`.
"""

import torch
from torch import nn

from relume.models.layers import channels_last, pad_to_multiple
from relume.models.registry import Variant
from relume.models.window_attention import SwinBlock, Windows, divide, drop_path_rates, initialise, run_blocks

# Mean colour of DIV2K, which SwinIR and HAT subtract from colour images.
DIV2K_MEAN = (0.4488, 0.4371, 0.4040)


class Embedding(nn.Module):
    """The normalisation of the first tokens, under the key `norm` of the checkpoints."""

    def __init__(self, channels: int):
        super().__init__()
        self.norm = nn.LayerNorm(channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, H, W, C) to the same."""
        return self.norm(x)


class SwinBlocks(nn.Module):
    """Swin blocks in a row, every other one in the shifted grid, under the key `blocks` of the checkpoints."""

    def __init__(self, channels: int, heads: int, window: int, hidden: int, drop_paths: list[float], image_size: int):
        super().__init__()
        self.blocks = nn.ModuleList(
            SwinBlock(channels, heads, window, window // 2 * (i % 2), hidden, rate, image_size)
            for i, rate in enumerate(drop_paths)
        )

    def forward(
        self, x: torch.Tensor, grids: tuple[Windows, Windows], keeps: list[torch.Tensor] | None = None
    ) -> torch.Tensor:
        """(N, H, W, C) to the same; `keeps` as in `run_blocks`."""
        return run_blocks(self.blocks, x, grids, keeps)


def tail(channels: int, bottleneck: bool) -> nn.Module:
    """The convolution that closes a group and the body: one 3x3, or the lighter one through C/4 channels."""
    if not bottleneck:
        return nn.Conv2d(channels, channels, 3, padding=1)
    return nn.Sequential(
        nn.Conv2d(channels, channels // 4, 3, padding=1),
        nn.LeakyReLU(0.2),
        nn.Conv2d(channels // 4, channels // 4, 1),
        nn.LeakyReLU(0.2),
        nn.Conv2d(channels // 4, channels, 3, padding=1),
    )


class ResidualSwinGroup(nn.Module):
    """Residual Swin transformer block (RSTB): x + convolution(Swin blocks(x)) (section 3.2)."""

    def __init__(self, blocks: SwinBlocks, channels: int, bottleneck: bool):
        super().__init__()
        self.residual_group = blocks
        self.conv = tail(channels, bottleneck)

    def forward(
        self, x: torch.Tensor, grids: tuple[Windows, Windows], keeps: list[torch.Tensor] | None = None
    ) -> torch.Tensor:
        """(N, H, W, C) to the same."""
        return x + convolve(self.conv, self.residual_group(x, grids, keeps))


def convolve(module: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Applies a convolution to (N, H, W, C); a view of a channels_last image, so nothing is moved."""
    return module(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


class SwinIR(nn.Module):
    """SwinIR for tasks at the image's own resolution: denoising and JPEG artefact removal.

    Args:
        width: Channels C.
        blocks: Swin blocks of each residual group.
        heads: Attention heads of each group.
        window: Side of a window in pixels: 8 for denoising, 7 for JPEG artefacts (the 8 pixels of a JPEG block
            would fall on the windows' borders).
        mlp_ratio: Hidden channels of the feed-forward over C.
        image_range: Factor of the image inside the network: 1, or 255 in the JPEG checkpoints.
        bottleneck: The lighter closing convolutions ("3conv") of the large model.
        drop_path: Stochastic depth at the last block in training; 0.1 in the published recipe.
        image_size: Training patch, for which the checkpoints hold their buffers `attn_mask`. Nothing else.
        channels: Image channels.
    """

    def __init__(
        self,
        *,
        width: int = 180,
        blocks: tuple[int, ...] = (6, 6, 6, 6, 6, 6),
        heads: tuple[int, ...] = (6, 6, 6, 6, 6, 6),
        window: int = 8,
        mlp_ratio: float = 2,
        image_range: float = 1.0,
        bottleneck: bool = False,
        drop_path: float = 0.1,
        image_size: int = 128,
        channels: int = 3,
    ):
        super().__init__()
        self.window, self.image_range = window, image_range
        mean = DIV2K_MEAN if channels == 3 else (0.0,) * channels
        self.register_buffer("image_mean", torch.tensor(mean).view(1, -1, 1, 1), persistent=False)
        self.conv_first = nn.Conv2d(channels, width, 3, padding=1)
        self.patch_embed = Embedding(width)
        rates = iter(drop_path_rates(drop_path, sum(blocks)))
        self.layers = nn.ModuleList(
            ResidualSwinGroup(
                SwinBlocks(
                    width, group_heads, window, int(width * mlp_ratio), [next(rates) for _ in range(count)], image_size
                ),
                width,
                bottleneck,
            )
            for count, group_heads in zip(blocks, heads, strict=True)
        )
        self.norm = nn.LayerNorm(width)
        self.conv_after_body = tail(width, bottleneck)
        self.conv_last = nn.Conv2d(width, channels, 3, padding=1)
        initialise(self)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) in [0, 1] to the same shape, not clamped; any H and W, padded by reflection."""
        height, width = image.shape[-2:]
        padded = pad_to_multiple(image, self.window, mode="reflect")
        shallow = channels_last(self.conv_first((padded - self.image_mean) * self.image_range)).permute(0, 2, 3, 1)
        grids = (
            divide(shallow.shape, self.window, 0, image.device),
            divide(shallow.shape, self.window, self.window // 2, image.device),
        )
        x = self.patch_embed(shallow)
        for group in self.layers:
            x = group(x, grids)
        x = convolve(self.conv_after_body, self.norm(x)) + shallow
        residual = self.conv_last(x.permute(0, 3, 1, 2)) / self.image_range
        return (padded + residual)[:, :, :height, :width]


VARIANTS = {
    "swinir-denoise": Variant(architecture="swinir", arguments={}, about="colour denoising", parameters=11_504_163),
    "swinir-denoise-gray": Variant(
        architecture="swinir", arguments={"channels": 1}, about="gray denoising", parameters=11_497_681
    ),
    "swinir-jpeg": Variant(
        architecture="swinir",
        arguments={"window": 7, "image_range": 255.0, "image_size": 126},
        about="colour JPEG artefacts",
    ),
    "swinir-jpeg-gray": Variant(
        architecture="swinir",
        arguments={"window": 7, "image_range": 255.0, "image_size": 126, "channels": 1},
        about="gray JPEG artefacts",
    ),
    "swinir-demo": Variant(
        architecture="swinir",
        arguments={"width": 24, "blocks": [2, 2], "heads": [2, 2], "drop_path": 0.0, "image_size": 32},
        about="minutes on a CPU",
    ),
}
