"""The channels of an image: what a model restores, three colours, and what is kept beside them."""

import numpy as np


def split(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """RGB (H, W, 3) and alpha (H, W), or None, of (H, W, C): gray, gray and alpha, RGB, or RGB and alpha."""
    colours = pixels.shape[2] - (pixels.shape[2] in (2, 4))
    rgb = np.broadcast_to(pixels[..., :colours], (*pixels.shape[:2], 3))
    return np.ascontiguousarray(rgb), np.ascontiguousarray(pixels[..., -1]) if pixels.shape[2] > colours else None


def joined(rgb: np.ndarray, *, gray: bool, alpha: np.ndarray | None) -> np.ndarray:
    """The inverse of `split`; of gray images the mean of the three colours, rounded for integers.

    The alpha of an image that a model enlarged is enlarged to its size.
    """
    if gray:
        mean = rgb.mean(axis=2, keepdims=True)
        rgb = mean if rgb.dtype.kind == "f" else np.rint(mean).astype(rgb.dtype)
    return rgb if alpha is None else np.dstack([rgb, enlarged(alpha, *rgb.shape[:2])])


def enlarged(values: np.ndarray, height: int, width: int) -> np.ndarray:
    """An image, (H, W, ...), in the size of what a model made of it, by bicubic interpolation where that is another."""
    if values.shape[:2] == (height, width):
        return values
    import cv2

    return cv2.resize(values, (width, height), interpolation=cv2.INTER_CUBIC)
