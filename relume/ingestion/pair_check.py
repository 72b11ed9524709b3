"""Whether two images are a degraded and a clean one of the same scene: of one size, not shifted, and not swapped."""

import numpy as np

from relume.curation.quality import gray
from relume.errors import ImageError
from relume.images import to_uint8

# What is coarser than this is left out of the comparisons: a shading or a haze is no shift. In pixels.
_COARSE = 4.0
# What degrades an image either adds structure as fine as that, or takes it away.
_ADDS = {"noise": True, "rain": True, "blur": False, "haze": False}
# The two sides are swapped where `added_structure` has the wrong sign by more than this. Of 30 pairs of PolyU it is
# 0.17 to 1.78, of 3 of Rain100H 0.79 to 0.93, of 2 of GoPro -1.00 and -1.32.
_BEYOND_DOUBT = 0.1


def check_pair(degraded: np.ndarray, clean: np.ndarray, *, kind: str, max_shift: float | None) -> None:
    """Checks a pair before anything is trained on it.

    Args:
        degraded: (H, W, 3) RGB, uint8 or uint16.
        clean: As `degraded`.
        kind: What degrades the images, see `relume.ingestion.layouts`.
        max_shift: Largest accepted shift between both, in pixels; None for any.

    Raises:
        ImageError: Its reason is `unequal_pair`, `shifted_pair` or `swapped_pair`.
    """
    if degraded.shape != clean.shape:
        sizes = " and ".join(f"{image.shape[1]}x{image.shape[0]}" for image in (degraded, clean))
        raise ImageError("The images of the pair differ in size", reason="unequal_pair", why=f"they are {sizes}")
    degraded, clean = to_uint8(degraded), to_uint8(clean)
    across, down = shift(gray(degraded), gray(clean))
    if max_shift is not None and max(abs(across), abs(down)) > max_shift:
        raise ImageError(
            "The images of the pair are shifted",
            reason="shifted_pair",
            why=f"the clean one is {across:.1f} pixels to the right and {down:.1f} down of the degraded one, or shows"
            " something else",
        )
    if not kind:
        return
    added = added_structure(gray(degraded), gray(clean))
    if (added < -_BEYOND_DOUBT) if _ADDS[kind] else (added > _BEYOND_DOUBT):
        raise ImageError(
            "The images of the pair seem to be swapped",
            reason="swapped_pair",
            why=f"{kind} {'adds' if _ADDS[kind] else 'takes away'} fine structure, but the degraded image has"
            f" {'less' if _ADDS[kind] else 'more'} of it than the clean one",
        )


def added_structure(degraded: np.ndarray, clean: np.ndarray) -> float:
    """How much more variance the finest structure of the first of two images has, as a share of their difference's.

    It is 1 where something independent was added, such as noise or streaks; of a blur or a haze that leaves the share
    t of a structure it is -(1 + t) / (1 - t), so at most -1; and exchanging both changes its sign.

    Args:
        degraded: (H, W) gray values.
        clean: Of the same size.

    Returns:
        The share; 0 where both have the same fine structure.
    """
    first, second = _fine(degraded).astype(np.float64), _fine(clean).astype(np.float64)
    difference = float((first - second).var())
    return float(first.var() - second.var()) / difference if difference else 0.0


def shift(first: np.ndarray, second: np.ndarray) -> tuple[float, float]:
    """How far the second of two images is to the right of the first, and below it, in pixels.

    By phase correlation of what is finer than a few pixels, which noise, blur and haze do not move.

    Args:
        first: (H, W) gray values.
        second: Of the same size.

    Source: Kuglin and Hines, 1975.
    """
    import cv2

    fine = [_fine(image) for image in (first, second)]
    window = cv2.createHanningWindow((first.shape[1], first.shape[0]), cv2.CV_32F)
    (across, down), _ = cv2.phaseCorrelate(fine[0], fine[1], window)
    return across, down


def _fine(image: np.ndarray) -> np.ndarray:
    """What is finer than `_COARSE` pixels."""
    import cv2

    return image - cv2.GaussianBlur(image, (0, 0), _COARSE)
