"""Bicubic resampling as MATLAB's imresize does it, by which super-resolution is measured in the literature."""

import math
from functools import lru_cache

import numpy as np


def downscale_bicubic(clean: np.ndarray, factor: float) -> np.ndarray:
    """Shrinks with a bicubic kernel widened by the factor, so that nothing aliases.

    Args:
        clean: float32 in [0, 1], (C, H, W).
        factor: 1 or more; whole or not.

    Returns:
        float32 (C, ceil(H / factor), ceil(W / factor)), slightly beyond [0, 1] at sharp edges.

    Source: Keys, "Cubic convolution interpolation for digital image processing", IEEE TASSP 1981, a = -1/2;
    the widening, the sizes and the mirrored border are those of MATLAB's imresize.
    """
    return _resize(clean, 1 / factor)


def upscale_bicubic(image: np.ndarray, factor: float) -> np.ndarray:
    """Enlarges with the bicubic kernel.

    Args:
        image: float32 in [0, 1], (C, H, W).
        factor: 1 or more; whole or not.

    Returns:
        float32 (C, ceil(H · factor), ceil(W · factor)), slightly beyond [0, 1] at sharp edges.

    Source: as `downscale_bicubic`.
    """
    return _resize(image, factor)


def _resize(image: np.ndarray, scale: float) -> np.ndarray:
    for axis in (1, 2):
        index, weight = _taps(image.shape[axis], scale)
        shape = (1, -1, 1) if axis == 1 else (1, 1, -1)
        image = sum(image.take(i, axis=axis) * w.reshape(shape) for i, w in zip(index, weight, strict=True))
    return np.ascontiguousarray(image)


@lru_cache(maxsize=64)
def _taps(size: int, scale: float) -> tuple[np.ndarray, np.ndarray]:
    """Which inputs each output is made of, and their weights: two arrays (taps, ceil(size · scale))."""
    widening = max(1.0, 1 / scale)
    output = np.arange(math.ceil(size * scale - 1e-9))  # 64 · (1 / 3) · 3 is a little above 64
    centre = (output + 0.5) / scale - 0.5
    taps = math.ceil(4 * widening) + 2
    index = np.floor(centre - 2 * widening).astype(int) + np.arange(taps)[:, None]
    weight = _keys((index - centre) / widening)
    weight /= weight.sum(axis=0)
    mirrored = np.concatenate([np.arange(size), np.arange(size)[::-1]])  # the border pixel is repeated
    return mirrored[index % (2 * size)], weight.astype(np.float32)


def _keys(x: np.ndarray) -> np.ndarray:
    x = np.abs(x)
    near = (1.5 * x - 2.5) * x**2 + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return np.where(x <= 1, near, np.where(x < 2, far, 0.0))
