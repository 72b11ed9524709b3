"""Photographs grouped and chosen by what they look like, so that no kind of photograph outweighs the others."""

import numpy as np

_SIDE = 128
_CELLS = 4
_ORIENTATIONS = 8


def descriptor(pixels: np.ndarray) -> np.ndarray:
    """Describes the layout of structure and colour of a photograph, (H, W, 3) RGB uint8.

    Returns:
        152 float32 values: square roots of an orientation histogram of the gradients over 4x4 cells, of
        length 1 together, and mean and spread of the CIELAB channels over 2x2 cells, scaled to about
        the same length.

    Source: in the manner of Oliva and Torralba (GIST), IJCV 2001, with gradients for Gabor filters.
    """
    import cv2

    small = cv2.resize(pixels, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA)
    luma = cv2.cvtColor(small, cv2.COLOR_RGB2GRAY).astype(np.float32)
    across, down = cv2.Sobel(luma, cv2.CV_32F, 1, 0), cv2.Sobel(luma, cv2.CV_32F, 0, 1)
    orientation = (np.arctan2(down, across) % np.pi / np.pi * _ORIENTATIONS).astype(np.int32) % _ORIENTATIONS
    cell = np.arange(_SIDE) * _CELLS // _SIDE
    bins = (cell[:, None] * _CELLS + cell[None, :]) * _ORIENTATIONS + orientation
    histogram = np.bincount(bins.ravel(), np.hypot(across, down).ravel(), _CELLS * _CELLS * _ORIENTATIONS)
    structure = np.sqrt(histogram / max(float(histogram.sum()), 1e-6))

    lab = cv2.cvtColor(small.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)
    quarters = lab.reshape(2, _SIDE // 2, 2, _SIDE // 2, 3)
    colour = np.concatenate([quarters.mean(axis=(1, 3)).ravel(), quarters.std(axis=(1, 3)).ravel()]) / 100
    return np.concatenate([structure, colour]).astype(np.float32)


def clusters(descriptors: np.ndarray, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Groups descriptors by k-means.

    Args:
        descriptors: (N, D) float32.
        count: Number of clusters; no more than N are made.
        seed: Of the starting points.

    Returns:
        (N,) cluster numbers, and (clusters, D) their centres.
    """
    import cv2

    count = min(count, len(descriptors))
    if count < 2:
        return np.zeros(len(descriptors), np.int32), descriptors.mean(axis=0, keepdims=True)
    cv2.setRNGSeed(seed)
    criteria = (cv2.TERM_CRITERIA_EPS + cv2.TERM_CRITERIA_MAX_ITER, 100, 1e-6)
    labels = np.zeros((len(descriptors), 1), np.int32)
    _, _, centres = cv2.kmeans(descriptors, count, labels, criteria, 10, cv2.KMEANS_PP_CENTERS)
    return labels.ravel(), centres


def nearest(descriptors: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """The number of the nearest of some centres, (N, D) and (K, D) to (N,)."""
    return ((centres**2).sum(axis=1) - 2 * descriptors @ centres.T).argmin(axis=1)


def in_order(labels: np.ndarray) -> np.ndarray:
    """The same groups, (N,), numbered in the order in which they first appear."""
    _, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[inverse]


def covering(vectors: np.ndarray, count: int) -> list[int]:
    """Chooses vectors so that every other one is near a chosen one (k-centre).

    The first is the nearest to the mean, each next one the farthest from those chosen before. From a given first one
    the farthest distance that is left is at most twice the least possible.

    Args:
        vectors: (N, D) float32; their order decides between equals.
        count: How many, at most N.

    Returns:
        Positions, in the order of the choice.

    Source: Gonzalez, "Clustering to minimize the maximum intercluster distance", TCS 1985.
    """
    squares = np.einsum("nd,nd->n", vectors, vectors)

    def squared_distances(to: np.ndarray) -> np.ndarray:
        return squares - 2 * vectors @ to + to @ to

    chosen = [int(squared_distances(vectors.mean(axis=0)).argmin())]
    nearest = squared_distances(vectors[chosen[0]])
    while len(chosen) < count:
        nearest[chosen[-1]] = -np.inf  # not again, also among equals
        chosen.append(int(nearest.argmax()))
        nearest = np.minimum(nearest, squared_distances(vectors[chosen[-1]]))
    return chosen
