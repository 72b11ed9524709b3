"""The x8 self-ensemble: the mean over the eight orientations of an image.

Source: Timofte et al., "Seven Ways to Improve Example-Based Single Image Super Resolution", CVPR 2016; used by nearly
every team of the NTIRE 2025 denoising challenge (arXiv 2504.12276).
"""

import torch
from torch import nn


def orient(image: torch.Tensor, turns: int, mirrored: bool) -> torch.Tensor:
    """Turns (..., H, W) counter-clockwise by `turns` right angles, then mirrors it left to right."""
    turned = torch.rot90(image, turns, (-2, -1))
    return turned.flip(-1) if mirrored else turned


def orient_back(image: torch.Tensor, turns: int, mirrored: bool) -> torch.Tensor:
    """The exact inverse of `orient`: mirrors first, then turns clockwise."""
    return torch.rot90(image.flip(-1) if mirrored else image, -turns, (-2, -1))


class SelfEnsemble(nn.Module):
    """The mean of a network's results on all eight orientations, each rotated back.

    Args:
        network: (N, C, H, W) to the same shape, with any further inputs.

    The mean is taken in the network's floating point, before clamping and rounding, and in pairs, so that eight
    equal results give exactly that result.
    """

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, image: torch.Tensor, *inputs: torch.Tensor) -> torch.Tensor:
        """Restores in eight orientations.

        Args:
            image: (N, C, H, W), of any sides.
            inputs: Passed on to the network; maps (N, K, H, W) are rotated with the image.

        Returns:
            (N, C, H, W).
        """
        results = []
        for turns in range(4):
            for mirrored in (False, True):
                turned = [orient(x, turns, mirrored) if x.ndim == 4 else x for x in (image, *inputs)]
                results.append(orient_back(self.network(*turned), turns, mirrored))
        while len(results) > 1:
            results = [first + second for first, second in zip(results[::2], results[1::2], strict=True)]
        return results[0] / 8
