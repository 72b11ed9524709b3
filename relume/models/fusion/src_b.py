"""SRC-B's network: Restormer for global structure, NAFNet for local detail, and a feature fusion module.

Source: team SRC-B of the NTIRE 2025 denoising challenge (arXiv 2504.12276), first place. Its summary leaves open
whether the two stand one after the other, the size of NAFNet and the operator of the fusion. Here NAFNet works on
Restormer's result by default ("then" in the summary) and on the noisy image as an option; the fusion is ours.
Both parts keep the state dicts of their families, under `structure` and `detail`, so that published weights can start
them. The team trains in three stages: all of it, then `detail` alone, then all of it on selected images.
"""

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import nn

from relume.models.layers import PointwiseConv
from relume.models.nafnet import NAFNet
from relume.models.registry import Variant
from relume.models.restormer import Restormer


class FeatureFusion(nn.Module):
    """A learnable balance of two results, plus a correction from the features that they are made of.

    The features of both parts are brought to one width, weighted per channel by learned weights, summed and mixed.

    Args:
        structure: Channels of the features of the structure's part.
        detail: Channels of those of the detail's part.
        width: Channels of the joined features.
        channels: Image channels.

    A new one gives the mean of both: the balance starts at one half each, the correction at zero.
    """

    def __init__(self, structure: int, detail: int, width: int, channels: int):
        super().__init__()
        self.balance = nn.Parameter(torch.full((2,), 0.5))
        self.structure_features = PointwiseConv(structure, width)
        self.detail_features = PointwiseConv(detail, width)
        self.feature_weights = nn.Parameter(torch.ones(2, width, 1, 1))
        self.mix = nn.Conv2d(width, width, 3, padding=1)
        self.ending = nn.Conv2d(width, channels, 3, padding=1)
        for parameter in self.ending.parameters():
            nn.init.zeros_(parameter)

    def forward(
        self, structure: tuple[torch.Tensor, torch.Tensor], detail: tuple[torch.Tensor, torch.Tensor]
    ) -> torch.Tensor:
        """Two results (N, C, H, W), each with its features (N, F, H, W), to one result (N, C, H, W)."""
        joined = self.feature_weights[0] * self.structure_features(structure[1])
        joined = joined + self.feature_weights[1] * self.detail_features(detail[1])
        correction = self.ending(F.gelu(self.mix(F.gelu(joined))))
        return self.balance[0] * structure[0] + self.balance[1] * detail[0] + correction


class SRCB(nn.Module):
    """Restormer, NAFNet and the fusion of their features.

    Args:
        structure: Arguments of `Restormer`.
        detail: Arguments of `NAFNet`.
        topology: "cascade": NAFNet restores Restormer's result; "parallel": it restores the noisy image.
        width: Channels of the fusion's joined features.
        channels: Image channels.
    """

    def __init__(
        self,
        *,
        structure: dict[str, Any],
        detail: dict[str, Any],
        topology: Literal["cascade", "parallel"] = "cascade",
        width: int = 32,
        channels: int = 3,
    ):
        super().__init__()
        self.topology = topology
        self.structure = Restormer(**structure, channels=channels)
        self.detail = NAFNet(**detail, channels=channels)
        self.fusion = FeatureFusion(self.structure.output.in_channels, self.detail.ending.in_channels, width, channels)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) in [0, 1] to the same shape, not clamped; any H and W."""
        structure = self.structure.last_features(image)
        detail = self.detail.last_features(structure[0] if self.topology == "cascade" else image)
        return self.fusion(structure, detail)


_SIDD = {"width": 32, "encoder_blocks": [2, 2, 4, 8], "middle_blocks": 12, "decoder_blocks": [2, 2, 2, 2]}
_SMALL = {
    "structure": {"width": 12, "blocks": [1, 1, 1, 1], "refinement_blocks": 1, "heads": [1, 2, 2, 4]},
    "detail": {"width": 8, "encoder_blocks": [1, 1], "middle_blocks": 1, "decoder_blocks": [1, 1]},
    "width": 8,
}

VARIANTS = {
    "src-b": Variant(
        architecture="src_b",
        arguments={"structure": {}, "detail": _SIDD},
        about="one after the other, NAFNet of width 32; NTIRE 2025, sizes ours",
    ),
    "src-b-parallel": Variant(
        architecture="src_b",
        arguments={"structure": {}, "detail": _SIDD, "topology": "parallel"},
        about="side by side",
    ),
    "src-b-demo": Variant(architecture="src_b", arguments=_SMALL, about="minutes on a CPU"),
}
