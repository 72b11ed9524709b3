"""CResMD: residuals scaled by a condition of several degradation levels.

Source: He et al., "Interactive Multi-Dimension Modulation with Dynamic Controllable Residual Learning for Image
Restoration", ECCV 2020 (arXiv 1912.05293). Written from the paper; state-dict keys are those of the published
checkpoints, whose scales have biases and no sigmoid, so that an all-zero condition is not the identity.
Deviation: odd sizes are padded by reflection inside `forward`.
"""

import torch
from torch import nn

from relume.errors import ConfigError
from relume.models.layers import pad_to_multiple
from relume.models.registry import Variant


class ScaledResidualBlock(nn.Module):
    """x + scale(condition) · conv(ReLU(conv(x))), a scale for each channel (figure 3)."""

    def __init__(self, channels: int, conditions: int):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        self.local_scale = nn.Linear(conditions, channels)

    def forward(self, x: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) and (N or 1, conditions) to (N, C, H, W)."""
        scale = self.local_scale(condition)[:, :, None, None]
        return x + scale * self.conv2(self.conv1(x).relu())


class CResMD(nn.Module):
    """image + scale(condition) · network(image), the network at half resolution (figure 3).

    Args:
        width: Channels.
        blocks: Residual blocks.
        norms: The level of each degradation that makes a condition of one: blur (standard deviation of
            the kernel in pixels, times ten), noise (sigma in [0, 255]) and, with three, JPEG (100 minus the quality).
        others: What is assumed of blur, and of JPEG, where only the noise is given: for a served model, which has one
            level. None of them by default.
        channels: Image channels.
    """

    size_multiple = 2

    def __init__(
        self,
        *,
        width: int = 64,
        blocks: int = 32,
        norms: tuple[float, ...] = (40, 50),
        others: tuple[float, ...] | None = None,
        channels: int = 3,
    ):
        super().__init__()
        self.norms = tuple(norms)
        self.others = tuple(others or [0.0] * (len(norms) - 1))
        if len(self.others) != len(norms) - 1:
            raise ConfigError(
                "The conditions beside the noise are not those of the network",
                where=f"others {list(self.others)}, norms {list(norms)}",
                next_step="give a number for each condition but that of the noise",
            )
        self.global_scale = nn.Linear(len(norms), channels)
        self.conv_first = nn.Conv2d(channels, width, 3, stride=2, padding=1)
        self.recon_trunk = nn.ModuleList(ScaledResidualBlock(width, len(norms)) for _ in range(blocks))
        self.upconv = nn.Conv2d(width, 4 * width, 3, padding=1)
        self.HRconv = nn.Conv2d(width, width, 3, padding=1)
        self.conv_last = nn.Conv2d(width, channels, 3, padding=1)

    def forward(self, image: torch.Tensor, level: torch.Tensor) -> torch.Tensor:
        """Restores at stated levels.

        Args:
            image: (N, C, H, W) in [0, 1]; any H and W.
            level: All degradations in the units of `norms`, (N or 1, conditions); or of noise alone,
                sigma in [0, 255], (N,) or (1,), with the rest as `others` says.

        Returns:
            (N, C, H, W), not clamped.
        """
        if level.ndim < 2:
            noise = level.view(-1, 1)
            blur, *further = (torch.full_like(noise, other) for other in self.others)
            level = torch.cat([blur, noise, *further], dim=1)
        condition = (level / torch.tensor(self.norms, device=level.device)).to(image.dtype)
        height, width = image.shape[-2:]
        x = self.conv_first(pad_to_multiple(image, self.size_multiple, mode="reflect"))
        for block in self.recon_trunk:
            x = block(x, condition)
        x = nn.functional.pixel_shuffle(self.upconv(x), 2).relu()
        x = self.conv_last(self.HRconv(x).relu())[:, :, :height, :width]
        return image + self.global_scale(condition)[:, :, None, None] * x


VARIANTS = {
    "cresmd-2d": Variant(architecture="cresmd", arguments={}, about="blur and noise", parameters=2_557_708),
    "cresmd-3d": Variant(
        architecture="cresmd", arguments={"norms": [40, 50, 92]}, about="blur, noise and JPEG", parameters=2_559_759
    ),
    "cresmd-demo": Variant(architecture="cresmd", arguments={"width": 16, "blocks": 2}, about="seconds on a CPU"),
}
