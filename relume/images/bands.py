"""Whole rows of an image at a time, so that converting it takes the memory of a band and not of the image."""

from collections.abc import Iterator

import numpy as np

_PIXELS = 2**20


def bands(image: np.ndarray) -> Iterator[slice]:
    """Slices of the rows of (H, W, ...) that together are all of them, of about a megapixel each."""
    height, width = image.shape[:2]
    rows = max(1, _PIXELS // width)
    for top in range(0, height, rows):
        yield slice(top, min(top + rows, height))
