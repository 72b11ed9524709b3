"""Whether two images are a degraded and a clean one of the same scene: of one size, not shifted, and not swapped."""

import numpy as np

from relume.curation.quality import gray, image_noise, sharpness
from relume.errors import ImageError
from relume.images import to_uint8

# What is coarser than this is left out of the comparison: a shading or a haze is no shift. In pixels.
_COARSE = 4.0
# The two sides are swapped only where one is so many times noisier, or sharper, than the other: of 30 pairs of PolyU
# the clean side has at most 0.7 times the noise, of two of GoPro the blurred side at most 0.2 times the sharpness.
_BEYOND_DOUBT = 2.0
# Noise below this is rounding and JPEG, on 0 to 255.
_LEAST_NOISE = 0.2


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
    if kind == "noise":
        measure, (one, other) = "noise", (image_noise(clean), image_noise(degraded))
    elif kind == "blur":
        measure, (one, other) = "sharpness", (sharpness(gray(degraded)), sharpness(gray(clean)))
    else:
        return
    if one > _BEYOND_DOUBT * other and (kind != "noise" or one > _LEAST_NOISE):
        sides = ("clean", "degraded") if kind == "noise" else ("degraded", "clean")
        raise ImageError(
            "The images of the pair seem to be swapped",
            reason="swapped_pair",
            why=f"the {measure} of the {sides[0]} one is {one:.2f}, that of the {sides[1]} one {other:.2f}",
        )


def shift(first: np.ndarray, second: np.ndarray) -> tuple[float, float]:
    """How far the second of two images is to the right of the first, and below it, in pixels.

    By phase correlation of what is finer than a few pixels, which noise, blur and haze do not move.

    Args:
        first: (H, W) gray values.
        second: Of the same size.

    Source: Kuglin and Hines, 1975.
    """
    import cv2

    fine = [image - cv2.GaussianBlur(image, (0, 0), _COARSE) for image in (first, second)]
    window = cv2.createHanningWindow((first.shape[1], first.shape[0]), cv2.CV_32F)
    (across, down), _ = cv2.phaseCorrelate(fine[0], fine[1], window)
    return across, down
