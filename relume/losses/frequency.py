"""Losses on frequency bands: above a cutoff, or in the sub-bands of a stationary wavelet transform."""

import math
from typing import Literal

import torch
import torch.nn.functional as F

from relume.losses.precision import in_float32
from relume.losses.settings import Wavelet
from relume.losses.windows import filter_both_ways, gaussian

# Low-pass filters with sum √2. Source: Daubechies, "Ten lectures on wavelets", 1992, tables 6.1 and 6.3.
LOW_PASS: dict[str, list[float]] = {
    "haar": [1 / math.sqrt(2)] * 2,
    "sym2": [(a + b * math.sqrt(3)) / (4 * math.sqrt(2)) for a, b in ((1, -1), (3, -1), (3, 1), (1, 1))],
    "sym4": [
        -0.07576571478927333,
        -0.02963552764599851,
        0.49761866763201545,
        0.8037387518059161,
        0.29785779560527736,
        -0.09921954357684722,
        -0.012603967262037833,
        0.0322231006040427,
    ],
}


@in_float32
def high_frequency_loss(
    restored: torch.Tensor,
    clean: torch.Tensor,
    *,
    form: Literal["residual", "fourier", "wavelet"] = "residual",
    sigma: float = 1.5,
    cutoff: float = 0.25,
) -> torch.Tensor:
    """L1 on what is fine in both images.

    Args:
        restored: (N, C, H, W).
        clean: (N, C, H, W).
        form: `residual`: what a Gaussian blur takes away. `fourier`: amplitudes above the cutoff, whatever their
            phase. `wavelet`: the three detail bands of `wavelet_loss` at one level.
        sigma: Of the blur in pixels, for `residual`.
        cutoff: Distance from the origin in cycles per pixel, for `fourier`; 0.5 is the finest along an axis.

    Source: the team SNUCV of the denoising challenge (arXiv 2504.12276) names the loss and gives no formula.
    """
    if form == "fourier":
        return _amplitude_l1(restored, clean, cutoff)
    if form == "wavelet":
        return wavelet_loss(restored, clean, approximation=0.0)
    difference = restored - clean
    radius = math.ceil(3 * sigma)
    profile = gaussian(radius, sigma, difference)
    # Divided by the window's part inside the image, a blur keeps a constant up to the border.
    inside = filter_both_ways(torch.ones_like(difference[:1, :1]), profile, radius)
    return (difference - filter_both_ways(difference, profile, radius) / inside).abs().mean()


def _amplitude_l1(restored: torch.Tensor, clean: torch.Tensor, cutoff: float) -> torch.Tensor:
    """Mean | |F(restored)| - |F(clean)| | over all frequencies from the cutoff on, F orthonormal."""
    height, width = restored.shape[-2:]
    down = torch.fft.fftfreq(height, device=restored.device)[:, None]
    across = torch.fft.rfftfreq(width, device=restored.device)
    # rfft2 leaves out the mirror image of every column but the first and, for an even width, the last.
    count = torch.full((width // 2 + 1,), 2.0, device=restored.device)
    count[0] = 1
    if width % 2 == 0:
        count[-1] = 1
    weight = (torch.hypot(down, across) >= cutoff) * count
    amplitudes = [torch.fft.rfft2(image, norm="ortho").abs() for image in (restored, clean)]
    difference = (amplitudes[0] - amplitudes[1]).abs().mean(dim=(0, 1))
    return (difference * weight).sum() / weight.sum()


@in_float32
def wavelet_loss(
    restored: torch.Tensor,
    clean: torch.Tensor,
    *,
    wavelet: Wavelet = "sym4",
    levels: int = 1,
    approximation: float = 1.0,
    horizontal: float = 1.0,
    vertical: float = 1.0,
    diagonal: float = 1.0,
) -> torch.Tensor:
    """Weighted sum of the L1 on each band of the stationary (undecimated, periodic) wavelet transform.

    Args:
        restored: (N, C, H, W), each side at least (taps - 1) · 2^(levels - 1).
        clean: (N, C, H, W).
        wavelet: `haar` has 2 taps, `sym2` 4, `sym4` 8.
        levels: How often the approximation is split again.
        approximation: Weight of the coarsest level's low-pass band.
        horizontal: Weight of horizontal edges at every level: high-pass from row to row.
        vertical: Weight of vertical edges at every level.
        diagonal: Weight of what is high-pass both ways at every level.

    Source: stationary wavelet loss, Korkmaz and Tekalp, "Training transformer models by wavelet losses improves
    quantitative and visual performance in single image super-resolution", CVPRW 2024. Filters are scaled to keep
    brightness: the approximation of a constant is the constant.
    """
    band, loss = restored - clean, 0.0  # the transform is linear
    for level in range(levels):
        band, across, down, both = stationary_bands(band, wavelet, level)
        loss = loss + vertical * across.abs().mean() + horizontal * down.abs().mean() + diagonal * both.abs().mean()
    return loss + approximation * band.abs().mean()


def stationary_bands(image: torch.Tensor, wavelet: Wavelet, level: int) -> tuple[torch.Tensor, ...]:
    """One level of the stationary wavelet transform.

    Args:
        image: (N, C, H, W), the approximation of the level before.
        wavelet: A key of `LOW_PASS`.
        level: From 0; the filters have 2^level - 1 holes between their taps.

    Returns:
        Low-pass both ways; high-pass across; high-pass down; high-pass both ways; each (N, C, H, W).
    """
    low = image.new_tensor(LOW_PASS[wavelet]) / math.sqrt(2)
    signs = image.new_tensor([-1.0, 1.0]).repeat(len(low) // 2)
    filters = torch.stack(
        [low.flip(0), low * signs]
    )  # turned, as conv2d correlates; the second is the quadrature mirror
    hole = 2**level
    reach = (len(low) - 1) * hole
    flat = image.flatten(0, 1).unsqueeze(1)  # (N·C, 1, H, W)
    flat = F.conv2d(F.pad(flat, (0, 0, 0, reach), mode="circular"), filters[:, None, :, None], dilation=(hole, 1))
    flat = flat.flatten(0, 1).unsqueeze(1)  # (N·C·2, 1, H, W)
    flat = F.conv2d(F.pad(flat, (0, reach, 0, 0), mode="circular"), filters[:, None, None, :], dilation=(1, hole))
    bands = flat.unflatten(0, (*image.shape[:2], 2))  # (N, C, low or high down, low or high across, H, W)
    return tuple(bands.flatten(2, 3).unbind(2))
