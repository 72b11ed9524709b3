"""The patchwork of DyNet's pre-training: some areas degraded, some masked, some left as they are."""

import math

import numpy as np

from relume.degradations.compression import compress_jpeg
from relume.degradations.noise import add_gaussian_noise, as_8_bits


def degraded_areas(
    clean: np.ndarray,
    rng: np.random.Generator,
    *,
    degraded: float = 0.5,
    masked: float = 0.3,
    cell: int = 16,
    quality: tuple[int, int] = (10, 90),
    sigma: tuple[float, float] = (0, 75),
) -> np.ndarray:
    """Degrades, masks and keeps disjoint square cells in exact shares.

    Each degraded cell shows one of three degraded versions of the whole image, chosen evenly: JPEG, Gaussian noise,
    uniform noise. Their three levels are drawn once for the image. JPEG is applied to the whole, so that its
    8-pixel grid stays aligned.

    Args:
        clean: float32 in [0, 1], (C, H, W).
        rng: Source of everything.
        degraded: Share of the cells that is degraded, rounded to whole cells.
        masked: Share of the cells that is set to 0, rounded to whole cells.
        cell: Side of a cell in pixels; those at the right and lower border may be cut.
        quality: Range of the JPEG quality.
        sigma: Range of the noise's standard deviation on the [0, 255] scale; noise is clipped and rounded to 8 bits.

    Returns:
        float32 of the same shape.

    Source: DyNet (arXiv 2404.02154), which names the shares 50 % and 30 % and the kinds "JPEG, Gaussian noise or
    random noise at random level"; it gives neither cell, nor fill, nor levels, nor what random noise is.
    """
    jpeg = compress_jpeg(clean, int(rng.integers(quality[0], quality[1], endpoint=True)))
    gaussian = add_gaussian_noise(clean, rng.uniform(*sigma), rng, clipped=True)
    half_width = math.sqrt(3) * rng.uniform(*sigma) / 255
    uniform = as_8_bits(clean + rng.uniform(-half_width, half_width, clean.shape).astype(np.float32))

    rows, columns = (math.ceil(side / cell) for side in clean.shape[1:])
    cells = rows * columns
    first, last = round(degraded * cells), round(degraded * cells) + round(masked * cells)
    choice = np.zeros(cells, dtype=int)  # of the versions below
    choice[:first] = rng.integers(2, 5, first)
    choice[first:last] = 1
    by_pixel = rng.permutation(choice).reshape(rows, columns).repeat(cell, axis=0).repeat(cell, axis=1)
    by_pixel = by_pixel[: clean.shape[1], : clean.shape[2]]
    return np.choose(by_pixel[None], [clean, np.zeros_like(clean), jpeg, gaussian, uniform])
