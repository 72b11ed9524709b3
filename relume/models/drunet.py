"""DRUNet: a bias-free residual U-Net that is given the noise level.

Source: Zhang et al., "Plug-and-Play Image Restoration with Deep Denoiser Prior", IEEE TPAMI 2021 (arXiv 2008.13751).
State-dict keys are those of the published checkpoints (KAIR, `UNetRes`).
Deviation: inputs of any size are padded by their edge pixels to a multiple of 8 inside `forward`.
"""

import torch
from torch import nn

from relume.models.layers import pad_to_multiple
from relume.models.levels import level_map
from relume.models.registry import Variant


class ResidualBlock(nn.Module):
    """x + conv(ReLU(conv(x))), without biases, under the key `res` of the checkpoints."""

    def __init__(self, channels: int):
        super().__init__()
        self.res = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) to (N, C, H, W)."""
        return x + self.res(x)


class DRUNet(nn.Module):
    """Four-level U-Net of residual blocks with additive skips; strided and transposed 2x2 convolutions between.

    Args:
        width: Channels at full resolution; doubled at each level down.
        blocks: Residual blocks of each level, on the way down and up.
        channels: Image channels.
    """

    size_multiple = 8

    def __init__(self, *, width: int = 64, blocks: int = 4, channels: int = 3):
        super().__init__()

        def stack(factor: int) -> list[nn.Module]:
            return [ResidualBlock(factor * width) for _ in range(blocks)]

        def down(factor: int) -> nn.Sequential:
            return nn.Sequential(*stack(factor), nn.Conv2d(factor * width, 2 * factor * width, 2, 2, bias=False))

        def up(factor: int) -> nn.Sequential:
            halve = nn.ConvTranspose2d(2 * factor * width, factor * width, 2, 2, bias=False)
            return nn.Sequential(halve, *stack(factor))

        self.m_head = nn.Conv2d(channels + 1, width, 3, padding=1, bias=False)
        self.m_down1, self.m_down2, self.m_down3 = down(1), down(2), down(4)
        self.m_body = nn.Sequential(*stack(8))
        self.m_up3, self.m_up2, self.m_up1 = up(4), up(2), up(1)
        self.m_tail = nn.Conv2d(width, channels, 3, padding=1, bias=False)

    def forward(self, image: torch.Tensor, level: torch.Tensor) -> torch.Tensor:
        """Denoises at a stated level.

        Args:
            image: (N, C, H, W) in [0, 1]; any H and W.
            level: Sigma in [0, 255]: (N,), (1,), or for every pixel (N, 1, H, W).

        Returns:
            (N, C, H, W), not clamped.
        """
        height, width = image.shape[-2:]
        noisy = torch.cat([image, level_map(level, image)], dim=1)
        level1 = self.m_head(pad_to_multiple(noisy, self.size_multiple, mode="replicate"))
        level2 = self.m_down1(level1)
        level3 = self.m_down2(level2)
        level4 = self.m_down3(level3)
        x = self.m_up3(self.m_body(level4) + level4)
        x = self.m_up2(x + level3)
        x = self.m_up1(x + level2)
        return self.m_tail(x + level1)[:, :, :height, :width]


VARIANTS = {
    "drunet-color": Variant(architecture="drunet", arguments={}, about="colour, sigma 0 to 50", parameters=32_640_960),
    "drunet-gray": Variant(
        architecture="drunet", arguments={"channels": 1}, about="gray, sigma 0 to 50", parameters=32_638_656
    ),
    "drunet-demo": Variant(architecture="drunet", arguments={"width": 8, "blocks": 1}, about="seconds on a CPU"),
}
