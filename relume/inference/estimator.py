"""The level of an image by a level estimator: what it sees, once for each image, wherever the image is restored.

Source: arXiv 2206.05970, whose estimator looks at one random crop of 128 x 128 pixels; here the mean over the centre
of the image is taken, so that a result repeats.
"""

from collections.abc import Callable

import numpy as np

from relume.inference.tiling import PEAKS

TILE = 128  # pixels; what `relume.models.level_estimator` takes
CENTRE = 512  # pixels of each axis that it sees at most: more would take longer than a tile and change little


def estimate_level(
    image_HWC: np.ndarray, estimate: Callable[[np.ndarray], np.ndarray], *, dtype: str = "float32", batch: int = 4
) -> float:
    """Estimates the level of an image from its centre.

    Args:
        image_HWC: (H, W, C) of any size from 1x1: uint8, uint16, or float32 in about [0, 1].
        estimate: Takes tiles (N, C, 128, 128) of `dtype` and gives a level for each, of shape (N,) or (N, 1).
        dtype: `uint8`, or `float32` in about [0, 1].
        batch: Tiles in one call at most.

    Returns:
        The mean over the tiles, neither clipped nor rounded.
    """
    rows, columns = (_seen(length) for length in image_HWC.shape[:2])
    seen = image_HWC[np.ix_(rows, columns)]
    if image_HWC.dtype.name != dtype:
        seen = seen / PEAKS[image_HWC.dtype.name]
        seen = np.rint(seen.clip(0, 1) * 255).astype(np.uint8) if dtype == "uint8" else seen
    tiles = seen.reshape(len(rows) // TILE, TILE, len(columns) // TILE, TILE, -1).transpose(0, 2, 4, 1, 3)
    tiles_NCHW = np.ascontiguousarray(tiles.reshape(-1, *tiles.shape[2:]))
    levels = [estimate(tiles_NCHW[first : first + batch]).ravel() for first in range(0, len(tiles_NCHW), batch)]
    return float(np.concatenate(levels).mean(dtype=np.float64))


def _seen(length: int) -> np.ndarray:
    """The pixels of an axis that are seen: as many whole tiles at the centre as there are, or the axis mirrored."""
    if length < TILE:
        index = np.arange(TILE) % (2 * length)  # as the network mirrors, with the last pixel twice
        return np.minimum(index, 2 * length - 1 - index)
    side = min(length, CENTRE) // TILE * TILE
    return np.arange(side) + (length - side) // 2
