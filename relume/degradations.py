"""Synthetic degradations, seeded by counters: sample n is the same on any machine, in any order, after any restart."""

import numpy as np

# Streams keep the random numbers of different uses apart under one seed.
STREAMS = {"order": 0, "sample": 1, "validation": 2, "evaluation": 3, "mining": 4}


def counter_rng(seed: int, stream: str, *counters: int) -> np.random.Generator:
    """A generator that depends on nothing but its arguments.

    Args:
        seed: The run's seed.
        stream: What the numbers are for, a key of `STREAMS`.
        counters: Non-negative integers such as the sample's number.
    """
    return np.random.default_rng((seed, STREAMS[stream], *counters))


def add_gaussian_noise(clean: np.ndarray, sigma: float, rng: np.random.Generator, *, clipped: bool) -> np.ndarray:
    """Adds white Gaussian noise.

    Args:
        clean: float32 in [0, 1], any shape.
        sigma: Standard deviation on the [0, 255] scale.
        rng: Source of the noise.
        clipped: True for what an 8-bit file holds, clipped to [0, 1] and rounded to 1/255 (the product's
            protocol); False for the unclipped noise of the published tables.

    Returns:
        float32 of the same shape.
    """
    noisy = clean + np.float32(sigma / 255) * rng.standard_normal(clean.shape, dtype=np.float32)
    if clipped:
        noisy = np.rint(np.clip(noisy, 0, 1) * 255) / np.float32(255)
    return noisy
