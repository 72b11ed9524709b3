"""Xformer in the plain order of its paper: Restormer's blocks with tokens flattened for each norm, Swin blocks with
rolls and partitions, and one pass through the latent per branch. The masks of a size are made once and kept."""

import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.models.case import Case
from benchmarks.models.transcribed_swinir import Attention, FeedForward, flat, partition, reverse, shift_mask, square


class Norm(nn.Module):
    """Layer normalisation of the channels, on flattened tokens."""

    def __init__(self, channels: int):
        super().__init__()
        self.body = nn.Module()
        self.body.weight = nn.Parameter(torch.ones(channels))
        self.body.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) to the same."""
        tokens = flat(x)
        mean, variance = tokens.mean(-1, keepdim=True), tokens.var(-1, keepdim=True, unbiased=False)
        tokens = (tokens - mean) / torch.sqrt(variance + 1e-5) * self.body.weight + self.body.bias
        return square(tokens, x.shape[2:])


class ChannelAttention(nn.Module):
    """Attention across channels."""

    def __init__(self, channels: int, heads: int):
        super().__init__()
        self.heads = heads
        self.temperature = nn.Parameter(torch.ones(heads, 1, 1))
        self.qkv = nn.Conv2d(channels, 3 * channels, 1, bias=False)
        self.qkv_dwconv = nn.Conv2d(3 * channels, 3 * channels, 3, 1, 1, groups=3 * channels, bias=False)
        self.project_out = nn.Conv2d(channels, channels, 1, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) to the same."""
        n, channels, height, width = x.shape
        parts = self.qkv_dwconv(self.qkv(x)).chunk(3, dim=1)
        query, key, value = (part.reshape(n, self.heads, channels // self.heads, -1) for part in parts)
        query, key = F.normalize(query, dim=-1), F.normalize(key, dim=-1)
        weights = ((query @ key.transpose(-2, -1)) * self.temperature).softmax(dim=-1)
        return self.project_out((weights @ value).reshape(n, channels, height, width))


class GatedFeedForward(nn.Module):
    """Gated depthwise feed-forward."""

    def __init__(self, channels: int, hidden: int):
        super().__init__()
        self.project_in = nn.Conv2d(channels, 2 * hidden, 1, bias=False)
        self.dwconv = nn.Conv2d(2 * hidden, 2 * hidden, 3, 1, 1, groups=2 * hidden, bias=False)
        self.project_out = nn.Conv2d(hidden, channels, 1, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) to the same."""
        gate, content = self.dwconv(self.project_in(x)).chunk(2, dim=1)
        return self.project_out(F.gelu(gate) * content)


class ChannelBlock(nn.Module):
    """Channel-wise block."""

    def __init__(self, channels: int, heads: int):
        super().__init__()
        self.norm1 = Norm(channels)
        self.attn = ChannelAttention(channels, heads)
        self.norm2 = Norm(channels)
        self.ffn = GatedFeedForward(channels, int(channels * 2.66))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) to the same."""
        x = x + self.attn(self.norm1(x))
        return x + self.ffn(self.norm2(x))


class SpatialBlock(nn.Module):
    """Spatial-wise block: padded to whole windows after the norm."""

    def __init__(self, channels: int, heads: int, window: int, shift: int, image_size: int):
        super().__init__()
        self.window, self.shift = window, shift
        self.masks: dict[tuple[int, int], torch.Tensor] = {}
        if shift:
            windows = (image_size // window) ** 2
            self.register_buffer("attn_mask", torch.zeros(windows, window**2, window**2))
        self.norm1 = nn.LayerNorm(channels)
        self.attn = Attention(channels, heads, window)
        self.norm2 = nn.LayerNorm(channels)
        self.mlp = FeedForward(channels, int(channels * 2.66))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) to the same."""
        n, channels, height, width = image.shape
        x = flat(image)
        y = self.norm1(x).view(n, height, width, channels)
        y = F.pad(y, (0, 0, 0, -width % self.window, 0, -height % self.window))
        size = y.shape[1], y.shape[2]
        if self.shift:
            y = torch.roll(y, (-self.shift, -self.shift), (1, 2))
            if size not in self.masks:
                self.masks[size] = shift_mask(*size, self.window, self.shift).to(x.device)
        y = reverse(self.attn(partition(y, self.window), self.masks.get(size)), self.window, *size)
        if self.shift:
            y = torch.roll(y, (self.shift, self.shift), (1, 2))
        x = x + y[:, :height, :width].contiguous().view(n, -1, channels)
        x = x + self.mlp(self.norm2(x))
        return square(x, (height, width))


class Embed(nn.Module):
    """The first convolution."""

    def __init__(self, width: int):
        super().__init__()
        self.proj = nn.Conv2d(3, width, 3, 1, 1, bias=False)


class Resample(nn.Module):
    """Convolution and pixel shuffle."""

    def __init__(self, channels: int, up: bool):
        super().__init__()
        outputs = 2 * channels if up else channels // 2
        shuffle = nn.PixelShuffle(2) if up else nn.PixelUnshuffle(2)
        self.body = nn.Sequential(nn.Conv2d(channels, outputs, 3, 1, 1, bias=False), shuffle)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) to half the channels at twice the size, or the other way round."""
        return self.body(x)


class Xformer(nn.Module):
    """Xformer with the normalisation that has a bias."""

    def __init__(self, *, width: int = 48, window: int = 16, image_size: int = 128):
        super().__init__()
        heads, w = (1, 2, 4, 8), width

        def channel(level: int, factor: int, count: int) -> nn.Sequential:
            return nn.Sequential(*(ChannelBlock(factor * w, heads[level]) for _ in range(count)))

        def spatial(level: int, count: int) -> nn.Sequential:
            shifts = [window // 2 * (i % 2) * (level < 3) for i in range(count)]
            return nn.Sequential(
                *(SpatialBlock(2**level * w, heads[level], window, shift, image_size // 2**level) for shift in shifts)
            )

        exchanged = (2 * w, 4 * w, 2 * w, w)
        self.Convs = nn.ModuleList(nn.Conv2d(c, c, 3, 1, 1) for c in exchanged)
        self.DWconvs = nn.ModuleList(nn.Conv2d(c, c, 3, 1, 1, groups=c) for c in exchanged)
        self.patch_embed = Embed(w)
        counts = (2, 4, 4)
        for level in range(3):
            setattr(self, f"encoder_level{level + 1}", channel(level, 2**level, counts[level]))
            setattr(self, f"encoder{level + 1}", spatial(level, counts[level]))
            setattr(self, f"decoder_level{level + 1}", channel(level, 2**level, counts[level]))
            setattr(self, f"decoder{level + 1}", spatial(level, counts[level]))
            for down, up in (
                (f"down{level + 1}_{level + 2}", f"up{level + 2}_{level + 1}"),
                (f"d{level + 1}_{level + 2}", f"u{level + 2}_{level + 1}"),
            ):
                setattr(self, down, Resample(2**level * w, up=False))
                setattr(self, up, Resample(2 ** (level + 1) * w, up=True))
            for name in ("reduce_chan_level", "reduce"):
                merged = nn.Conv2d(2 ** (level + 1) * w, 2**level * w, 1, bias=False)
                setattr(self, f"{name}{level + 1}", merged)
        self.s_latent = spatial(3, 6)
        self.refinement = channel(0, 2, 4)
        self.output = nn.Conv2d(2 * w, 3, 3, 1, 1, bias=False)

    def exchange(self, i: int, c: torch.Tensor, s: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Each branch receives the other."""
        return c + self.DWconvs[i](s), s + self.Convs[i](c)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """(N, 3, H, W) to the same, H and W multiples of 8."""
        x = self.patch_embed.proj(image)
        c1, s1 = self.encoder_level1(x), self.encoder1(x)
        c, s = self.exchange(0, self.down1_2(c1), self.d1_2(s1))
        c2, s2 = self.encoder_level2(c), self.encoder2(s)
        c, s = self.exchange(1, self.down2_3(c2), self.d2_3(s2))
        c3, s3 = self.encoder_level3(c), self.encoder3(s)
        c, s = self.s_latent(self.down3_4(c3)), self.s_latent(self.d3_4(s3))
        c = self.decoder_level3(self.reduce_chan_level3(torch.cat([self.up4_3(c), c3], 1)))
        s = self.decoder3(self.reduce3(torch.cat([self.u4_3(s), s3], 1)))
        c = self.reduce_chan_level2(torch.cat([self.up3_2(c), c2], 1))
        s = self.reduce2(torch.cat([self.u3_2(s), s2], 1))
        c, s = self.exchange(2, c, s)
        c, s = self.decoder_level2(c), self.decoder2(s)
        c = self.reduce_chan_level1(torch.cat([self.up2_1(c), c1], 1))
        s = self.reduce1(torch.cat([self.u2_1(s), s1], 1))
        c, s = self.exchange(3, c, s)
        c, s = self.decoder_level1(c), self.decoder1(s)
        return self.output(self.refinement(torch.cat([c, s], 1))) + image


CASES = [
    Case(name="xformer-denoise", architecture="xformer", arguments={}, transcription=Xformer, size=(128, 128)),
]
