"""Lossy compression."""

import io
from typing import Literal

import numpy as np

Subsampling = Literal["4:2:0", "4:2:2", "4:4:4"]


def compress_jpeg(
    clean: np.ndarray, quality: int, *, subsampling: Subsampling = "4:2:0", shift: tuple[int, int] = (0, 0)
) -> np.ndarray:
    """What is left of an image after it was saved as JPEG.

    Args:
        clean: float32, (3, H, W) RGB or (1, H, W) gray; clipped to [0, 1] and rounded to 8 bits first.
        quality: libjpeg's, 1 to 100.
        subsampling: Of the colour; most programs store it at half resolution (4:2:0), cameras often at 4:2:2.
        shift: Rows and columns by which the image is off the grid of 8 x 8 blocks, as a crop of a photograph does.

    Returns:
        float32 of the same shape, multiples of 1/255.
    """
    from PIL import Image

    top, left = shift
    pixels = np.rint(np.clip(clean, 0, 1) * 255).astype(np.uint8)
    if shift != (0, 0):
        pixels = np.pad(pixels, ((0, 0), (top, 0), (left, 0)), mode="edge")
    image = Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality, subsampling=subsampling)
    decoded = np.asarray(Image.open(buffer))[top:, left:]
    restored = np.empty(clean.shape, dtype=np.float32)
    restored[...] = decoded if decoded.ndim == 2 else decoded.transpose(2, 0, 1)
    restored /= np.float32(255)
    return restored
