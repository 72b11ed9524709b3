"""Structural similarity."""

import torch

from relume.losses.precision import in_float32
from relume.losses.windows import filter_both_ways, gaussian


@in_float32
def ssim_loss(restored: torch.Tensor, clean: torch.Tensor) -> torch.Tensor:
    """1 - mean SSIM with the published Gaussian window of 11 x 11, sigma 1.5; each side has at least 11 pixels.

    The mean is over the windows that are wholly inside the images, the channels and the images.

    Source: Wang et al., "Image quality assessment: from error visibility to structural similarity",
    IEEE TIP 2004, eq. 13 with K1 = 0.01, K2 = 0.03, L = 1.
    """
    profile = gaussian(5, 1.5, restored)
    stacked = torch.cat([restored, clean, restored.square(), clean.square(), restored * clean])
    mean_x, mean_y, square_x, square_y, product = filter_both_ways(stacked, profile).chunk(5)
    c1, c2 = 0.01**2, 0.03**2
    similarity = (2 * mean_x * mean_y + c1) * (2 * (product - mean_x * mean_y) + c2)
    similarity = similarity / (
        (mean_x.square() + mean_y.square() + c1) * (square_x - mean_x.square() + square_y - mean_y.square() + c2)
    )
    return 1 - similarity.mean()
