"""Denoisers without a network, which every network should beat; they are given a noise level."""

from types import ModuleType

import numpy as np

from relume.errors import ConfigError
from relume.metrics import to_8_bit


def gaussian_blur(noisy: np.ndarray, sigma: float) -> np.ndarray:
    """A Gaussian blur at its best width for a noise level, 8-bit to the same shape: what any denoiser must beat.

    Args:
        noisy: uint8 (H, W, C).
        sigma: The noise level, [0, 255] scale, which this baseline is given; at 0 nothing is changed.

    Source: the width was searched over 0.4 to 2.3 pixels on twelve photographs of `relume data fetch`, 384 x 384
    pixels each: 0.21 times the root of sigma is within 0.06 dB of each level's own best from 10 to 50.
    """
    import cv2

    if sigma == 0:
        return noisy.copy()
    return cv2.GaussianBlur(noisy, (0, 0), 0.21 * sigma**0.5).reshape(noisy.shape)


def non_local_means(noisy: np.ndarray, sigma: float) -> np.ndarray:
    """OpenCV's non-local means at its best strength for a noise level, 8-bit to the same shape.

    Args:
        noisy: uint8 (H, W, 3) RGB or (H, W, 1) gray, each with OpenCV's function for it.
        sigma: The noise level, [0, 255] scale, which this baseline is given, unlike networks that take no level.

    Source: Buades et al., CVPR 2005. OpenCV's `h` was searched over 0.3 to 1.2 times sigma on photographs of
    the BSDS train split: 0.65 is best at 25 and 50 and within 0.02 dB of the best at 15. For gray it was searched over
    0.5 to 1.2 on ten of these as gray and on seven of skimage.data: of one factor for all levels 0.9 is best, which
    is within 0.1 dB of each level's own best but on those of BSDS at 50, where 0.8 gains 0.4 dB.
    """
    import cv2

    if noisy.shape[2] == 1:
        return cv2.fastNlMeansDenoising(np.ascontiguousarray(noisy), None, 0.9 * sigma, 7, 21)[..., np.newaxis]
    strength = 0.65 * sigma
    return cv2.fastNlMeansDenoisingColored(np.ascontiguousarray(noisy), None, strength, strength, 7, 21)


def import_bm3d() -> ModuleType:
    """The package of BM3D's authors.

    Raises:
        ConfigError: It is not installed: its licence is for non-commercial use only, so it is an extra.
    """
    try:
        import bm3d
    except ImportError:
        raise ConfigError(
            "BM3D is not installed",
            next_step="run pip install -c constraints.txt '.[bm3d]', or set evaluate.bm3d to false in params.yaml",
        ) from None
    return bm3d


def block_matching(noisy: np.ndarray, sigma: float) -> np.ndarray:
    """BM3D, 8-bit to the same shape; about 200 s a megapixel.

    Args:
        noisy: uint8 (H, W, 3) RGB, or (H, W, 1) gray: three equal channels would be divided by their colour, 0.
        sigma: The noise level, [0, 255] scale, which this baseline is given.

    Raises:
        ConfigError: The package is not installed; see `import_bm3d`.

    Source: Dabov et al., IEEE TIP 2007, in its authors' package.
    """
    bm3d = import_bm3d()
    image = noisy.astype(np.float64) / 255
    if noisy.shape[2] == 1:
        return to_8_bit(bm3d.bm3d(image[..., 0], sigma / 255))[..., np.newaxis]
    return to_8_bit(bm3d.bm3d_rgb(image, sigma / 255))
