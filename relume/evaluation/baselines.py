"""Denoisers without a network, which every network should beat; they are told the noise level."""

import numpy as np

from relume.errors import ConfigError
from relume.metrics import to_8_bit


def non_local_means(noisy: np.ndarray, sigma: float) -> np.ndarray:
    """OpenCV's non-local means at its best strength for a noise level, uint8 (H, W, 3) to the same.

    Args:
        noisy: 8-bit photograph.
        sigma: The true noise level, which this baseline is told, unlike networks that take no level.

    Source: Buades et al., CVPR 2005. OpenCV's `h` was searched over 0.3 to 1.2 times sigma on photographs of
    the BSDS train split: 0.65 is best at 25 and 50 and within 0.02 dB of the best at 15.
    """
    import cv2

    strength = 0.65 * sigma
    return cv2.fastNlMeansDenoisingColored(np.ascontiguousarray(noisy), None, strength, strength, 7, 21)


def block_matching(noisy: np.ndarray, sigma: float) -> np.ndarray:
    """BM3D, uint8 (H, W, 3) to the same; about 200 s a megapixel.

    Args:
        noisy: 8-bit photograph.
        sigma: The true noise level, [0, 255] scale, which this baseline is told.

    Raises:
        ConfigError: The package is not installed: its licence is for non-commercial use only, so it is an extra.

    Source: Dabov et al., IEEE TIP 2007, in its authors' package.
    """
    try:
        import bm3d
    except ImportError:
        raise ConfigError(
            "BM3D is not installed",
            next_step="pip install -c constraints.txt '.[bm3d]', or leave it out (evaluate.bm3d in params.yaml)",
        ) from None
    return to_8_bit(bm3d.bm3d_rgb(noisy.astype(np.float64) / 255, sigma / 255))
