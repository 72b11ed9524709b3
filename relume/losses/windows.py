"""Gaussian windows, applied along rows and columns."""

import torch
import torch.nn.functional as F


def gaussian(radius: int, sigma: float, like: torch.Tensor) -> torch.Tensor:
    """A Gaussian of 2 · radius + 1 samples with sum 1, of the type and on the device of a tensor."""
    profile = torch.exp(-0.5 * (torch.arange(-radius, radius + 1, dtype=torch.float64) / sigma) ** 2)
    return (profile / profile.sum()).to(like)


def filter_both_ways(image: torch.Tensor, profile: torch.Tensor, padding: int = 0) -> torch.Tensor:
    """Each channel filtered with the profile along rows and columns, zeros beyond the border.

    Args:
        image: (N, C, H, W).
        profile: (taps,).
        padding: Zeros on each side.

    Returns:
        (N, C, H + 2 · padding - taps + 1, W + 2 · padding - taps + 1).
    """
    flat = image.flatten(0, 1).unsqueeze(1)  # (N·C, 1, H, W)
    flat = F.conv2d(flat, profile.view(1, 1, -1, 1), padding=(padding, 0))
    flat = F.conv2d(flat, profile.view(1, 1, 1, -1), padding=(0, padding))
    return flat.unflatten(0, image.shape[:2]).squeeze(2)
