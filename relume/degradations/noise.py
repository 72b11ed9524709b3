"""Noise whose law is known in closed form; levels called `sigma` are standard deviations on the [0, 255] scale.

All functions leave the result unclipped unless they say otherwise; `as_8_bits` turns it into what a file holds.
"""

import math

import numpy as np


def as_8_bits(image: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """What an 8-bit file holds of an image: clipped to [0, 1] and rounded to 1/255; float32 of the same shape.

    Args:
        image: float32, any shape.
        out: Where to, such as the image itself; a new array by default.
    """
    levels = np.clip(image, 0, 1, out=out)
    levels *= 255
    np.rint(levels, out=levels)
    levels /= np.float32(255)
    return levels


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
    noisy = rng.standard_normal(clean.shape, dtype=np.float32)
    noisy *= np.float32(sigma / 255)
    noisy += clean
    return as_8_bits(noisy, out=noisy) if clipped else noisy


def add_poisson_gaussian_noise(clean: np.ndarray, gain: float, sigma: float, rng: np.random.Generator) -> np.ndarray:
    """Adds signal-dependent noise: gain · Poisson(x / gain) plus white Gaussian noise, variance gain·x + (sigma/255)².

    Args:
        clean: float32 in [0, 1], any shape.
        gain: Brightness of one photo-electron, white being 1; 0 for no shot noise.
        sigma: Standard deviation of the Gaussian part on the [0, 255] scale.
        rng: Source of the noise.

    Returns:
        float32 of the same shape.

    Source: Foi et al., "Practical Poissonian-Gaussian noise modeling and fitting for single-image raw-data",
    IEEE TIP 2008, eq. 1 to 3.
    """
    shot = clean if gain == 0 else rng.poisson(np.maximum(clean, 0) / gain).astype(np.float32) * np.float32(gain)
    return add_gaussian_noise(shot, sigma, rng, clipped=False)


def add_poisson_noise(clean: np.ndarray, rng: np.random.Generator, *, strength: float = 2.0) -> np.ndarray:
    """Adds Poisson noise whose photon count follows from the image: the more gray levels, the less noise.

    Args:
        clean: float32 in [0, 1], any shape; rounded to 8 bits before.
        rng: Source of the noise.
        strength: Factor of the noise.

    Returns:
        float32 of the same shape, variance strength² · x / V with V = 2^ceil(log2 n) for n different levels.

    Source: the out-of-distribution noises of masked image training (arXiv 2303.13132), where strength is 2.
    """
    rounded = as_8_bits(clean)
    levels = np.count_nonzero(np.bincount((rounded * 255 + 0.5).astype(np.uint8).ravel(), minlength=256))
    photons = 2 ** math.ceil(math.log2(levels))
    noise = rng.poisson(rounded * photons).astype(np.float32) / np.float32(photons) - rounded
    return rounded + np.float32(strength) * noise


def add_speckle_noise(clean: np.ndarray, variance: float, rng: np.random.Generator) -> np.ndarray:
    """Multiplies by 1 + n, n uniform with mean 0, as MATLAB's imnoise does.

    Args:
        clean: float32 in [0, 1], any shape.
        variance: Of n; 0.024 in the tests of masked image training (arXiv 2303.13132).
        rng: Source of the noise.

    Returns:
        float32 of the same shape, variance x² · `variance`.
    """
    half_width = math.sqrt(3 * variance)
    return clean * (1 + rng.uniform(-half_width, half_width, clean.shape)).astype(np.float32)


def add_rendering_noise(clean: np.ndarray, rays: int, rng: np.random.Generator, *, found: float = 0.1) -> np.ndarray:
    """Noise of an image that is rendered by Monte Carlo with few rays for each pixel, without its renderer.

    A ray finds the light with probability `found`, or returns black. A pixel is the mean of its rays, without bias:
    in linear light x · B / (rays · found) with B binomial, one factor for all channels, since a ray has all colours.

    Args:
        clean: float32 in [0, 1], (C, H, W), coded with gamma 2.2.
        rays: For each pixel.
        rng: Source of the noise.
        found: Probability in (0, 1].

    Returns:
        float32 of the same shape, coded as before; in linear light the variance is x² · (1 - found) / (rays · found).

    Source: the law of a Monte Carlo estimate whose rays succeed or not (Kajiya, "The rendering equation", 1986). The
    renderings that masked image training is tested on (arXiv 2303.13132) are of other, unstated scenes and rays.
    """
    factor = rng.binomial(rays, found, clean.shape[1:]).astype(np.float32) / np.float32(rays * found)
    return clean * factor ** np.float32(1 / 2.2)  # (x^2.2 · factor)^(1/2.2)


def add_salt_and_pepper(clean: np.ndarray, density: float, rng: np.random.Generator) -> np.ndarray:
    """Replaces values by 0 or 1, equally often, each channel on its own, as MATLAB's imnoise does.

    Args:
        clean: float32 in [0, 1], any shape.
        density: Probability that a value is replaced; 0.002 in the tests of masked image training.
        rng: Source of the noise.

    Returns:
        float32 of the same shape.
    """
    draw = rng.random(clean.shape, dtype=np.float32)
    noisy = clean.copy()
    noisy[draw < density] = 1
    noisy[draw < density / 2] = 0
    return noisy


def add_correlated_noise(clean: np.ndarray, sigma: float, rng: np.random.Generator, *, width: float) -> np.ndarray:
    """Adds Gaussian noise that neighbours share: white noise filtered with a Gaussian, each channel on its own.

    Args:
        clean: float32 in [0, 1], (C, H, W).
        sigma: Standard deviation of the noise after filtering, [0, 255] scale.
        rng: Source of the noise.
        width: Standard deviation of the filter in pixels; 0 gives white noise. At distance d the noise has
            the correlation exp(-d² / (4 · width²)).

    Returns:
        float32 of the same shape.
    """
    import cv2

    radius = math.ceil(4 * width)
    profile = np.exp(-0.5 * (np.arange(-radius, radius + 1) / max(width, 1e-6)) ** 2)
    profile /= np.linalg.norm(profile)  # the filtered noise keeps the variance of the white one
    channels, height, width_pixels = clean.shape
    # Drawn on a larger field, so that the law is the same at the border.
    white = rng.standard_normal((channels, height + 2 * radius, width_pixels + 2 * radius), dtype=np.float32)
    noise = np.stack([cv2.sepFilter2D(channel, -1, profile, profile) for channel in white])
    return clean + np.float32(sigma / 255) * noise[:, radius : radius + height, radius : radius + width_pixels]
