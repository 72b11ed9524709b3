"""FFDNet: a chain of convolutions at half resolution that is given the noise level.

Source: Zhang et al., "FFDNet: Toward a Fast and Flexible Solution for CNN-Based Image Denoising", IEEE TIP 2018
(arXiv 1710.04026). State-dict keys and values are those of the authors' later implementation (KAIR).
Extension: a level for every pixel, as in the paper; their code takes one for the whole image.
"""

import torch
import torch.nn.functional as F
from torch import nn

from relume.models.layers import pad_to_multiple
from relume.models.levels import level_map
from relume.models.registry import Variant


class FFDNet(nn.Module):
    """Pixel unshuffle, noise level map as a further channel, convolutions, pixel shuffle (figure 1).

    Args:
        width: Channels of the hidden layers.
        layers: Number of convolutions.
        channels: Image channels.
    """

    def __init__(self, *, width: int = 96, layers: int = 12, channels: int = 3):
        super().__init__()
        chain: list[nn.Module] = [nn.Conv2d(4 * channels + 1, width, 3, padding=1), nn.ReLU()]
        for _ in range(layers - 2):
            chain += [nn.Conv2d(width, width, 3, padding=1), nn.ReLU()]
        self.model = nn.Sequential(*chain, nn.Conv2d(width, 4 * channels, 3, padding=1))

    def forward(self, image: torch.Tensor, level: torch.Tensor) -> torch.Tensor:
        """Denoises at a stated level.

        Args:
            image: (N, C, H, W) in [0, 1]; any H and W.
            level: Sigma in [0, 255]: (N,), (1,), or for every pixel (N, 1, H, W).

        Returns:
            (N, C, H, W), not clamped.
        """
        height, width = image.shape[-2:]
        x = F.pixel_unshuffle(pad_to_multiple(image, 2, mode="replicate"), 2)
        if level.ndim == 4:
            level = F.avg_pool2d(pad_to_multiple(level, 2, mode="replicate"), 2)
        x = self.model(torch.cat([x, level_map(level, x)], dim=1))
        return F.pixel_shuffle(x, 2)[:, :, :height, :width]


VARIANTS = {
    "ffdnet-color": Variant(architecture="ffdnet", arguments={}, about="colour, sigma 0 to 75", parameters=852_108),
    "ffdnet-gray": Variant(
        architecture="ffdnet",
        arguments={"width": 64, "layers": 15, "channels": 1},
        about="gray, sigma 0 to 75",
        parameters=485_316,
    ),
    "ffdnet-demo": Variant(architecture="ffdnet", arguments={"width": 24, "layers": 5}, about="seconds on a CPU"),
}
