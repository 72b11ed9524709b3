"""The self-ensemble: the mean over orientations of an image, all eight or a subgroup of them.

Source: Timofte et al., "Seven Ways to Improve Example-Based Single Image Super Resolution", CVPR 2016; used by nearly
every team of the NTIRE 2025 denoising challenge (arXiv 2504.12276).
"""

from collections.abc import Callable

import numpy as np


def orientations(count: int) -> list[tuple[int, bool]]:
    """Turns and whether they are mirrored: of 8 all, of 4 the flips, of 2 the mirror image, of 1 none.

    Args:
        count: 1, 2, 4 or 8; each is a group, so that a result turns with its image.
    """
    return [(turns, mirrored) for turns in range(0, 4, 8 // count) for mirrored in (False, True)][:count]


def orient(image: np.ndarray, turns: int, mirrored: bool) -> np.ndarray:
    """Turns (..., H, W) counter-clockwise by `turns` right angles, then mirrors it left to right."""
    turned = np.rot90(image, turns, (-2, -1))
    return turned[..., ::-1] if mirrored else turned


def orient_back(image: np.ndarray, turns: int, mirrored: bool) -> np.ndarray:
    """The exact inverse of `orient`: mirrors first, then turns clockwise."""
    return np.rot90(image[..., ::-1] if mirrored else image, -turns, (-2, -1))


def self_ensemble(restore: Callable[[np.ndarray], np.ndarray], count: int) -> Callable[[np.ndarray], np.ndarray]:
    """The mean of what `restore` gives in `count` orientations, each turned back.

    Args:
        restore: (N, C, H, W), contiguous, to the same shape.
        count: As of `orientations`.

    Returns:
        `restore` itself when `count` is 1. The mean is taken in float32, before it is clipped or rounded, and in pairs,
        so that equal results give exactly that result.
    """
    if count == 1:
        return restore

    def mean(image: np.ndarray) -> np.ndarray:
        results = [
            orient_back(restore(np.ascontiguousarray(orient(image, *orientation))), *orientation).astype(np.float32)
            for orientation in orientations(count)
        ]
        while len(results) > 1:
            results = [first + second for first, second in zip(results[::2], results[1::2], strict=True)]
        return results[0] / np.float32(count)

    return mean
