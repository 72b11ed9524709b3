"""Lossy compression."""

import io

import numpy as np


def compress_jpeg(clean: np.ndarray, quality: int) -> np.ndarray:
    """What is left of an image after it was saved as JPEG.

    Args:
        clean: float32, (3, H, W) RGB or (1, H, W) gray; clipped to [0, 1] and rounded to 8 bits first.
        quality: libjpeg's, 1 to 100. Colour is stored at half resolution (4:2:0), as most programs do.

    Returns:
        float32 of the same shape, whole 8-bit levels.
    """
    from PIL import Image

    pixels = np.rint(np.clip(clean, 0, 1) * 255).astype(np.uint8)
    picture = Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0))
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=quality, subsampling="4:2:0")
    decoded = np.asarray(Image.open(buffer))
    restored = np.empty(clean.shape, dtype=np.float32)
    restored[...] = decoded if decoded.ndim == 2 else decoded.transpose(2, 0, 1)
    restored /= np.float32(255)
    return restored
