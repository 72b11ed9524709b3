"""Where two restorations of one image differ most: a measure of how hard it is that needs no clean image."""

from dataclasses import dataclass

import numpy as np

SIDE = 256
"""Of a tile, in pixels: what curation cuts patches from, and not much of what an image shows."""


@dataclass(frozen=True, kw_only=True)
class Disagreement:
    """The tile of an image in which two restorations differ most.

    Attributes:
        top: Its first row.
        left: Its first column.
        levels: Root mean square of the difference there, on 0 to 255.
    """

    top: int
    left: int
    levels: float


def largest_disagreement(one_HWC: np.ndarray, other_HWC: np.ndarray, *, side: int = SIDE) -> Disagreement | None:
    """Looks at the whole tiles of a grid.

    Args:
        one_HWC: A restoration, (H, W, 3) uint8.
        other_HWC: Another one of the same image.
        side: Of a tile.

    Returns:
        None for an image that has no whole tile.
    """
    rows, columns = (length // side for length in one_HWC.shape[:2])
    if not rows or not columns:
        return None
    squares = np.empty((rows, columns))
    for row, column in np.ndindex(rows, columns):  # a tile at a time, so that the difference takes no memory
        tile = np.s_[row * side : (row + 1) * side, column * side : (column + 1) * side]
        squares[row, column] = np.square(one_HWC[tile].astype(np.float32) - other_HWC[tile]).mean()
    row, column = divmod(int(squares.argmax()), columns)
    return Disagreement(top=row * side, left=column * side, levels=float(squares[row, column] ** 0.5))
