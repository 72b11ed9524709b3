"""Xformer: two U-shaped branches, attention across channels and attention in windows, that exchange features.

Source: Zhang et al., "Xformer: Hybrid X-Shaped Transformer for Image Denoising", ICLR 2024 (arXiv 2303.06440).
Written from the paper; state-dict keys are those of the published checkpoints, buffers included. The shift masks are
those of the image at hand, never the stored ones.

Deviations: inputs of any size are padded by reflection to a multiple of 8 inside `forward`. The official forward
switches the shift of a level off for good once it has seen a feature no larger than a window; here no call changes
the network: the latent is never shifted, the other levels always are. Both latents, which share their blocks, run as
one batch.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from relume.models.layers import PointwiseConv, channels_last, pad_to_multiple
from relume.models.registry import Variant
from relume.models.restormer import PatchEmbed, Resample, TransformerBlock
from relume.models.window_attention import SwinBlock, Windows, divide, drop_path_rates, initialise, run_blocks


@dataclass(frozen=True, kw_only=True)
class Frame:
    """What the Swin blocks of one level need to know of a feature's size.

    Attributes:
        grids: The plain and the shifted window grid of the feature padded to whole windows.
        inside: (N·H·W, 1) with 1 for the feature's own tokens and 0 for padding; None where nothing is padded.
    """

    grids: tuple[Windows, Windows]
    inside: torch.Tensor | None


def frame(x: torch.Tensor, window: int) -> Frame:
    """The frame of a feature (N, C, H, W)."""
    images, _, height, width = x.shape
    bottom, right = -height % window, -width % window
    inside = None
    if bottom or right:
        inside = F.pad(x.new_ones(images, height, width), (0, right, 0, bottom)).view(-1, 1)
    shape = torch.Size((images, height + bottom, width + right, 1))
    plain, shifted = (divide(shape, window, shift, x.device) for shift in (0, window // 2))
    return Frame(grids=(plain, shifted), inside=inside)


class SpatialBlocks(nn.ModuleList):
    """Swin blocks of one level (spatial-wise transformer blocks), every other one shifted.

    Args:
        channels: C.
        heads: Attention heads.
        window: Side of a window in pixels.
        shifted: Whether every other block has the shifted grid.
        expansion: Hidden channels of the feed-forward are int(C · expansion).
        drop_paths: Stochastic depth of each block.
        image_size: Side of the feature for which the checkpoint's masks were made.
    """

    def __init__(
        self,
        channels: int,
        heads: int,
        window: int,
        shifted: bool,
        expansion: float,
        drop_paths: list[float],
        image_size: int,
    ):
        self.window = window
        super().__init__(
            SwinBlock(
                channels, heads, window, window // 2 * (i % 2) * shifted, int(channels * expansion), rate, image_size
            )
            for i, rate in enumerate(drop_paths)
        )

    def forward(self, x: torch.Tensor, frame: Frame) -> torch.Tensor:
        """(N, C, H, W) to the same; zeros pad the normalised feature to whole windows and take part as tokens."""
        height, width = x.shape[-2:]
        padded = F.pad(x.permute(0, 2, 3, 1), (0, 0, 0, -width % self.window, 0, -height % self.window))
        keeps = None if frame.inside is None else [frame.inside] * len(self)
        return run_blocks(self, padded, frame.grids, keeps)[:, :height, :width].permute(0, 3, 1, 2)


class Xformer(nn.Module):
    """Two concurrent branches of four levels, joined at the latent's blocks and by a channel-wise refinement.

    Args:
        width: Channels at full resolution; doubled at each level down. The refinement runs at twice the width.
        channel_blocks: Channel-wise blocks of the three levels of encoder and decoder.
        spatial_blocks: Spatial-wise blocks of the same levels, and those of the latent.
        refinement_blocks: Channel-wise blocks after the decoder.
        heads: Attention heads of the four levels.
        window: Side of a window in pixels.
        expansion: Feed-forward expansion of both kinds of blocks.
        bias: Whether the convolutions of the channel-wise blocks have biases.
        bias_free_norm: The layer normalisation of the gray, blind and real-noise checkpoints; False for those of
            colour noise of a known level.
        drop_path: Stochastic depth of the spatial-wise blocks in training, at the deepest.
        image_size: Training patch, for which the checkpoints hold their buffers `attn_mask`. Nothing else.
        channels: Image channels.
    """

    size_multiple = 8

    def __init__(
        self,
        *,
        width: int = 48,
        channel_blocks: tuple[int, int, int] = (2, 4, 4),
        spatial_blocks: tuple[int, int, int, int] = (2, 4, 4, 6),
        refinement_blocks: int = 4,
        heads: tuple[int, int, int, int] = (1, 2, 4, 8),
        window: int = 16,
        expansion: float = 2.66,
        bias: bool = False,
        bias_free_norm: bool = False,
        drop_path: float = 0.1,
        image_size: int = 128,
        channels: int = 3,
    ):
        super().__init__()
        self.window = window
        rates = drop_path_rates(drop_path, sum(spatial_blocks))

        def channel(level: int, factor: int, count: int) -> nn.Sequential:
            return nn.Sequential(
                *(TransformerBlock(factor * width, heads[level], expansion, bias, bias_free_norm) for _ in range(count))
            )

        def spatial(level: int) -> SpatialBlocks:
            first = sum(spatial_blocks[:level])
            return SpatialBlocks(
                2**level * width,
                heads[level],
                window,
                level < 3,
                expansion,
                rates[first : first + spatial_blocks[level]],
                image_size // 2**level,
            )

        # The exchanges before encoder 2 and 3 and before decoder 2 and 1.
        exchanged = [2 * width, 4 * width, 2 * width, width]
        self.Convs = nn.ModuleList(nn.Conv2d(c, c, 3, padding=1) for c in exchanged)
        self.DWconvs = nn.ModuleList(nn.Conv2d(c, c, 3, padding=1, groups=c) for c in exchanged)
        self.patch_embed = PatchEmbed(channels, width)

        self.encoder_level1 = channel(0, 1, channel_blocks[0])
        self.down1_2 = Resample(width, up=False)
        self.encoder_level2 = channel(1, 2, channel_blocks[1])
        self.down2_3 = Resample(2 * width, up=False)
        self.encoder_level3 = channel(2, 4, channel_blocks[2])
        self.down3_4 = Resample(4 * width, up=False)
        self.up4_3 = Resample(8 * width, up=True)
        self.reduce_chan_level3 = PointwiseConv(8 * width, 4 * width, bias=bias)
        self.decoder_level3 = channel(2, 4, channel_blocks[2])
        self.up3_2 = Resample(4 * width, up=True)
        self.reduce_chan_level2 = PointwiseConv(4 * width, 2 * width, bias=bias)
        self.decoder_level2 = channel(1, 2, channel_blocks[1])
        self.up2_1 = Resample(2 * width, up=True)
        self.reduce_chan_level1 = PointwiseConv(2 * width, width, bias=bias)
        self.decoder_level1 = channel(0, 1, channel_blocks[0])

        self.encoder1 = spatial(0)
        self.d1_2 = Resample(width, up=False)
        self.encoder2 = spatial(1)
        self.d2_3 = Resample(2 * width, up=False)
        self.encoder3 = spatial(2)
        self.d3_4 = Resample(4 * width, up=False)
        self.s_latent = spatial(3)
        self.u4_3 = Resample(8 * width, up=True)
        self.reduce3 = PointwiseConv(8 * width, 4 * width, bias=bias)
        self.decoder3 = spatial(2)
        self.u3_2 = Resample(4 * width, up=True)
        self.reduce2 = PointwiseConv(4 * width, 2 * width, bias=bias)
        self.decoder2 = spatial(1)
        self.u2_1 = Resample(2 * width, up=True)
        self.reduce1 = PointwiseConv(2 * width, width, bias=bias)
        self.decoder1 = spatial(0)

        self.refinement = channel(0, 2, refinement_blocks)
        self.output = nn.Conv2d(2 * width, channels, 3, padding=1, bias=bias)
        initialise(self)

    def exchange(self, number: int, channel: torch.Tensor, spatial: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Bidirectional connection unit: each branch gets the other's feature through a convolution."""
        return channel + self.DWconvs[number](spatial), spatial + self.Convs[number](channel)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) in [0, 1] to the same shape, not clamped; any H and W."""
        return self.deepest_features(image)[0]

    def deepest_features(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """What `forward` gives, and both latents (N, 16 · width, H/8, W/8), sides rounded up, for ensembles."""
        height, width = image.shape[-2:]
        padded = pad_to_multiple(image, self.size_multiple, mode="reflect")
        correction, latent = self.branches(padded)
        return (padded + correction)[:, :, :height, :width], latent

    def branches(self, padded: torch.Tensor, joined: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """Runs both branches.

        Args:
            padded: (N, channels of `patch_embed`, H, W), sides multiples of 8.
            joined: Features (N, 8 · width, H/8, W/8) that are added to the input of both latents, for ensembles.

        Returns:
            The correction (N, C, H, W), and both latents joined (N, 16 · width, H/8, W/8).
        """
        embedded = channels_last(self.patch_embed(padded))
        frame1 = frame(embedded, self.window)
        c1, s1 = self.encoder_level1(embedded), self.encoder1(embedded, frame1)
        c, s = self.exchange(0, self.down1_2(c1), self.d1_2(s1))
        frame2 = frame(s, self.window)
        c2, s2 = self.encoder_level2(c), self.encoder2(s, frame2)
        c, s = self.exchange(1, self.down2_3(c2), self.d2_3(s2))
        frame3 = frame(s, self.window)
        c3, s3 = self.encoder_level3(c), self.encoder3(s, frame3)

        latent = torch.cat([self.down3_4(c3), self.d3_4(s3)])
        if joined is not None:
            latent = latent + torch.cat([joined, joined])
        latent = self.s_latent(latent, frame(latent, self.window))
        c, s = latent[: padded.shape[0]], latent[padded.shape[0] :]
        deepest = torch.cat([c, s], dim=1)

        c = self.decoder_level3(self.reduce_chan_level3(torch.cat([self.up4_3(c), c3], dim=1)))
        s = self.decoder3(self.reduce3(torch.cat([self.u4_3(s), s3], dim=1)), frame3)
        c = self.reduce_chan_level2(torch.cat([self.up3_2(c), c2], dim=1))
        s = self.reduce2(torch.cat([self.u3_2(s), s2], dim=1))
        c, s = self.exchange(2, c, s)
        c, s = self.decoder_level2(c), self.decoder2(s, frame2)
        c = self.reduce_chan_level1(torch.cat([self.up2_1(c), c1], dim=1))
        s = self.reduce1(torch.cat([self.u2_1(s), s1], dim=1))
        c, s = self.exchange(3, c, s)
        c, s = self.decoder_level1(c), self.decoder1(s, frame1)
        return self.output(self.refinement(torch.cat([c, s], dim=1))), deepest


VARIANTS = {
    "xformer-denoise": Variant(
        architecture="xformer", arguments={}, about="colour denoising at a known level", parameters=25_228_078
    ),
    "xformer-denoise-blind": Variant(
        architecture="xformer",
        arguments={"bias_free_norm": True},
        about="blind colour denoising and camera noise",
        parameters=25_222_318,
    ),
    "xformer-denoise-gray": Variant(
        architecture="xformer", arguments={"bias_free_norm": True, "channels": 1}, about="gray denoising"
    ),
    "xformer-demo": Variant(
        architecture="xformer",
        arguments={
            "width": 12,
            "channel_blocks": [1, 1, 1],
            "spatial_blocks": [2, 1, 1, 1],
            "refinement_blocks": 1,
            "heads": [1, 2, 2, 4],
            "window": 8,
            "drop_path": 0.0,
            "image_size": 32,
        },
        about="minutes on a CPU",
    ),
}
