"""What is measured of each request: numbers from which a change of images, model or machine can be seen.

They are measured on the centre of an image, so that their time is bounded, and hold nothing of what it shows.
"""

from dataclasses import dataclass, fields

import numpy as np

from relume.curation.quality import gray, noise_sigma, sharpness
from relume.images import to_uint8
from relume.inference.plan import Inference
from relume.inference.tiling import cover_axis

SIDE = 768
"""Of the centre that is measured, in pixels: more than a tile, so that borders of tiles are in it."""
_SMALLEST = 34  # pixels, below which no noise can be estimated
_BESIDE = 4  # pixels at each side of a seam that are compared


@dataclass(frozen=True, kw_only=True)
class Statistics:
    """Of one request. All but the share of clipped pixels are of the luma, on the scale of 0 to 255.

    Attributes:
        seconds: For a megapixel, decoding included.
        noise: Estimated standard deviation of the noise of the image that was sent.
        sharpness: Of that image: the variance of its Laplacian.
        clipped: Share of its pixels that are black or white in a channel.
        removed: Root mean square of what was taken away.
        seams: By how many levels that differs across the borders of tiles more than elsewhere; about 0 for an image
            without seams.
    """

    seconds: float
    noise: float
    sharpness: float
    clipped: float
    removed: float
    seams: float


NAMES = tuple(field.name for field in fields(Statistics))


def measure_request(
    before_HWC: np.ndarray, after_HWC: np.ndarray, inference: Inference, *, seconds: float
) -> Statistics | None:
    """Measures a request.

    Args:
        before_HWC: The image that was sent, (H, W, 3) uint8, uint16 or float32.
        after_HWC: Its restoration before anything was blended into it, of that shape, or larger by the plan's scale;
            then the mean of the pixels that one became is measured.
        inference: How it was restored.
        seconds: That the request took.

    Returns:
        None for an image that is too small for an estimate of its noise.
    """
    import cv2

    height, width = before_HWC.shape[:2]
    if min(height, width) < _SMALLEST:
        return None
    top, left = (max(0, length - SIDE) // 2 for length in (height, width))
    scale = inference.scale
    before = to_uint8(before_HWC[top : top + SIDE, left : left + SIDE])
    after = to_uint8(after_HWC[scale * top : scale * (top + SIDE), scale * left : scale * (left + SIDE)])
    if scale > 1:
        after = cv2.resize(after, before.shape[1::-1], interpolation=cv2.INTER_AREA)
    luma = gray(before)
    removed = gray(after) - luma
    across = _seam(removed, cover_axis(height, inference).starts, top, inference)
    along = _seam(removed.T, cover_axis(width, inference).starts, left, inference)
    return Statistics(
        seconds=seconds / (height * width / 1e6),
        noise=noise_sigma(luma),
        sharpness=sharpness(luma),
        clipped=1 - cv2.countNonZero(cv2.inRange(before, (1, 1, 1), (254, 254, 254))) / luma.size,
        removed=float(cv2.norm(removed)) / luma.size**0.5,
        seams=max(across, along),
    )


def _seam(removed: np.ndarray, starts: list[int], cut: int, inference: Inference) -> float:
    """By how many levels what was removed changes more across the borders of the first window's tiles than beside them.

    Args:
        removed: (L, W) levels.
        starts: First row of each tile, in the whole image.
        cut: First row of what is measured.
        inference: Where the blend of two tiles begins, and how wide it is.
    """
    overlap, step = inference.overlap, inference.overlap + 2 * _BESIDE

    def change(place: int) -> np.ndarray:
        before, after = removed[place - _BESIDE : place], removed[place + overlap : place + overlap + _BESIDE]
        return np.abs(after.mean(axis=0) - before.mean(axis=0))

    borders = [start + inference.halo - cut for start in starts[1:]]
    inside = [place for place in borders if step + _BESIDE <= place <= len(removed) - 2 * step]
    excess = [change(place) - (change(place - step) + change(place + step)) / 2 for place in inside]
    return float(np.mean(excess)) if excess else 0.0
