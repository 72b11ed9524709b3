"""The one measurement: PSNR and SSIM of a result against its clean image, and on what of an image they are taken.

The held-out metrics, the gate, the validation of a training, the parity of two paths and `relume evaluate` call these
functions; they differ in their images and in their protocol only.
"""

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["luma", "measure", "psnr", "shaved", "ssim", "to_8_bit"]

SSIM_WINDOW = 11  # pixels a side
EQUAL = 120.0  # dB, written for equal images, because JSON has no infinity


class Metrics(NamedTuple):
    """PSNR in dB, at most 120, and SSIM of one result."""

    psnr: float
    ssim: float


def measure(
    result: np.ndarray, clean: np.ndarray, *, unrounded: bool = False, on_luma: bool = False, border: int = 0
) -> Metrics:
    """Measures a result as an 8-bit file holds it.

    Args:
        result: (H, W, C), uint8, or float in about [0, 1], which is clamped and rounded.
        clean: uint8 of the same shape.
        unrounded: Whether PSNR is taken of the float values as they are, as tables do for unclipped noisy inputs.
        on_luma: Whether the luma of both is measured; see `luma`.
        border: Pixels at each side that are not measured.
    """
    clean, result = shaved(clean, border), shaved(result, border)
    rounded = result if result.dtype == np.uint8 else to_8_bit(result)
    values = result * np.float32(255) if unrounded else rounded
    if on_luma:
        values, rounded, clean = luma(values), luma(rounded), luma(clean)
    return Metrics(min(EQUAL, psnr(values, clean)), ssim(rounded, clean))


def to_8_bit(image: np.ndarray) -> np.ndarray:
    """float in [0, 1] to uint8, clamped and rounded."""
    return np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8)


def luma(image: np.ndarray) -> np.ndarray:
    """The luma that super-resolution is measured on: Y of BT.601 from 16 to 235, not rounded.

    Args:
        image: (H, W, 3) RGB, in [0, 255]; or gray (H, W, 1), which is its own luma.

    Returns:
        float32 (H, W); of gray the values themselves.

    Source: ITU-R BT.601 with the weights of MATLAB's rgb2ycbcr.
    """
    if image.shape[2] == 1:
        return image[..., 0].astype(np.float32)
    return (16 + image.astype(np.float64) @ (np.array([65.481, 128.553, 24.966]) / 255)).astype(np.float32)


def shaved(image: np.ndarray, border: int) -> np.ndarray:
    """An image (H, W, ...) without its outermost `border` pixels, where padding decides more than the method."""
    return image[border : image.shape[0] - border, border : image.shape[1] - border]


def psnr(image: np.ndarray, reference: np.ndarray) -> float:
    """Peak signal-to-noise ratio in dB over all values, peak 255.

    Args:
        image: uint8 (H, W) or (H, W, C).
        reference: uint8 of the same shape.

    Returns:
        10 log10(255² / mse); infinity for equal images.
    """
    mse = np.square(image.astype(np.float32) - reference.astype(np.float32)).mean(dtype=np.float64)
    return float("inf") if mse == 0 else float(10 * np.log10(255.0**2 / mse))


def psnr_in_float(image: "Tensor", reference: "Tensor") -> float:
    """PSNR in dB of images in [0, 1] where they are computed, in float32; at most 100.

    A training is followed by it: its values are in history.csv with eight digits, and the best of them chooses the
    weights, so that another precision would be another history.
    """
    return -10 * (image - reference).square().mean().clamp_min(1e-10).log10().item()


def ssim(image: np.ndarray, reference: np.ndarray) -> float:
    """Mean structural similarity, per channel, with the published Gaussian window of 11 x 11, sigma 1.5.

    Args:
        image: uint8 (H, W) or (H, W, C), at least 11 x 11 pixels.
        reference: uint8 of the same shape.

    Returns:
        The mean over the windows that are wholly inside the image and over the channels, 1 for equal images.

    Source: Wang et al., "Image quality assessment: from error visibility to structural similarity",
    IEEE TIP 2004, eq. 13 with K1 = 0.01, K2 = 0.03, L = 255.
    """
    import cv2

    def mean(x: np.ndarray) -> np.ndarray:
        border = SSIM_WINDOW // 2
        return cv2.GaussianBlur(x, (SSIM_WINDOW, SSIM_WINDOW), 1.5)[border:-border, border:-border]

    x, y = image.astype(np.float64), reference.astype(np.float64)
    mean_x, mean_y = mean(x), mean(y)
    var_x, var_y = mean(x * x) - mean_x**2, mean(y * y) - mean_y**2
    covariance = mean(x * y) - mean_x * mean_y
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    similarity = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    similarity /= (mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2)
    return float(similarity.mean())
