"""Denoisers without a network, which every network should beat; they are given a noise level."""

from collections.abc import Callable, Iterable
from types import ModuleType

import numpy as np

from relume.errors import ConfigError
from relume.metrics import psnr, to_8_bit

# Of filters on real noise: non-local means' h, and the blur's standard deviation in pixels.
NLM_STRENGTHS = (2, 3, 4, 5, 6, 7)
BLUR_WIDTHS = (0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.2)
_SEARCHED = 512


def gaussian_blur(noisy: np.ndarray, sigma: float) -> np.ndarray:
    """A Gaussian blur at its best width for a noise level, 8-bit to the same shape: what any denoiser must beat.

    Args:
        noisy: uint8 (H, W, C).
        sigma: The noise level, [0, 255] scale, which this baseline is given; at 0 nothing is changed.

    Source: the width was searched over 0.4 to 2.3 pixels on twelve photographs of `relume data fetch`, 384 x 384
    pixels each: 0.21 times the root of sigma is within 0.06 dB of each level's own best from 10 to 50.
    """
    return noisy.copy() if sigma == 0 else _blur(0.21 * sigma**0.5)(noisy)


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
    return _nlm(0.65 * sigma)(noisy)


def filters() -> dict[str, dict[float, Callable[[np.ndarray], np.ndarray]]]:
    """The filters `blur` and `nlm` by their settings, each uint8 (H, W, 3) to the same shape."""
    return {"blur": {w: _blur(w) for w in BLUR_WIDTHS}, "nlm": {h: _nlm(h) for h in NLM_STRENGTHS}}


def best_filters(pairs: Iterable[tuple[np.ndarray, np.ndarray]]) -> dict[str, float]:
    """The one setting of each filter that has the best mean PSNR over real pairs.

    Noise of a camera is correlated, so an estimate made for white noise is too low for it and would let the filters do
    nothing. They get the setting that is best on the very pairs that are measured, which nothing else gets.

    Args:
        pairs: Noisy and clean image, uint8 (H, W, 3) each; their centres of at most 512 pixels are searched.

    Returns:
        By name of `filters`; empty when there is no pair.
    """
    found: dict[str, dict[float, list[float]]] = {}
    for pair in pairs:
        noisy, clean = (_centre(image) for image in pair)
        for name, settings in filters().items():
            for setting, restore in settings.items():
                found.setdefault(name, {}).setdefault(setting, []).append(psnr(restore(noisy), clean))
    return {name: max(settings, key=lambda each: np.mean(settings[each])) for name, settings in found.items()}


def _centre(image: np.ndarray) -> np.ndarray:
    top, left = (max(0, side - _SEARCHED) // 2 for side in image.shape[:2])
    return image[top : top + _SEARCHED, left : left + _SEARCHED]


def _blur(width: float) -> Callable[[np.ndarray], np.ndarray]:
    import cv2

    return lambda image: cv2.GaussianBlur(image, (0, 0), width).reshape(image.shape)


def _nlm(h: float) -> Callable[[np.ndarray], np.ndarray]:
    import cv2

    return lambda image: cv2.fastNlMeansDenoisingColored(np.ascontiguousarray(image), None, h, h, 7, 21)


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
