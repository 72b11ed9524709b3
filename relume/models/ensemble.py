"""An ensemble: frozen base models, and a small head that fuses their outputs.

Source of the idea: the ensembles of the NTIRE 2025 denoising challenge (arXiv 2504.12276), where base
models are trained on their own and a head over the frozen bases is trained after them. The head here is
ours: per-pixel convex weights of the bases' outputs plus a correction.
"""

from typing import Any

import torch
from torch import nn

from relume.models.nafnet import NAFBlock
from relume.models.registry import build


class FusionHead(nn.Module):
    """Per-pixel convex weights for the bases' outputs, and a correction, from the image and all outputs.

    Args:
        bases: How many outputs are fused, K.
        width: Channels of the head.
        blocks: NAF blocks of the head.
        channels: Image channels, C.

    The last convolution starts at zero: a new head is the plain average of the bases.
    """

    def __init__(self, *, bases: int, width: int = 16, blocks: int = 2, channels: int = 3):
        super().__init__()
        self.channels = channels
        self.intro = nn.Conv2d((bases + 1) * channels, width, 3, padding=1)
        self.body = nn.Sequential(*(NAFBlock(width) for _ in range(blocks)))
        self.ending = nn.Conv2d(width, bases + channels, 3, padding=1)
        nn.init.zeros_(self.ending.weight)
        nn.init.zeros_(self.ending.bias)

    def forward(self, image: torch.Tensor, restored: list[torch.Tensor]) -> torch.Tensor:
        """Fuses K restorations, each (N, C, H, W), of one noisy image (N, C, H, W)."""
        x = self.ending(self.body(self.intro(torch.cat([image, *restored], dim=1))))
        logits, correction = x[:, : -self.channels], x[:, -self.channels :]
        weights = logits.softmax(dim=1).unbind(dim=1)
        return sum((w.unsqueeze(1) * r for w, r in zip(weights, restored, strict=True)), start=correction)


class Ensemble(nn.Module):
    """Base models side by side, each on the noisy image, and a fusion head over their outputs.

    Args:
        bases: For each base model its `architecture` and `arguments`, as in a model artifact.
        head: Arguments of `FusionHead` without the number of bases.
    """

    def __init__(self, *, bases: list[dict[str, Any]], head: dict[str, Any]):
        super().__init__()
        self.bases = nn.ModuleList(build(base["architecture"], base["arguments"]) for base in bases)
        self.head = FusionHead(bases=len(bases), **head)

    def train(self, mode: bool = True) -> "Ensemble":
        """Frozen bases stay in eval mode, so that no running statistic of theirs moves."""
        super().train(mode)
        for base in self.bases:
            base.train(mode and any(parameter.requires_grad for parameter in base.parameters()))
        return self

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) in [0, 1] to the same shape, not clamped; any H and W."""
        return self.head(image, [base(image) for base in self.bases])


class Average(nn.Module):
    """The plain mean of several networks' outputs, the reference that a trained head must beat.

    Args:
        networks: Restoration networks of the same image channels.
    """

    def __init__(self, networks: list[nn.Module]):
        super().__init__()
        self.networks = nn.ModuleList(networks)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) to the same shape."""
        return torch.stack([network(image) for network in self.networks]).mean(dim=0)
