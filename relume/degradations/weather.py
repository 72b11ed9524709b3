"""Rain and haze."""

import math

import numpy as np

STREAK_BRIGHTNESS = (0.2, 0.8)  # of a streak in its middle, drawn uniformly; white is 1


def add_rain(
    clean: np.ndarray, rng: np.random.Generator, *, density: float, length: float, angle: float, width: float
) -> np.ndarray:
    """Adds a layer of bright streaks of one direction, gray and the same in all channels.

    Args:
        clean: float32 in [0, 1], (C, H, W).
        rng: Source of the drops.
        density: Streaks per pixel, at most 1; 0.002 is light rain.
        length: Of a streak in pixels.
        angle: Of the streaks from the vertical in degrees; positive falls from the upper right to the lower left.
        width: Standard deviation of a streak's Gaussian profile in pixels.

    Returns:
        float32 of the same shape, min(1, clean + streaks).

    Source: the additive model O = B + S of Yang et al., "Deep joint rain detection and removal from a single
    image", CVPR 2017; random points drawn out to lines.
    """
    import cv2

    radius = math.ceil(length / 2 + 3 * width)
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    cos, sin = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    along, across = y * cos - x * sin, x * cos + y * sin
    streak = np.exp(-0.5 * (across / width) ** 2) * np.clip(length / 2 + 0.5 - np.abs(along), 0, 1)
    height, width_pixels = clean.shape[1:]
    # Drops fall around the image too, so that streaks enter it from outside.
    drops = np.zeros((height + 2 * radius, width_pixels + 2 * radius), dtype=np.float32)
    hit = rng.random(drops.shape, dtype=np.float32) < density
    drops[hit] = rng.uniform(*STREAK_BRIGHTNESS, size=np.count_nonzero(hit))
    layer = cv2.filter2D(drops, -1, streak.astype(np.float32))  # symmetric: correlation is convolution
    layer = np.maximum(layer[radius : radius + height, radius : radius + width_pixels], 0)
    return np.minimum(clean + layer, np.float32(1))


def smooth_depth(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """A random depth map without edges, float32 (height, width), from exactly 0 (near) to exactly 1 (far)."""
    import cv2

    coarse = rng.random((4, 4), dtype=np.float32)
    depth = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    return (depth - depth.min()) / np.ptp(depth)


def add_haze(
    clean: np.ndarray, rng_or_depth: np.random.Generator | np.ndarray, *, beta: float, airlight: float
) -> np.ndarray:
    """Adds haze by the atmospheric scattering model: I = J · t + A · (1 - t) with t = exp(-beta · d).

    Args:
        clean: J, float32 in [0, 1], (C, H, W).
        rng_or_depth: The depth d, (H, W) and not negative, or a generator for a smooth random one in [0, 1].
        beta: Scattering per unit of depth; 0.6 to 1.8 in Li et al., "Benchmarking single-image dehazing and
            beyond", IEEE TIP 2019.
        airlight: A, in [0, 1]; 0.7 to 1.0 there.

    Returns:
        float32 of the same shape.

    Source: Koschmieder 1924; Narasimhan and Nayar, IJCV 2002.
    """
    if isinstance(rng_or_depth, np.random.Generator):
        rng_or_depth = smooth_depth(rng_or_depth, *clean.shape[1:])
    transmission = np.exp(-beta * rng_or_depth).astype(np.float32)
    return clean * transmission + np.float32(airlight) * (1 - transmission)
