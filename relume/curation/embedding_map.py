"""A map of photographs by what they look like."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from relume.curation.quality import shrink

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_CELLS = (12, 8)  # in a row and in a column


def embedding_map(vectors: np.ndarray, clusters: Sequence[int], thumbnails: Sequence[np.ndarray]) -> "Figure":
    """A figure of photographs by what they look like: the first two principal components of their vectors.

    Each has a point. Thumbnails are in the cells of a grid, each in one of its own, as near to their points as can be
    together, with a line to it.

    Args:
        vectors: (N, D) float32, of two photographs at least.
        clusters: The cluster of each, which colours its point and frame.
        thumbnails: Of the first of them, uint8, at most 96.
    """
    from matplotlib import colormaps
    from matplotlib.figure import Figure
    from matplotlib.offsetbox import AnnotationBbox, OffsetImage

    centred = vectors - vectors.mean(axis=0)
    _, _, directions = np.linalg.svd(centred, full_matrices=False)
    signs = np.sign(directions[np.arange(len(directions)), np.abs(directions).argmax(axis=1)])
    points = centred @ (directions[:2] * signs[:2, None]).T
    low, span = points.min(axis=0), np.maximum(np.ptp(points, axis=0), 1e-6)
    step = span / (np.array(_CELLS) - 1)  # the outermost points are in the middle of the outermost cells
    figure = Figure(figsize=(10, 7), layout="constrained")
    axes = figure.add_subplot()
    colours = [colormaps["tab20"](cluster % 20) for cluster in clusters]
    axes.scatter(points[:, 0], points[:, 1], c=colours, s=14)
    cells = low + _own_cells((points[: len(thumbnails)] - low) / step) * step
    for point, cell, colour, pixels in zip(points, cells, colours, thumbnails, strict=False):
        axes.plot([point[0], cell[0]], [point[1], cell[1]], color=colour, linewidth=1)
        frame = {"edgecolor": colour, "linewidth": 2}
        axes.add_artist(AnnotationBbox(OffsetImage(shrink(pixels, 46)), (cell[0], cell[1]), pad=0.1, bboxprops=frame))
    (left, bottom), (right, top) = low - step / 2, low + span + step / 2
    axes.set(xlabel="first principal component", ylabel="second", xlim=(left, right), ylim=(bottom, top))
    return figure


def _own_cells(points: np.ndarray) -> np.ndarray:
    """A cell for each of (N, 2) points in units of cells: those with the least sum of squared distances together."""
    from scipy.optimize import linear_sum_assignment
    from scipy.spatial.distance import cdist

    cells = np.stack(np.meshgrid(*map(np.arange, _CELLS)), axis=-1).reshape(-1, 2)
    return cells[linear_sum_assignment(cdist(points, cells, "sqeuclidean"))[1]]
