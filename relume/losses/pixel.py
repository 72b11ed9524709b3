"""Losses that compare pixel by pixel."""

from typing import Literal

import torch
import torch.nn.functional as F

from relume.losses.precision import in_float32


@in_float32
def l1_loss(restored: torch.Tensor, clean: torch.Tensor) -> torch.Tensor:
    """Mean absolute error."""
    return F.l1_loss(restored, clean)


@in_float32
def mse_loss(restored: torch.Tensor, clean: torch.Tensor) -> torch.Tensor:
    """Mean squared error."""
    return F.mse_loss(restored, clean)


@in_float32
def charbonnier_loss(
    restored: torch.Tensor, clean: torch.Tensor, *, epsilon: float = 1e-3, epsilon_squared: bool = True
) -> torch.Tensor:
    """mean √(d² + ε²), L1 made smooth at zero.

    Args:
        restored: (N, C, H, W).
        clean: (N, C, H, W).
        epsilon: ε, above 0.
        epsilon_squared: False for √(d² + ε), which published training codes compute with ε from 1e-12 to 1e-3.

    Source: Charbonnier et al., ICIP 1994; ε = 1e-3, squared, as in Lai et al., CVPR 2017.
    """
    inside = epsilon**2 if epsilon_squared else epsilon
    return torch.sqrt((restored - clean).square() + inside).mean()


@in_float32
def psnr_loss(restored: torch.Tensor, clean: torch.Tensor) -> torch.Tensor:
    """Minus the PSNR in dB, averaged over the images of the batch.

    Source: Chen et al., NAFNet (arXiv 2204.04676): 10 log10(mse + 1e-8) for each image.
    """
    mse = (restored - clean).square().mean(dim=(1, 2, 3))
    return 10 * torch.log10(mse + 1e-8).mean()


@in_float32
def gradient_l1_loss(
    restored: torch.Tensor,
    clean: torch.Tensor,
    *,
    weight_from: Literal["clean", "difference"] = "clean",
    strength: float = 4.0,
) -> torch.Tensor:
    """L1 that counts more where there are edges.

    Args:
        restored: (N, C, H, W).
        clean: (N, C, H, W).
        weight_from: `clean`: |d| · (1 + α · g), g the length of the clean image's gradient. `difference`:
            |d| · (1 + α · Dx) · (1 + α · Dy), D the absolute difference of both images' gradients, which is
            trained through as well.
        strength: α. Gradients are Sobel's, in brightness per pixel.

    Source: `difference` is the gradient-weighted loss of Wei et al., "Component divide-and-conquer for real-world image
    super-resolution", ECCV 2020, α = 4. The denoising challenge's team that names a gradient-weighted L1 (arXiv
    2504.12276) gives no formula; `clean` is the plain reading.
    """
    error = (restored - clean).abs()
    if weight_from == "clean":
        with torch.no_grad():
            x, y = _sobel(clean)
            weight = 1 + strength * torch.sqrt(x.square() + y.square())
    else:
        x, y = _sobel(restored - clean)  # linear: the difference of the gradients
        weight = (1 + strength * x.abs()) * (1 + strength * y.abs())
    return (error * weight).mean()


def _sobel(image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Horizontal and vertical gradients per pixel, the border pixel repeated; each (N, C, H, W)."""
    # Not F.pad: on a GPU the gradient of its replication has no deterministic kernel.
    image = torch.cat([image[..., :1], image, image[..., -1:]], dim=-1)
    image = torch.cat([image[..., :1, :], image, image[..., -1:, :]], dim=-2)
    across, down = image[..., 2:] - image[..., :-2], image[..., 2:, :] - image[..., :-2, :]
    x = (across[..., :-2, :] + 2 * across[..., 1:-1, :] + across[..., 2:, :]) / 8
    y = (down[..., :-2] + 2 * down[..., 1:-1] + down[..., 2:]) / 8
    return x, y
