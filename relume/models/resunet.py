"""ResUNet: plain 3x3 residual blocks in a small U-Net at half resolution, the fastest good network on a CPU.

Dense 3x3 convolutions are what CPUs compute best: 430 to 470 GMAC/s in bfloat16 where networks of depthwise
convolutions reach 61 to 98 (docs/log.md). So this family has nothing else: pixel unshuffle, residual blocks, strided
and transposed 2x2 convolutions.

Source: our own composition of published parts: pixel unshuffle and the level map of FFDNet (Zhang et al., IEEE TIP
2018), the residual blocks without normalisation of EDSR (Lim et al., CVPRW 2017), additive skips as in DRUNet (Zhang et
al., IEEE TPAMI 2021).
"""

import itertools
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

from relume.models.layers import ResidualBlock, pad_to_multiple
from relume.models.levels import level_map
from relume.models.registry import Variant

SHUFFLE = 2
START = 0.1  # of the weights that end a residual branch, so that a new network is nearly the identity


class _Body(nn.Module):
    """The U-Net of residual blocks on the unshuffled image, which it corrects: output = input + correction."""

    def __init__(self, widths: Sequence[int], blocks: Sequence[int], channels: int, level_channels: int):
        super().__init__()
        if len(widths) != len(blocks):
            raise ValueError("widths and blocks must be equally long")
        inner = SHUFFLE**2 * channels

        def stack(width: int, count: int) -> nn.Sequential:
            return nn.Sequential(*(ResidualBlock(width) for _ in range(count)))

        *outer, lowest = zip(widths, blocks, strict=True)
        self.head = nn.Conv2d(inner + level_channels, widths[0], 3, padding=1)
        self.encoders = nn.ModuleList(stack(*level) for level in outer)
        self.downs = nn.ModuleList(nn.Conv2d(a, b, 2, 2) for a, b in itertools.pairwise(widths))
        self.middle = stack(*lowest)
        self.ups = nn.ModuleList(nn.ConvTranspose2d(b, a, 2, 2) for a, b in itertools.pairwise(widths))
        self.decoders = nn.ModuleList(stack(*level) for level in outer)
        self.tail = nn.Conv2d(widths[0], inner, 3, padding=1)
        self.size_multiple = SHUFFLE * 2 ** len(outer)
        with torch.no_grad():
            for name, parameter in self.named_parameters():
                if name.endswith("bias"):
                    parameter.zero_()
                elif ".conv2." in name or name.startswith("tail."):
                    parameter.mul_(START)

    def restore(self, image: torch.Tensor, level: torch.Tensor | None) -> torch.Tensor:
        height, width = image.shape[-2:]
        unshuffled = F.pixel_unshuffle(pad_to_multiple(image, self.size_multiple, mode="replicate"), SHUFFLE)
        x = unshuffled if level is None else torch.cat([unshuffled, level_map(level, unshuffled)], dim=1)
        x, skips = self.head(x), []
        for encoder, down in zip(self.encoders, self.downs, strict=True):
            x = encoder(x)
            skips.append(x)
            x = down(x)
        x = self.middle(x)
        for up, decoder, skip in zip(self.ups[::-1], self.decoders[::-1], skips[::-1], strict=True):
            x = decoder(up(x) + skip)
        return F.pixel_shuffle(unshuffled + self.tail(x), SHUFFLE)[:, :, :height, :width]


class ResUNet(_Body):
    """The blind network.

    Args:
        widths: Channels of each level, the first at half the image's resolution, each further one at half of that.
        blocks: Residual blocks of each level; on the way down and again on the way up, once in the lowest level.
        channels: Image channels.

    Raises:
        ValueError: `widths` and `blocks` are not equally long.
    """

    def __init__(self, *, widths: Sequence[int] = (48, 96), blocks: Sequence[int] = (1, 3), channels: int = 3):
        super().__init__(widths, blocks, channels, level_channels=0)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Restores an image.

        Args:
            image: (N, C, H, W) in [0, 1]; any H and W.

        Returns:
            (N, C, H, W), not clamped.
        """
        return self.restore(image, None)


class AdjustableResUNet(_Body):
    """The network that is given the level of the degradation, as a further channel of its input.

    Args:
        widths: As of `ResUNet`.
        blocks: As of `ResUNet`.
        channels: Image channels.

    Raises:
        ValueError: `widths` and `blocks` are not equally long.
    """

    def __init__(self, *, widths: Sequence[int] = (48, 96), blocks: Sequence[int] = (1, 3), channels: int = 3):
        super().__init__(widths, blocks, channels, level_channels=1)

    def forward(self, image: torch.Tensor, level: torch.Tensor) -> torch.Tensor:
        """Restores an image at a stated level.

        Args:
            image: (N, C, H, W) in [0, 1]; any H and W.
            level: On the scale of [0, 255], such as sigma: (N,) or (1,).

        Returns:
            (N, C, H, W), not clamped.
        """
        return self.restore(image, level)


def _variant(about: str, *, adjustable: bool = False, **arguments: object) -> Variant:
    return Variant(architecture="resunet_adjustable" if adjustable else "resunet", arguments=arguments, about=about)


VARIANTS = {
    "resunet-small": _variant("blind, three levels, 0.1 s a megapixel", widths=[24, 48, 96], blocks=[1, 1, 1]),
    "resunet": _variant("blind, two levels, 0.3 s a megapixel", widths=[48, 96], blocks=[1, 3]),
    "resunet-deep": _variant("blind, three levels, sees further", widths=[48, 96, 160], blocks=[1, 1, 1]),
    "resunet-wide": _variant("blind, three levels, 0.5 s a megapixel", widths=[64, 128, 256], blocks=[1, 1, 1]),
    "resunet-large": _variant("blind, three levels, twice FFDNet's speed", widths=[96, 192, 384], blocks=[1, 1, 2]),
    "resunet-adjustable": _variant("given sigma", adjustable=True, widths=[48, 96], blocks=[1, 3]),
    "resunet-demo": _variant("seconds on a CPU", widths=[12, 24, 32], blocks=[1, 1, 1]),
    "resunet-adjustable-demo": _variant("seconds on a CPU", adjustable=True, widths=[12, 24], blocks=[1, 1]),
}
