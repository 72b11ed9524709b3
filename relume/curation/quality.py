"""How sharp, how noisy and how flat a photograph is; all on gray values from 0 to 255."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

# Blocks of this many pixels a side are compared to find the smooth parts of a photograph.
_NOISE_BLOCK = 32
# Longer sides are shrunk to this before the sharpness is measured: at its full size a good photograph of a camera has
# as little contrast between neighbouring pixels as a blurred small one.
SHARPNESS_SIDE = 1024
# The share of the smoothest blocks that the noise is read from; the others hold texture as well.
_SMOOTH_QUANTILE = 0.1
_FLAT_BLOCK = 8
# A block counts as flat when its standard deviation is below this: about the noise of a good 8-bit photograph.
_FLAT_SIGMA = 3.0
# Pixels that are filtered at once: their float images stay in a core's cache, which takes half of the time.
_BAND = 1 << 17


@dataclass(frozen=True, kw_only=True, slots=True)
class Quality:
    """Figures of one photograph or patch.

    Attributes:
        sharpness: Variance of the Laplacian, at a size of at most 1024 pixels a side; low for blur, high for detail
            and for noise.
        noise_sigma: Estimated standard deviation of the noise.
        flat_fraction: Share of the area without any structure, 0 to 1.
    """

    sharpness: float
    noise_sigma: float
    flat_fraction: float


def gray_levels(pixels: np.ndarray) -> np.ndarray:
    """Luma of RGB uint8 pixels as uint8: (H, W, 3) to (H, W), 0 to 255. Source: ITU-R BT.601."""
    import cv2

    return cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)


def gray(pixels: np.ndarray) -> np.ndarray:
    """`gray_levels` as float32: (H, W, 3) to (H, W), 0 to 255."""
    return gray_levels(pixels).astype(np.float32)


def quality(pixels: np.ndarray) -> Quality:
    """Measures a photograph.

    Args:
        pixels: (H, W, 3) RGB uint8; each side at least 32 pixels.
    """
    luma, normalised = gray_levels(pixels), gray_levels(shrink(pixels, SHARPNESS_SIDE))
    return Quality(sharpness=sharpness(normalised), noise_sigma=noise_sigma(luma), flat_fraction=flat_fraction(luma))


def shrink(pixels: np.ndarray, max_side: int) -> np.ndarray:
    """Averages areas until the longer side is `max_side`, which removes a photograph's own noise as well.

    Args:
        pixels: uint8 (H, W, 3), or (H, W).
        max_side: In pixels; smaller photographs stay as they are.

    Returns:
        uint8 (H', W', 3), or (H', W').
    """
    import cv2

    height, width = pixels.shape[:2]
    factor = max_side / max(height, width)
    if factor >= 1:
        return pixels
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    return cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)


def sharpness(luma: np.ndarray) -> float:
    """Variance of the Laplacian of (H, W) gray values, uint8 or float32. Source: Pech-Pacheco et al., ICPR 2000."""
    import cv2

    return float(cv2.Laplacian(luma, cv2.CV_32F).var(dtype=np.float64))


def noise_sigma(luma: np.ndarray) -> float:
    """Estimates the noise of (H, W) gray values, uint8 or float32, from the smoothest parts that are not clipped.

    Immerkær's operator, which is blind to planes and edges, is averaged over blocks; the estimate is
    a low quantile over the blocks, because texture adds to the others.

    Returns:
        Standard deviation; 0 if all of the photograph is clipped to black or white.

    Source: Immerkær, Fast Noise Variance Estimation, CVIU 1996.
    """
    import cv2

    second = np.array([1, -2, 1], np.float32)  # his kernel is its outer product with itself
    found = []
    for band in _bands(luma[1:-1], _NOISE_BLOCK):
        part = luma[band.start : band.stop + 2].astype(np.float32)  # with the row before and the row after
        response = cv2.sepFilter2D(part, cv2.CV_32F, second, second)
        np.abs(response, out=response)
        means, sigmas = (_block_means(values[1:-1, 1:-1], _NOISE_BLOCK) for values in (part, response))
        found.append(sigmas[(means > 8) & (means < 247)])
    sigmas = math.sqrt(math.pi / 2) / 6 * np.concatenate(found)
    return float(np.quantile(sigmas, _SMOOTH_QUANTILE)) if sigmas.size else 0.0


def image_noise(pixels: np.ndarray) -> float:
    """Estimates the noise of an image: the mean of `noise_sigma` over its channels.

    Args:
        pixels: (H, W, 3) uint8; of one smaller than 34 pixels a side it is 0.
    """
    return float(np.mean([noise_sigma(pixels[..., channel]) for channel in range(3)]))


def flat_fraction(luma: np.ndarray) -> float:
    """Share of the 8x8 blocks of (H, W) gray values, uint8 or float32, whose standard deviation is below 3."""
    flat = []
    for band in _bands(luma, _FLAT_BLOCK):
        part = luma[band].astype(np.float32)
        # The mean of squares less the square of the mean: of whole gray values both sums are exact in float32.
        mean, mean_square = (_block_means(values, _FLAT_BLOCK).astype(np.float64) for values in (part, part * part))
        flat.append(mean_square - mean * mean < _FLAT_SIGMA**2)
    return float(np.concatenate(flat).mean())


def _bands(values: np.ndarray, side: int) -> Iterator[slice]:
    """Slices of the rows of (H, W) that hold whole blocks and about _BAND pixels; at least one, maybe too low."""
    height, width = values.shape
    rows = side * max(1, _BAND // (side * max(1, width)))
    for top in range(0, max(1, height // side * side), rows):
        yield slice(top, min(top + rows, max(side, height // side * side)))


def _block_means(values: np.ndarray, side: int) -> np.ndarray:
    """The mean of each whole block of (H, W) values: (H // side, W // side). Borders are left out."""
    import cv2

    rows, columns = values.shape[0] // side, values.shape[1] // side
    if not rows or not columns:
        return np.empty((rows, columns), values.dtype)
    return cv2.resize(values[: rows * side, : columns * side], (columns, rows), interpolation=cv2.INTER_AREA)
