"""Restormer: a U-shaped transformer with attention across channels.

Source: Zamir et al., "Restormer: Efficient Transformer for High-Resolution Image Restoration", CVPR 2022
(arXiv 2111.09881). Written from the paper; state-dict keys are those of the published checkpoints. By default the
norm is that of the published denoisers, without bias; the official class's own default is the other one.
Deviation: inputs of any size are padded by reflection to a multiple of 8 inside `forward`.
"""

import torch
import torch.nn.functional as F
from torch import nn

from relume.models.layers import ChannelLayerNorm, PointwiseConv, channels_last, in_halves, pad_to_multiple
from relume.models.registry import Variant


class BiasFreeLayerNorm(nn.Module):
    """x / sqrt(var(x) + 1e-5) · weight over the channels: the variance is centred, the value is not.

    Args:
        channels: C.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) to (N, C, H, W)."""
        # Two means are several times faster on a CPU than var(), which does not vectorise over channels.
        variance = (x - x.mean(dim=1, keepdim=True)).square().mean(dim=1, keepdim=True)
        return x * torch.rsqrt(variance + 1e-5) * self.weight.view(-1, 1, 1)


class Normalization(nn.Module):
    """One of Restormer's two layer normalisations, under the key `body` of the checkpoints."""

    def __init__(self, channels: int, bias_free: bool):
        super().__init__()
        self.body = BiasFreeLayerNorm(channels) if bias_free else ChannelLayerNorm(channels, eps=1e-5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) to (N, C, H, W)."""
        return self.body(x)


class TransposedAttention(nn.Module):
    """Multi-Dconv head transposed attention: the attention map is (C/heads x C/heads) (section 3.1, eq. 1).

    Args:
        channels: C, divisible by `heads`.
        heads: Attention heads.
        bias: Whether the convolutions have biases.
    """

    def __init__(self, channels: int, heads: int, bias: bool):
        super().__init__()
        self.heads = heads
        self.temperature = nn.Parameter(torch.ones(heads, 1, 1))
        self.qkv = PointwiseConv(channels, 3 * channels, bias=bias)
        self.qkv_dwconv = nn.Conv2d(3 * channels, 3 * channels, 3, padding=1, groups=3 * channels, bias=bias)
        self.project_out = PointwiseConv(channels, channels, bias=bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) to (N, C, H, W)."""
        query, key, value = self.qkv_dwconv(self.qkv(x)).chunk(3, dim=1)
        weights = self.weights(*self.moments(query, key))
        return self.project(value, weights)

    def moments(self, query: torch.Tensor, key: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Sums over the pixels of (N, C, H, W): of query times key and of the square of either.

        Returns:
            The products (N, heads, C/heads, C/heads), query's squares (N, heads, C/heads, 1) and key's, transposed.
        """
        query, key = (self.split_heads(x.flatten(2)) for x in (query, key))
        squares = [x.square().sum(dim=-1, keepdim=True) for x in (query, key)]
        return query @ key.transpose(-2, -1), squares[0], squares[1].transpose(-2, -1)

    def split_heads(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, HW) to (N, heads, C/heads, HW)."""
        x = x.unflatten(1, (self.heads, -1))
        if self.heads == 1 or torch.compiler.is_compiling():
            return x
        return x.transpose(-2, -1).contiguous().transpose(-2, -1)  # matmul's own copy would transpose

    def weights(self, products: torch.Tensor, queries: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
        """The attention maps from their `moments`: softmax of the cosines times the temperature."""
        # Scaling the products spares the passes over all pixels that normalise query and key.
        scale = queries.clamp_min(1e-24).rsqrt() * self.temperature
        return (products * scale * keys.clamp_min(1e-24).rsqrt()).softmax(dim=-1)

    def project(self, value: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        """project_out(weights · value), (N, C, H, W), for maps (N, heads, C/heads, C/heads).

        The projection is applied to the small maps instead of to every pixel.
        """
        projection = self.project_out.weight.view(-1, self.heads, weights.shape[-1]).transpose(0, 1)
        mix = (projection @ weights).transpose(1, 2).flatten(2)  # (N, C, C)
        pixels = value.flatten(2)
        if torch.compiler.is_compiling():
            mixed = mix @ pixels
        else:  # so that the result lies in channels_last memory
            mixed = (pixels.transpose(1, 2) @ mix.transpose(1, 2)).transpose(1, 2)
        if self.project_out.bias is not None:
            mixed = mixed + self.project_out.bias.view(-1, 1)
        return mixed.unflatten(-1, value.shape[-2:])


class GatedFeedForward(nn.Module):
    """Gated-Dconv feed-forward network: GELU(W1 x) ⊙ W2 x (section 3.2, eq. 2).

    Args:
        channels: C.
        expansion: Hidden channels are int(C · expansion).
        bias: Whether the convolutions have biases.
    """

    def __init__(self, channels: int, expansion: float, bias: bool):
        super().__init__()
        hidden = int(channels * expansion)
        self.project_in = PointwiseConv(channels, 2 * hidden, bias=bias)
        self.dwconv = nn.Conv2d(2 * hidden, 2 * hidden, 3, padding=1, groups=2 * hidden, bias=bias)
        self.project_out = PointwiseConv(hidden, channels, bias=bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) to (N, C, H, W)."""
        gate, content = in_halves(x, self.project_in, self.dwconv)
        return self.project_out(F.gelu(gate) * content)


class TransformerBlock(nn.Module):
    """x + attention(norm(x)), then x + feed-forward(norm(x)) (figure 2)."""

    def __init__(self, channels: int, heads: int, expansion: float, bias: bool, bias_free_norm: bool):
        super().__init__()
        self.norm1 = Normalization(channels, bias_free_norm)
        self.attn = TransposedAttention(channels, heads, bias)
        self.norm2 = Normalization(channels, bias_free_norm)
        self.ffn = GatedFeedForward(channels, expansion, bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) to (N, C, H, W)."""
        x = x + self.attn(self.norm1(x))
        return x + self.ffn(self.norm2(x))


class PatchEmbed(nn.Module):
    """The first 3x3 convolution, without a bias in every published configuration; key `proj` of the checkpoints."""

    def __init__(self, image_channels: int, channels: int):
        super().__init__()
        self.proj = nn.Conv2d(image_channels, channels, 3, padding=1, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, image channels, H, W) to (N, C, H, W)."""
        return self.proj(x)


class Resample(nn.Module):
    """Halves or doubles the resolution by a 3x3 convolution and pixel (un)shuffle, under the key `body`."""

    def __init__(self, channels: int, *, up: bool):
        super().__init__()
        if up:  # (C, H, W) -> (C/2, 2H, 2W)
            layers = [nn.Conv2d(channels, 2 * channels, 3, padding=1, bias=False), nn.PixelShuffle(2)]
        else:  # (C, H, W) -> (2C, H/2, W/2)
            layers = [nn.Conv2d(channels, channels // 2, 3, padding=1, bias=False), nn.PixelUnshuffle(2)]
        self.body = nn.Sequential(*layers)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) to half the channels at twice the size, or the other way round."""
        return self.body(x)


class Restormer(nn.Module):
    """Four-level U-shape of transformer blocks with concatenated skips and a global residual.

    Args:
        width: Channels at full resolution; doubled at each level down. The finest decoder level and
            the refinement run at twice the width.
        blocks: Blocks of the four levels, the last of them the latent's.
        refinement_blocks: Blocks after the decoder.
        heads: Attention heads of the four levels.
        expansion: Feed-forward expansion.
        bias: Whether the convolutions of the blocks have biases.
        bias_free_norm: The layer normalisation of the denoising checkpoints; False for those of
            deraining and deblurring.
        channels: Image channels.
    """

    size_multiple = 8
    padding = "reflect"

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
    ):
        super().__init__()

        def stack(level: int, factor: int, count: int) -> nn.Sequential:
            return nn.Sequential(
                *(TransformerBlock(factor * width, heads[level], expansion, bias, bias_free_norm) for _ in range(count))
            )

        self.patch_embed = PatchEmbed(channels, width)
        self.encoder_level1 = stack(0, 1, blocks[0])
        self.down1_2 = Resample(width, up=False)
        self.encoder_level2 = stack(1, 2, blocks[1])
        self.down2_3 = Resample(2 * width, up=False)
        self.encoder_level3 = stack(2, 4, blocks[2])
        self.down3_4 = Resample(4 * width, up=False)
        self.latent = stack(3, 8, blocks[3])
        self.up4_3 = Resample(8 * width, up=True)
        self.reduce_chan_level3 = PointwiseConv(8 * width, 4 * width, bias=bias)
        self.decoder_level3 = stack(2, 4, blocks[2])
        self.up3_2 = Resample(4 * width, up=True)
        self.reduce_chan_level2 = PointwiseConv(4 * width, 2 * width, bias=bias)
        self.decoder_level2 = stack(1, 2, blocks[1])
        self.up2_1 = Resample(2 * width, up=True)
        self.decoder_level1 = stack(0, 2, blocks[0])
        self.refinement = stack(0, 2, refinement_blocks)
        self.output = nn.Conv2d(2 * width, channels, 3, padding=1, bias=bias)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) in [0, 1] to the same shape, not clamped; any H and W."""
        return self.deepest_features(image)[0]

    def deepest_features(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """What `forward` gives, and the latent (N, 8 · width, H/8, W/8), sides rounded up, for ensembles."""
        restored, _, latent = self._features(image)
        return restored, latent

    def last_features(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """What `forward` gives, and the features (N, 2 · width, H, W) that it is made of, for fusions."""
        restored, features, _ = self._features(image)
        return restored, features

    def _features(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        height, width = image.shape[-2:]
        padded = pad_to_multiple(image, self.size_multiple, mode=self.padding)
        level1 = self.encoder_level1(channels_last(self.patch_embed(padded)))
        level2 = self.encoder_level2(self.down1_2(level1))
        level3 = self.encoder_level3(self.down2_3(level2))
        latent = self.latent(self.down3_4(level3))
        x = self.decoder_level3(self.reduce_chan_level3(torch.cat([self.up4_3(latent), level3], dim=1)))
        x = self.decoder_level2(self.reduce_chan_level2(torch.cat([self.up3_2(x), level2], dim=1)))
        x = self.refinement(self.decoder_level1(torch.cat([self.up2_1(x), level1], dim=1)))
        return (self.output(x) + padded)[:, :, :height, :width], x[:, :, :height, :width], latent


VARIANTS = {
    "restormer-denoise": Variant(
        architecture="restormer", arguments={}, about="colour denoising", parameters=26_111_668
    ),
    "restormer-denoise-gray": Variant(
        architecture="restormer", arguments={"channels": 1}, about="gray denoising", parameters=26_109_076
    ),
    "restormer-deblur": Variant(
        architecture="restormer",
        arguments={"bias_free_norm": False},
        about="motion deblurring and deraining",
        parameters=26_126_644,
    ),
    "restormer-demo": Variant(
        architecture="restormer",
        arguments={"width": 12, "blocks": [1, 1, 1, 2], "refinement_blocks": 1, "heads": [1, 2, 2, 4]},
        about="minutes on a CPU",
    ),
}
