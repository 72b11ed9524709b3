"""The masks of a network with masks over several passes: each tile of each pass has others, the same wherever it runs.

Source: Chen et al., arXiv 2303.13132, whose authors gain 0.3 dB by the mean of several passes with other masks.
"""

import hashlib
import struct
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

SEEDS = 2**24
"""Seeds are whole numbers below this, which float32 holds exactly."""


def mask_seeds(number: int, corners: Sequence[tuple[int, int]]) -> np.ndarray:
    """What the masks of tiles are drawn from: a hash of the pass and of the tile's place.

    Args:
        number: Of the pass, from 0.
        corners: First row and column of each tile in its image.

    Returns:
        float32 (N,), whole numbers below `SEEDS`. The network's own seed is added to them.
    """
    hashes = (hashlib.sha256(struct.pack("<3q", number, *corner)).digest() for corner in corners)
    return np.array([int.from_bytes(each[:8], "little") % SEEDS for each in hashes], np.float32)


def mean_of_passes(
    restore: Callable[..., np.ndarray], passes: int, corners: Sequence[tuple[int, int]]
) -> Callable[[np.ndarray], np.ndarray]:
    """The mean of what `restore` gives in several passes.

    Args:
        restore: (N, C, T, T) to the restored tiles; with the keyword `seeds` where there are several passes.
        passes: How many.
        corners: As of `mask_seeds`.

    Returns:
        `restore` itself for one pass.
    """
    if passes == 1:
        return restore

    def mean(tiles_NCHW: np.ndarray) -> np.ndarray:
        runs = (partial(restore, seeds=mask_seeds(number, corners)) for number in range(passes))
        return np.asarray(np.mean([run(tiles_NCHW) for run in runs], axis=0, dtype=np.float32))

    return mean
