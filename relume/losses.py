"""Losses between a restored and a clean batch, both (N, C, H, W) in [0, 1]; each returns a scalar."""

from collections.abc import Callable

import torch
import torch.nn.functional as F


def l1_loss(restored: torch.Tensor, clean: torch.Tensor) -> torch.Tensor:
    """Mean absolute error."""
    return F.l1_loss(restored, clean)


def charbonnier_loss(restored: torch.Tensor, clean: torch.Tensor, epsilon: float = 1e-3) -> torch.Tensor:
    """mean √(d² + ε²), L1 made smooth at zero.

    Source: Charbonnier et al., ICIP 1994; ε = 1e-3 as in Lai et al., CVPR 2017. Published training codes
    use several meanings of ε; here it is squared inside the root.
    """
    return torch.sqrt((restored - clean).square() + epsilon**2).mean()


def psnr_loss(restored: torch.Tensor, clean: torch.Tensor) -> torch.Tensor:
    """Minus the PSNR in dB, averaged over the images of the batch.

    Source: Chen et al., NAFNet (arXiv 2204.04676): 10 log10(mse + 1e-8) for each image.
    """
    mse = (restored - clean).square().mean(dim=(1, 2, 3))
    return 10 * torch.log10(mse + 1e-8).mean()


LOSSES: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "l1": l1_loss,
    "charbonnier": charbonnier_loss,
    "psnr": psnr_loss,
}
