"""The networks that a plan runs: the final model itself, or for each part of its base models one of theirs."""

import torch
from torch import nn

from relume.inference.plan import Inference
from relume.models.fusion.averages import Members, Shares


class SeededMasks(nn.Module):
    """A network with masks, as one that is given what they are drawn from.

    Args:
        network: Such as `relume.models.masked.MaskedDenoiser`: image and `mask_seed` to image.
    """

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, image: torch.Tensor, seed: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) and (N,), see `relume.inference.masks.mask_seeds`, to the same shape."""
        return self.network(image, mask_seed=seed)


def part_networks(network: nn.Module, inference: Inference) -> dict[str, nn.Module]:
    """The network of each part of a plan, by its name.

    Args:
        network: The final model. Where the plan has members or a fusion, a `WeightedAverage`.
        inference: The plan.

    Returns:
        (N, C, H, W) to (N, results · C, scale · H, scale · W), in eval mode; with several passes of seeds as well.
    """
    networks: dict[str, nn.Module] = {}
    for part in inference.parts:
        of_part: nn.Module = network
        if inference.fusion:
            of_part = Members(network, part.places)
        elif part.places:
            of_part = Shares(network, part.places)
        networks[part.name] = (SeededMasks(of_part) if inference.passes > 1 else of_part).eval()
    return networks
