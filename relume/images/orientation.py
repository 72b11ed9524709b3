"""The orientation in which a file stores its image. Source: EXIF 2.3, tag 274."""

import numpy as np


def as_stored(upright: np.ndarray, orientation: int) -> np.ndarray:
    """A view of an upright image (H, W, ...), rotated to the orientation in which its file stores it."""
    down, right = _steps(orientation)
    stored = upright[::down, ::right]
    return stored.swapaxes(0, 1) if orientation > 4 else stored


def as_seen(stored: np.ndarray, orientation: int) -> np.ndarray:
    """The inverse of `as_stored`: an upright view of an image (H, W, ...) as its file stores it."""
    down, right = _steps(orientation)
    turned = stored.swapaxes(0, 1) if orientation > 4 else stored
    return turned[::down, ::right]


def _steps(orientation: int) -> tuple[int, int]:
    return -1 if orientation in (3, 4, 7, 8) else 1, -1 if orientation in (2, 3, 6, 7) else 1
