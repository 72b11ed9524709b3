"""DnCNN: a plain chain of 3x3 convolutions that predicts the noise.

Source: Zhang et al., "Beyond a Gaussian Denoiser", IEEE TIP 2017 (arXiv 1608.03981). State-dict keys and values
are those of the authors' later implementation (KAIR), whose checkpoints have batch normalisation merged into the
convolutions. No deviation.
"""

import torch
from torch import nn

from relume.models.registry import Variant


class DnCNN(nn.Module):
    """image − chain(image), the chain having no pooling and no skip (figure 1).

    Args:
        width: Channels of the hidden layers.
        layers: Number of convolutions.
        batch_norm: Whether the hidden convolutions are followed by batch normalisation, as trained in the
            paper; False for checkpoints in which it is merged.
        channels: Image channels.
    """

    def __init__(self, *, width: int = 64, layers: int = 20, batch_norm: bool = False, channels: int = 3):
        super().__init__()
        chain: list[nn.Module] = [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
        for _ in range(layers - 2):
            chain.append(nn.Conv2d(width, width, 3, padding=1))
            if batch_norm:
                chain.append(nn.BatchNorm2d(width, eps=1e-4, momentum=0.9))
            chain.append(nn.ReLU())
        self.model = nn.Sequential(*chain, nn.Conv2d(width, channels, 3, padding=1))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) in [0, 1] to the same shape, not clamped; any H and W."""
        return image - self.model(image)


VARIANTS = {
    "dncnn-gray": Variant(
        architecture="dncnn", arguments={"layers": 17, "channels": 1}, about="gray, one sigma", parameters=555_137
    ),
    "dncnn-gray-batchnorm": Variant(
        architecture="dncnn",
        arguments={"layers": 17, "channels": 1, "batch_norm": True},
        about="gray, one sigma, as trained",
        parameters=557_057,
    ),
    "dncnn-color": Variant(architecture="dncnn", arguments={}, about="colour, blind", parameters=668_227),
    "dncnn-color-batchnorm": Variant(
        architecture="dncnn", arguments={"batch_norm": True}, about="colour, blind, as trained", parameters=670_531
    ),
    "dncnn-demo": Variant(architecture="dncnn", arguments={"width": 16, "layers": 6}, about="seconds on a CPU"),
}
