"""Blur by a Gaussian or by the motion of the camera; beyond its border the image is mirrored."""

import math

import numpy as np


def convolve(image: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """Convolution of each channel, mirrored at the border without repeating the border pixel.

    Args:
        image: float32 (C, H, W).
        kernel: (odd, odd).

    Returns:
        float32 (C, H, W).
    """
    import cv2

    flipped = kernel[::-1, ::-1].astype(np.float32)  # OpenCV correlates
    return np.stack([cv2.filter2D(channel, -1, flipped, borderType=cv2.BORDER_REFLECT_101) for channel in image])


def blur_gaussian(clean: np.ndarray, sigma_x: float, sigma_y: float, angle: float) -> np.ndarray:
    """Blurs with a Gaussian whose axes are rotated.

    Args:
        clean: float32 in [0, 1], (C, H, W).
        sigma_x: Standard deviation along the first axis in pixels, above 0.
        sigma_y: Standard deviation along the second axis in pixels, above 0.
        angle: Of the first axis, in degrees from the direction of the columns' numbers towards that of the rows'.

    Returns:
        float32 of the same shape.
    """
    radius = math.ceil(4 * max(sigma_x, sigma_y))
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    cos, sin = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    along, across = x * cos + y * sin, y * cos - x * sin
    kernel = np.exp(-0.5 * ((along / sigma_x) ** 2 + (across / sigma_y) ** 2))
    return convolve(clean, kernel / kernel.sum())


def motion_kernel(rng: np.random.Generator, size: int, *, length: float, shake: float) -> np.ndarray:
    """The trace of a point of light while the camera shakes: a path of constant speed whose heading wanders.

    Args:
        rng: Source of the path.
        size: Side of the kernel in pixels, odd.
        length: Of the path in pixels; a path that leaves the kernel is shrunk to fit.
        shake: Standard deviation, in radians, of the turn between the path's begin and its end; 0 is a straight line.

    Returns:
        float32 (size, size), not negative, sum 1, centre of mass in the middle.

    Source: the random trajectories of Boracchi and Foi, "Modeling the performance of image restoration from
    motion blur", IEEE TIP 2012, with a Brownian heading in place of their four forces.
    """
    steps = 64 * size  # so many that a pixel that the path crosses is met many times
    heading = rng.uniform(0, 2 * math.pi) + np.cumsum(rng.standard_normal(steps)) * shake / math.sqrt(steps)
    path = np.cumsum(np.stack([np.sin(heading), np.cos(heading)]), axis=1) * (length / steps)  # rows, columns
    path -= path.mean(axis=1, keepdims=True)
    half = (size - 1) / 2
    path *= min(1.0, half / max(np.abs(path).max(), 1e-9))
    place = path + half
    corner = np.clip(np.floor(place), 0, size - 2).astype(int)
    part = place - corner
    kernel = np.zeros((size, size))
    for down in (0, 1):
        for right in (0, 1):
            weight = np.abs(1 - down - part[0]) * np.abs(1 - right - part[1])
            np.add.at(kernel, (corner[0] + down, corner[1] + right), weight)
    return (kernel / steps).astype(np.float32)


def blur_motion(clean: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """Blurs with the trace of a moving camera.

    Args:
        clean: float32 in [0, 1], (C, H, W).
        kernel: (odd, odd), sum 1, such as from `motion_kernel`.

    Returns:
        float32 of the same shape.
    """
    return convolve(clean, kernel)
