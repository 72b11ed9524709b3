"""Weighted averages of networks' results, with weights given, learned or fitted.

Source: team Tcler of the NTIRE 2025 denoising challenge (arXiv 2504.12276) averages PromptIR and MambaIRv2, half and
half; team JNU620 takes 0.95 and 0.05. Averages are taken in float on the gamma-coded values, not in linear light.
"""

from typing import Any

import torch
from torch import nn

from relume.models.registry import Variant, build


class WeightedAverage(nn.Module):
    """The sum of the bases' results, each times its weight.

    Args:
        bases: For each base its `architecture` and `arguments`, as in a model artifact.
        weights: One for each base; equal ones by default. They are a parameter `weights`, so that they can be trained
            with the bases frozen.
    """

    def __init__(self, *, bases: list[dict[str, Any]], weights: list[float] | None = None):
        super().__init__()
        self.bases = nn.ModuleList(build(base["architecture"], base["arguments"]) for base in bases)
        self.weights = nn.Parameter(torch.tensor(weights or [1 / len(bases)] * len(bases)))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) in [0, 1] to the same shape, not clamped."""
        return sum(weight * base(image) for weight, base in zip(self.weights, self.bases, strict=True))


class Members(nn.Module):
    """The results of a fusion's base models side by side, for a fusion of finished images.

    Args:
        fusion: With base models, `bases`, each image to image.
        places: Of those to take; all when empty.
    """

    def __init__(self, fusion: nn.Module, places: tuple[int, ...] = ()):
        super().__init__()
        bases = list(fusion.get_submodule("bases").children())
        self.bases = nn.ModuleList(bases[place] for place in places or range(len(bases)))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) in [0, 1] to (N, members · C, H, W), not clamped."""
        return torch.cat([base(image) for base in self.bases.children()], dim=1)


class Shares(nn.Module):
    """What some base models add to a weighted average: the sum of these is that of all.

    Args:
        average: A `WeightedAverage`.
        places: Of the base models.
    """

    def __init__(self, average: nn.Module, places: tuple[int, ...]):
        super().__init__()
        bases = list(average.get_submodule("bases").children())
        self.bases = nn.ModuleList(bases[place] for place in places)
        self.register_buffer("weights", average.get_parameter("weights").detach()[list(places)], persistent=False)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) in [0, 1] to the same shape, their weights times their results."""
        return sum(weight * base(image) for weight, base in zip(self.weights, self.bases, strict=True))


def fit_weights(restored: torch.Tensor, clean: torch.Tensor) -> torch.Tensor:
    """The weights of sum one that give the least squared error, in closed form.

    Args:
        restored: Results of K networks, (K, ...).
        clean: What they should be, (...).

    Returns:
        (K,) in float64; negative where a network's errors are best subtracted.
    """
    errors = (restored - clean).flatten(1).double()
    covariance = errors @ errors.T
    # Equal networks make it singular; the pseudo-inverse then shares the weight among them.
    solution = torch.linalg.pinv(covariance, hermitian=True) @ torch.ones(len(errors), dtype=torch.float64)
    return solution / solution.sum()


_DNCNN = {"architecture": "dncnn", "arguments": {"width": 16, "layers": 6}}

VARIANTS = {
    "average-demo": Variant(
        architecture="weighted_average", arguments={"bases": [_DNCNN, _DNCNN]}, about="seconds on a CPU"
    ),
}
