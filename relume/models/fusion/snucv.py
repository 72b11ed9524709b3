"""SNUCV's ensemble: an Xformer over the results of MambaIRv2, Xformer and Restormer, joined at their deepest features.

Source: team SNUCV of the NTIRE 2025 denoising challenge (arXiv 2504.12276), second place: the three networks are
trained on their own and frozen; their results and the noisy image, twelve channels, enter an Xformer, and their
deepest features, concatenated and reduced by a 1x1 convolution, enter its latent. Its summary leaves open whether they
are added or concatenated there: here they are added, to the input of both latents. The corrected image is the mean
of the three results, and the last convolution starts at zero, so that a new ensemble is the plain average; both are
our choice.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from relume.models.layers import pad_to_multiple
from relume.models.mambairv2 import MambaIRv2
from relume.models.registry import Variant
from relume.models.restormer import PatchEmbed, Restormer
from relume.models.xformer import Xformer


class EnsembleXformer(Xformer):
    """An Xformer that reads several results and the noisy image, and takes features into its latent.

    Args:
        results: How many results are read.
        features: Channels of the base models' deepest features, all together.
        channels: Image channels.
        options: Other arguments of `Xformer`.
    """

    def __init__(self, *, results: int, features: int, channels: int, **options: Any):
        super().__init__(channels=channels, **options)
        width = self.patch_embed.proj.out_channels
        self.patch_embed = PatchEmbed((results + 1) * channels, width)
        self.reduce_features = nn.Conv2d(features, 8 * width, 1)
        nn.init.zeros_(self.output.weight)

    def forward(  # type: ignore[override]
        self, image: torch.Tensor, results: list[torch.Tensor], features: list[torch.Tensor]
    ) -> torch.Tensor:
        """Fuses the results.

        Args:
            image: Noisy, (N, C, H, W).
            results: Each (N, C, H, W).
            features: Each (N, any, at least H/8, at least W/8), with whole multiples of an eighth of the sides:
                finer ones are averaged down to it.

        Returns:
            (N, C, H, W), not clamped.
        """
        height, width = image.shape[-2:]
        padded = pad_to_multiple(torch.cat([image, *results], dim=1), self.size_multiple, mode="reflect")
        joined = self.reduce_features(torch.cat([_eighth(x, height, width) for x in features], dim=1))
        correction, _ = self.branches(padded, joined)
        return torch.stack(results).mean(dim=0) + correction[:, :, :height, :width]


def _eighth(features: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Brings features to the grid of an Xformer's latent for an image of height x width pixels.

    Features at full resolution may be padded to windows larger than eight pixels; what is beyond is cut off.
    """
    rows, columns = -(-height // 8), -(-width // 8)
    if features.shape[-2:] == (rows, columns):
        return features
    return F.avg_pool2d(features[:, :, : 8 * rows, : 8 * columns], 8)


class SNUCV(nn.Module):
    """The three base models and the ensemble network over them.

    Args:
        mambairv2: Arguments of `MambaIRv2`.
        xformer: Arguments of `Xformer`.
        restormer: Arguments of `Restormer`.
        head: Arguments of `Xformer` for the ensemble network.
        channels: Image channels.

    Members whose parameters do not require gradients stay in eval mode, as in `relume.models.ensemble`.
    """

    def __init__(
        self,
        *,
        mambairv2: dict[str, Any],
        xformer: dict[str, Any],
        restormer: dict[str, Any],
        head: dict[str, Any],
        channels: int = 3,
    ):
        super().__init__()
        mamba = MambaIRv2(**mambairv2, channels=channels)
        hybrid = Xformer(**xformer, channels=channels)
        transposed = Restormer(**restormer, channels=channels)
        self.members = nn.ModuleList([mamba, hybrid, transposed])
        widths = (
            mamba.conv_last.in_channels,
            16 * hybrid.patch_embed.proj.out_channels,
            8 * transposed.patch_embed.proj.out_channels,
        )
        self.head = EnsembleXformer(results=3, features=sum(widths), channels=channels, **head)

    def train(self, mode: bool = True) -> "SNUCV":
        """Frozen base models stay in eval mode, so that none of their state changes."""
        super().train(mode)
        for member in self.members:
            member.train(mode and any(parameter.requires_grad for parameter in member.parameters()))
        return self

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) in [0, 1] to the same shape, not clamped; any H and W."""
        found = [member.deepest_features(image) for member in self.members]
        results, features = zip(*found, strict=True)
        return self.head(image, list(results), list(features))


_SMALL = {
    "mambairv2": {"width": 12, "blocks": [1], "heads": [2], "window": 8, "states": 4, "rank": 4, "tokens": 6},
    "xformer": {
        "width": 8,
        "channel_blocks": [1, 1, 1],
        "spatial_blocks": [1, 1, 1, 1],
        "refinement_blocks": 1,
        "heads": [1, 2, 2, 4],
        "window": 8,
        "image_size": 32,
    },
    "restormer": {"width": 8, "blocks": [1, 1, 1, 1], "refinement_blocks": 1, "heads": [1, 2, 2, 4]},
}

VARIANTS = {
    "snucv": Variant(
        architecture="snucv",
        arguments={"mambairv2": {}, "xformer": {}, "restormer": {}, "head": {}},
        about="NTIRE 2025, published sizes of the base models, head of Xformer's",
    ),
    "snucv-demo": Variant(
        architecture="snucv", arguments=_SMALL | {"head": _SMALL["xformer"]}, about="minutes on a CPU"
    ),
}
