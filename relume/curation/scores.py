"""Further figures of a photograph, by which the best can be kept; see `relume.curation.quality` for the first three.

Figures that depend on the size are measured at the normalised scale, at most 1024 pixels a side, so that photographs of
different cameras compare; those that end in `_native`, and those of defects of single pixels, at the photograph's own.
"""

from dataclasses import dataclass

import numpy as np

from relume.curation.naturalness import brisque, niqe
from relume.curation.quality import SHARPNESS_SIDE, gray, sharpness, shrink

_BLUR_WINDOW = 11  # pixels over which the photograph is blurred once more
# What is read of a photograph to find its JPEG quality, in pixels: 2304 blocks.
_JPEG_SIDE = 384
_JPEG_QUALITIES = np.arange(5, 97)
# The share of quantised coefficients that fall on multiples, below which no trace of JPEG is seen: 0.6 and more up to a
# quality of 90, below 0.1 from 95 on, and below 0.05 for photographs that never were a JPEG.
_JPEG_TRACE = 0.3
_COSINES = (
    np.cos((2 * np.arange(8) + 1) * np.arange(8)[:, None] * np.pi / 16)
    * np.where(np.arange(8), 0.5, 0.125**0.5)[:, None]
)
# The low frequencies, which hold coefficients other than 0 in every photograph.
_FREQUENCIES = [(down, across) for down in range(4) for across in range(4) if 0 < down + across <= 3]
# The luminance table of ITU-R T.81, table K.1, for those frequencies.
_QUANTISATION = np.array([[16, 11, 10, 16], [12, 12, 14, 19], [14, 13, 16, 24], [14, 17, 22, 29]])


@dataclass(frozen=True, kw_only=True, slots=True)
class Scores:
    """Figures of one photograph.

    Attributes:
        niqe: Distance from undistorted photographs, normalised scale; lower is better.
        brisque: Expected opinion, normalised scale; 0 is perfect, 100 bad.
        sharpness_native: Variance of the Laplacian at the native scale.
        niqe_native: NIQE at the native scale.
        brisque_native: BRISQUE at the native scale.
        blur: How little another blur changes, 0 (sharp) to 1, normalised scale.
        clipped: Share of the values that are 0 or 255, native.
        blockiness: Mean step between neighbours across the grid of 8x8 blocks over that elsewhere, native; 1 for none.
        jpeg_quality: Quality of JPEG that its pixels show, 5 to 96, native; 100 when there is no trace, as from 95 on.
        entropy: Of the gray values, 0 to 8 bits, native.
    """

    niqe: float
    brisque: float
    sharpness_native: float
    niqe_native: float
    brisque_native: float
    blur: float
    clipped: float
    blockiness: float
    jpeg_quality: float
    entropy: float


def scores(pixels: np.ndarray) -> Scores:
    """Measures a photograph, (H, W, 3) RGB uint8, in about 0.3 s for 2 megapixels on one core."""
    luma, normalised = gray(pixels), gray(shrink(pixels, SHARPNESS_SIDE))
    return Scores(
        niqe=niqe(normalised),
        brisque=brisque(normalised),
        sharpness_native=sharpness(luma),
        niqe_native=niqe(luma),
        brisque_native=brisque(luma),
        blur=blur(normalised),
        clipped=float(np.count_nonzero((pixels == 0) | (pixels == 255)) / pixels.size),
        blockiness=blockiness(luma),
        jpeg_quality=jpeg_quality(luma),
        entropy=entropy(luma),
    )


def blur(luma: np.ndarray) -> float:
    """How much of the edges of (H, W) gray values is left when they are blurred once more, 0 (none) to 1.

    Source: Crété-Roffet et al., "The blur effect", SPIE 6492, 2007; with the edges of Sobel, as scikit-image has it.
    """
    import cv2

    left = []
    for across in (0, 1):
        window = (_BLUR_WINDOW, 1) if across else (1, _BLUR_WINDOW)
        blurred = cv2.blur(luma, window, borderType=cv2.BORDER_REFLECT)
        edges, softer = (np.abs(cv2.Sobel(values, cv2.CV_32F, across, 1 - across)) for values in (luma, blurred))
        total = float(edges.sum(dtype=np.float64))
        left.append(1 - float(np.maximum(edges - softer, 0).sum(dtype=np.float64)) / total if total else 1.0)
    return max(left)


def blockiness(luma: np.ndarray) -> float:
    """The mean difference of neighbours across the lines of a grid of 8 pixels over that elsewhere, (H, W) gray values.

    The grid may begin anywhere, so that crops of JPEG files are seen as well.

    Source: in the manner of Wang, Bovik and Evans, "Blind measurement of blocking artifacts in images", ICIP 2000.
    """
    ratios = []
    for axis in (0, 1):
        steps = np.abs(np.diff(luma, axis=axis)).mean(axis=1 - axis, dtype=np.float64)
        phases = steps[: len(steps) // 8 * 8].reshape(-1, 8).mean(axis=0)
        ratios.append((phases.max() / np.median(phases)) if np.median(phases) else 1.0)
    return float(np.mean(ratios))


def entropy(luma: np.ndarray) -> float:
    """Shannon's entropy of the histogram of (H, W) gray values, whole numbers of 0 to 255, in bits."""
    shares = np.bincount(luma.astype(np.uint8).ravel(), minlength=256) / luma.size
    return float(-(shares[shares > 0] * np.log2(shares[shares > 0])).sum())


def jpeg_quality(luma: np.ndarray) -> float:
    """Finds the quality of the JPEG that gray values come from, when its grid begins at their first pixel.

    The coefficients of an 8x8 block that went through JPEG are multiples of their quantisation step. The quality whose
    steps the low frequencies fit best is given, in the tables of the Independent JPEG Group.

    Args:
        luma: (H, W) gray values, 0 to 255; the centre is read.

    Returns:
        5 to 96; 100 when there is no trace.

    Source: in the manner of Fan and de Queiroz, "Identification of bitmap compression history", IEEE TIP 2003.
    """
    top, left = (max(0, side - _JPEG_SIDE) // 16 * 8 for side in luma.shape)
    part = luma[top : top + _JPEG_SIDE, left : left + _JPEG_SIDE] - np.float32(128)
    rows, columns = part.shape[0] // 8, part.shape[1] // 8
    blocks = part[: rows * 8, : columns * 8].reshape(rows, 8, columns, 8).transpose(0, 2, 1, 3)
    coefficients = _COSINES @ blocks @ _COSINES.T
    fit, count = np.zeros(len(_JPEG_QUALITIES)), np.zeros(len(_JPEG_QUALITIES))
    factor = np.where(_JPEG_QUALITIES < 50, 5000 // _JPEG_QUALITIES, 200 - 2 * _JPEG_QUALITIES)
    for down, across in _FREQUENCIES:
        values = coefficients[:, :, down, across].ravel()
        of_quality = np.clip((_QUANTISATION[down, across] * factor + 50) // 100, 1, 255)
        steps, position = np.unique(of_quality, return_inverse=True)
        quantised = [values[np.abs(values) > step / 2] for step in steps]
        # All numbers are multiples of 1.
        fits = [np.cos(2 * np.pi * v / s).sum() if s > 1 else 0.0 for v, s in zip(quantised, steps, strict=True)]
        fit += np.array(fits)[position]
        count += np.array([len(values) for values in quantised])[position]
    share = fit / np.maximum(count, 1)
    return float(_JPEG_QUALITIES[share.argmax()]) if share.max() > _JPEG_TRACE else 100.0
