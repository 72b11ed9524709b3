"""How natural a photograph looks, by the statistics of its locally normalised gray values: NIQE and BRISQUE.

Both describe, at full and at half size, the distribution of the normalised values and of the products of neighbours by
asymmetric generalised Gaussians. NIQE is the distance of these figures, block by block, from those of undistorted
photographs; BRISQUE is what a support vector regression makes of the figures of the whole image. Lower is better.

The parameters are in `natural_scenes.npz`, their origin and licences in `natural_scenes.txt` beside it.

Sources: Mittal, Soundararajan and Bovik, "Making a 'Completely Blind' Image Quality Analyzer", IEEE SPL 2013;
Mittal, Moorthy and Bovik, "No-Reference Image Quality Assessment in the Spatial Domain", IEEE TIP 2012.
"""

import math
from functools import lru_cache
from pathlib import Path

import numpy as np

_BLOCK = 96  # side of NIQE's blocks at full size, in pixels
_BRISQUE_GAMMA = 0.05  # of the regression's radial kernel
# How far each pair of neighbours is apart, in rows and columns.
_NEIGHBOURS = ((0, 1), (1, 0), (1, 1), (1, -1))


def niqe(luma: np.ndarray) -> float:
    """The distance from undistorted photographs.

    Args:
        luma: (H, W) float32 gray values, 0 to 255.

    Returns:
        0 or more, about 2.5 to 6 for good photographs; NaN when no block of 96x96 pixels has structure.
    """
    parameters = _parameters()
    return niqe_distance(niqe_features(luma), parameters["niqe_mean"], parameters["niqe_covariance"])


def niqe_features(luma: np.ndarray) -> np.ndarray:
    """(H, W) gray values to (blocks, 36) figures of whole blocks, row by row; NaN where there is no structure."""
    height, width = (side // _BLOCK * _BLOCK for side in luma.shape)
    if not height or not width:
        return np.zeros((0, 36))
    whole = luma[:height, :width]
    sizes = {_BLOCK: whole, _BLOCK // 2: _half_without_aliasing(whole)}
    return np.concatenate([_block_features(normalised(image), side) for side, image in sizes.items()], axis=1)


def niqe_distance(blocks: np.ndarray, mean: np.ndarray, covariance: np.ndarray) -> float:
    """The distance of the figures of blocks, (N, D), from a Gaussian of mean (D,) and covariance (D, D)."""
    blocks = blocks[np.isfinite(blocks).all(axis=1)]
    if not len(blocks):
        return float("nan")
    away = blocks.mean(axis=0) - mean
    spread = np.cov(blocks, rowvar=False) if len(blocks) > 1 else 0.0
    return float(np.sqrt(away @ np.linalg.solve((covariance + spread) / 2, away)))


def brisque(luma: np.ndarray) -> float:
    """The quality that viewers would be expected to give, as a difference from a perfect image.

    Args:
        luma: (H, W) float32 gray values, 0 to 255; each side at least 32 pixels.

    Returns:
        About 0 (perfect) to 100, at times beyond; NaN for an image without structure.
    """
    import cv2

    parameters = _parameters()
    # Halves that alias, as `brisque` makes them, from which the regression comes: with others it is 10 away.
    half = cv2.resize(luma, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_CUBIC)
    features = np.concatenate([_brisque_features(normalised(image)) for image in (luma, half)])
    low, high = parameters["brisque_low"], parameters["brisque_high"]
    scaled = 2 * (features - low) / (high - low) - 1
    distances = ((parameters["brisque_vectors"] - scaled) ** 2).sum(axis=1)
    return float(parameters["brisque_weights"] @ np.exp(-_BRISQUE_GAMMA * distances) - parameters["brisque_rho"])


def normalised(luma: np.ndarray) -> np.ndarray:
    """Gray values less their local mean, over their local deviation plus 1: (H, W) to (H, W), float32."""
    mean, deviation = local_statistics(luma)
    return (luma - mean) / (deviation + 1)


def local_statistics(luma: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of (H, W) gray values around each pixel, (H, W) float32 each.

    The neighbourhood is a Gaussian of 7/6 pixels in a window of 7, and black beyond the border, as BRISQUE's
    authors have it.
    """
    import cv2

    def around(values: np.ndarray) -> np.ndarray:
        return cv2.GaussianBlur(values, (7, 7), 7 / 6, borderType=cv2.BORDER_CONSTANT)

    mean = around(luma)
    return mean, np.sqrt(np.abs(around(luma * luma) - mean * mean))


def _block_features(values: np.ndarray, side: int) -> np.ndarray:
    """(H, W) normalised values to (blocks, 18) figures; a block's last row and column neighbour its first."""
    blocks = values.reshape(values.shape[0] // side, side, values.shape[1] // side, side)
    shape, left, right = _distribution(blocks)
    features = [shape, (_scale(shape, left) + _scale(shape, right)) / 2]
    for down, across in _NEIGHBOURS:
        shape, left, right = _distribution(blocks * np.roll(blocks, (down, across), axis=(1, 3)))
        features += [shape, _mean(shape, left, right), _scale(shape, left), _scale(shape, right)]
    return np.stack([feature.ravel() for feature in features], axis=1)


def _brisque_features(values: np.ndarray) -> np.ndarray:
    """(H, W) normalised values to 18 figures."""
    shape, left, right = _distribution(values[None, :, None])
    features = [shape, (left**2 + right**2) / 2]
    for down, across in _NEIGHBOURS:
        height, width = values.shape[0] - down, values.shape[1] - abs(across)
        first = values[:height, max(-across, 0) :][:, :width]
        second = values[down:, max(across, 0) :][:, :width]
        shape, left, right = _distribution((first * second)[None, :, None])
        features += [shape, _mean(shape, left, right), left**2, right**2]
    return np.concatenate([feature.ravel() for feature in features])


def _distribution(blocks: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Fits an asymmetric generalised Gaussian to each block by its moments.

    Args:
        blocks: (rows, side, columns, side) values.

    Returns:
        (rows, columns) each: the shape (2 for a Gaussian, 1 for a Laplacian, 0.2 to 10), and the root mean squares of
        the negative and of the other values; NaN where one of these is 0.

    Source: Lasmar, Stitou and Berthoumieu, "Multiscale skewed heavy tailed model", ICIP 2009.
    """
    size = np.abs(blocks)
    squares, signed, mean_size = (_sum(values) for values in (size * size, size * blocks, size))
    count = blocks.shape[1] * blocks.shape[3]
    negative = np.count_nonzero(blocks < 0, axis=(1, 3))
    with np.errstate(divide="ignore", invalid="ignore"):
        left = np.sqrt((squares - signed) / 2 / negative)
        right = np.sqrt((squares + signed) / 2 / (count - negative))
        skew = left / right
        ratio = mean_size**2 / (count * squares) * (skew**3 + 1) * (skew + 1) / (skew**2 + 1) ** 2
    shapes, ratios, _, _ = _gammas()
    return np.interp(ratio, ratios, shapes), left, right


def _sum(blocks: np.ndarray) -> np.ndarray:
    # Rows of at most a few thousand float32 values lose nothing; their sums are added in float64.
    return blocks.sum(axis=3).sum(axis=1, dtype=np.float64)


@lru_cache(maxsize=1)
def _gammas() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Shapes a of generalised Gaussians, 0.2 to 10, and for each: the squared mean size over the mean square, which
    grows with a; the scale over the root mean square; and Γ(2/a) / Γ(1/a)."""
    shapes = np.arange(200, 10001) / 1000
    first, second, third = (np.array([math.gamma(number / shape) for shape in shapes]) for number in (1, 2, 3))
    return shapes, second**2 / (first * third), np.sqrt(first / third), second / first


def _scale(shape: np.ndarray, root_mean_square: np.ndarray) -> np.ndarray:
    """The scale of a generalised Gaussian."""
    shapes, _, scales, _ = _gammas()
    return root_mean_square * np.interp(shape, shapes, scales)


def _mean(shape: np.ndarray, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """The mean of an asymmetric generalised Gaussian with these root mean squares."""
    shapes, _, _, means = _gammas()
    return (_scale(shape, right) - _scale(shape, left)) * np.interp(shape, shapes, means)


def _half_without_aliasing(luma: np.ndarray) -> np.ndarray:
    """Half of the size as MATLAB's imresize makes it; see `relume.degradations.resampling`, which is slower."""
    import cv2

    # Keys' cubic kernel, a = -1/2, widened to twice, at the eight distances of 0.5 to 3.5 pixels.
    taps = np.array([-3, -9, 29, 111, 111, 29, -9, -3], np.float32) / 256
    return cv2.sepFilter2D(luma, cv2.CV_32F, taps, taps, anchor=(3, 3), borderType=cv2.BORDER_REFLECT)[::2, ::2]


@lru_cache(maxsize=1)
def _parameters() -> dict[str, np.ndarray]:
    with np.load(Path(__file__).with_name("natural_scenes.npz")) as file:
        return {name: file[name].astype(np.float64) for name in file.files}
