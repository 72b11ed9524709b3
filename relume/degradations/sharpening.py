"""Sharpening, which training applies to the clean image."""

import numpy as np

RADIUS, AMOUNT, THRESHOLD = 25, 0.5, 10  # pixels, share of the residual, 8-bit levels


def sharpen_usm(clean: np.ndarray) -> np.ndarray:
    """Unsharp masking where there is something to sharpen.

    What differs from its Gaussian blur (51 x 51, sigma 8) by more than 10 of 255 levels gains half of that
    difference; a blurred mask lets the rest be.

    Args:
        clean: float32 in [0, 1], (C, H, W).

    Returns:
        float32 of the same shape, in [0, 1].

    Source: Wang et al., Real-ESRGAN (arXiv 2107.10833), which sharpens the ground truth this way.
    """
    import cv2

    def blur(channel: np.ndarray) -> np.ndarray:
        return cv2.GaussianBlur(channel, (2 * RADIUS + 1, 2 * RADIUS + 1), 8.0)

    sharpened = []
    for channel in clean:
        residual = channel - blur(channel)
        mask = blur((np.abs(residual) * 255 > THRESHOLD).astype(np.float32))
        sharpened.append(mask * np.clip(channel + np.float32(AMOUNT) * residual, 0, 1) + (1 - mask) * channel)
    return np.stack(sharpened)
