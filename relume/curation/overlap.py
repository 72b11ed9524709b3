"""Test images that are among the photographs a model is trained on, found by hash and in the pixels.

A copy, a crop, a resized, rotated or mirrored version counts. Large photographs are searched in tiles as
well, because a small crop of one covers too little of it to be found in the whole.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from relume.curation.duplicates import Fingerprint, fingerprint, same_scene
from relume.files import sha256_file
from relume.images import read_image, to_uint8
from relume.parallel import map_in_order

# The keypoints are compared at 512 pixels: crops from a third of the photograph upwards are found in the whole,
# smaller ones in tiles of this side, in pixels, which overlap.
_TILE, _STRIDE = 1024, 768


@dataclass(frozen=True, kw_only=True)
class Overlap:
    """A test image that is among the training photographs.

    Attributes:
        training: The photograph.
        test: The test image.
        same_file: Whether the files are equal; otherwise the pixels show one scene.
    """

    training: Path
    test: Path
    same_file: bool


def find_overlaps(
    training: Sequence[Path], tests: Sequence[Path], *, progress: Callable[[int, int], None] = lambda done, total: None
) -> list[Overlap]:
    """Compares every training photograph with every test image.

    Args:
        training: Files of photographs.
        tests: Files of test images.
        progress: Is given how many photographs were compared, and of how many.

    Returns:
        The overlaps, by training photograph.

    Raises:
        ImageError: A file cannot be decoded.

    Takes about 20 ms for each megapixel of training and each test image, on two cores.
    """
    hashes = [sha256_file(test) for test in tests]
    prints = list(map_in_order(lambda test: fingerprint(_pixels(test)), tests))
    overlaps = []
    for done, photograph in enumerate(training, start=1):
        digest = sha256_file(photograph)
        views = list(map_in_order(fingerprint, _views(_pixels(photograph))))

        def shows(test: Fingerprint, views: Sequence[Fingerprint] = views) -> bool:
            return any(same_scene(view, test) for view in views)

        for test, hash_, same in zip(tests, hashes, map_in_order(shows, prints), strict=True):
            if same or hash_ == digest:
                overlaps.append(Overlap(training=photograph, test=test, same_file=hash_ == digest))
        progress(done, len(training))
    return overlaps


def _pixels(path: Path) -> np.ndarray:
    return to_uint8(read_image(path).pixels)


def _views(pixels: np.ndarray) -> Iterator[np.ndarray]:
    """The whole photograph and, of a large one, its tiles."""
    yield pixels
    height, width = pixels.shape[:2]
    if max(height, width) > _TILE:
        for top in range(0, max(height - _TILE + _STRIDE, 1), _STRIDE):
            for left in range(0, max(width - _TILE + _STRIDE, 1), _STRIDE):
                yield np.ascontiguousarray(pixels[top : top + _TILE, left : left + _TILE])
