"""AdaFM: a residual network whose features are modulated between two training levels.

Source: He et al., "Modulating Image Restoration with Continual Levels via Adaptive Feature Modification Layers",
CVPR 2019 (arXiv 1904.08118). Written from the paper; state-dict keys are those of the published checkpoints.
Deviation: odd sizes are padded by reflection inside `forward`.
"""

import torch
from torch import nn

from relume.models.layers import pad_to_multiple
from relume.models.levels import coefficient_between
from relume.models.registry import Variant


class FeatureModification(nn.Module):
    """x + coefficient · depthwise(x): the adaptive feature modification layer (section 3.2).

    Args:
        channels: C.
        kernel: Side of the depthwise kernels in pixels.

    The kernels start at zero, so that the second stage starts at the network of the first.
    """

    def __init__(self, channels: int, kernel: int):
        super().__init__()
        self.transformer = nn.Conv2d(channels, channels, kernel, padding=kernel // 2, groups=channels)
        for parameter in self.transformer.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: torch.Tensor, coefficient: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) and (N or 1, 1, 1, 1) to (N, C, H, W)."""
        if self.transformer.kernel_size == (1, 1):  # a scale and a shift of each channel: one pass over x
            scale = 1 + coefficient * self.transformer.weight.view(1, -1, 1, 1)
            return torch.addcmul(coefficient * self.transformer.bias.view(1, -1, 1, 1), x, scale)
        return x + coefficient * self.transformer(x)


class Modulated(nn.Sequential):
    """Layers in a row, of which the modification layers are given the coefficient."""

    def forward(self, x: torch.Tensor, coefficient: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) and (N or 1, 1, 1, 1) to (N, C, H, W)."""
        for layer in self:
            x = layer(x, coefficient) if isinstance(layer, FeatureModification | ResidualBlock) else layer(x)
        return x


class ResidualBlock(nn.Module):
    """x + layers(x), the layers two convolutions, each with its modification, and a ReLU between (figure 2)."""

    def __init__(self, channels: int, kernel: int):
        super().__init__()
        self.res = Modulated(*_convolution(channels, kernel), nn.ReLU(), *_convolution(channels, kernel))

    def forward(self, x: torch.Tensor, coefficient: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) and (N or 1, 1, 1, 1) to (N, C, H, W)."""
        return x + self.res(x, coefficient)


class Trunk(nn.Module):
    """x + layers(x), under the key `sub` of the checkpoints."""

    def __init__(self, channels: int, blocks: int, kernel: int):
        super().__init__()
        self.sub = Modulated(*(ResidualBlock(channels, kernel) for _ in range(blocks)), *_convolution(channels, kernel))

    def forward(self, x: torch.Tensor, coefficient: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) and (N or 1, 1, 1, 1) to (N, C, H, W)."""
        return x + self.sub(x, coefficient)


def _convolution(channels: int, kernel: int) -> list[nn.Module]:
    modification = FeatureModification(channels, kernel) if kernel else nn.Identity()
    return [nn.Conv2d(channels, channels, 3, padding=1), modification]


class AdaFM(nn.Module):
    """Residual network at half resolution whose output is the image itself; no global residual (figure 2).

    Args:
        width: Channels.
        blocks: Residual blocks.
        kernel: Side of the modification kernels, 1 to 7; 0 for the basic network of the first stage.
        levels: Noise levels of the first and the second stage, in [0, 255].
        channels: Image channels.
    """

    size_multiple = 2

    def __init__(
        self,
        *,
        width: int = 64,
        blocks: int = 16,
        kernel: int = 1,
        levels: tuple[float, float] = (15, 75),
        channels: int = 3,
    ):
        super().__init__()
        self.levels = levels
        self.model = nn.Sequential(
            nn.Conv2d(channels, width, 3, stride=2, padding=1),
            Trunk(width, blocks, kernel),
            nn.Conv2d(width, 4 * width, 3, padding=1),
            nn.PixelShuffle(2),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, channels, 3, padding=1),
        )

    def forward(self, image: torch.Tensor, level: torch.Tensor) -> torch.Tensor:
        """Denoises at a stated level; at `levels[0]` it is the basic network.

        Args:
            image: (N, C, H, W) in [0, 1]; any H and W.
            level: Sigma in [0, 255], (N,) or (1,); outside `levels` the modulation continues linearly. Without
                modification layers it has no effect.

        Returns:
            (N, C, H, W), not clamped.
        """
        height, width = image.shape[-2:]
        coefficient = coefficient_between(level, self.levels).to(image.dtype).view(-1, 1, 1, 1)
        first, trunk, *rest = self.model
        x = trunk(first(pad_to_multiple(image, self.size_multiple, mode="reflect")), coefficient)
        for layer in rest:
            x = layer(x)
        return x[:, :, :height, :width]


VARIANTS = {
    "adafm-basic": Variant(
        architecture="adafm", arguments={"kernel": 0}, about="first stage, one level", parameters=1_406_787
    ),
    "adafm-1x1": Variant(architecture="adafm", arguments={"kernel": 1}, about="sigma 15 to 75", parameters=1_411_011),
    "adafm-3x3": Variant(architecture="adafm", arguments={"kernel": 3}, about="sigma 15 to 75", parameters=1_427_907),
    "adafm-5x5": Variant(architecture="adafm", arguments={"kernel": 5}, about="sigma 15 to 75", parameters=1_461_699),
    "adafm-7x7": Variant(architecture="adafm", arguments={"kernel": 7}, about="sigma 15 to 75", parameters=1_512_387),
    "adafm-demo": Variant(
        architecture="adafm", arguments={"width": 16, "blocks": 2, "kernel": 3}, about="seconds on a CPU"
    ),
}
