"""What a camera leaves in the photographs that it develops: noise that neighbours share, smoothing, sharpened edges.

Real photographs are not clean images plus white noise. Demosaicing, denoising and chroma processing in the camera
spread the noise over neighbours, the colour further than the brightness; a network of white noise takes it for detail.
"""

import math

import numpy as np

# ITU-R BT.601, full range, as JPEG uses it: what one unit of Cb and Cr adds to R, G, B.
FROM_CHROMA = np.array([[0, -0.344136, 1.772], [1.402, -0.714136, 0]], dtype=np.float32)
LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)


def correlated_field(height: int, width: int, spread: float, rng: np.random.Generator) -> np.ndarray:
    """Gaussian noise of mean 0 and standard deviation 1 that neighbours share.

    Args:
        height: Of the field in pixels.
        width: Of the field in pixels.
        spread: Standard deviation of the Gaussian filter in pixels. At distance d the noise has about the correlation
            exp(-d² / (4 · spread²)).
        rng: Source of the noise.

    Returns:
        float32 (height, width).
    """
    import cv2

    radius = max(1, math.ceil(3 * spread))
    profile = np.exp(-0.5 * (np.arange(-radius, radius + 1) / spread) ** 2)
    profile /= np.linalg.norm(profile)  # the filtered noise keeps the variance of the white one
    # Drawn on a larger field, so that the law is the same at the border.
    white = rng.standard_normal((height + 2 * radius, width + 2 * radius), dtype=np.float32)
    return cv2.sepFilter2D(white, -1, profile, profile)[radius : radius + height, radius : radius + width]


def add_developed_noise(
    clean: np.ndarray,
    sigma: float,
    rng: np.random.Generator,
    *,
    spread: float,
    wide_spread: float,
    wide_share: float,
    chroma: float,
    chroma_spread: float,
    signal: float,
) -> np.ndarray:
    """Adds noise as it is in developed photographs: separate for luma and chroma, correlated, dependent on the signal.

    Args:
        clean: float32 in [0, 1], (3, H, W) RGB, or (1, H, W) gray, which has luma noise alone.
        sigma: Standard deviation of the luma noise at middle gray, on the [0, 255] scale.
        rng: Source of the noise.
        spread: Of the luma noise, see `correlated_field`, in pixels.
        wide_spread: Of a second, wider part of the luma noise.
        wide_share: Share of the wide part in the variance, 0 to 1.
        chroma: Standard deviation of the noise in Cb and Cr, in units of `sigma`.
        chroma_spread: Of the chroma noise, in pixels.
        signal: From 0, the same noise everywhere, to 1: the variance grows with the brightness from 0 at black to
            twice that of middle gray at white.

    Returns:
        float32 of the same shape, not clipped.

    Source: the noise of the camera pairs of PolyU (Xu et al., arXiv 1804.02603), measured: sigma of Y 3.4, Cb 1.5, Cr
    1.4; correlation at distances 1, 2, 4, 8 of .58, .22, .1, .06 in luma and .91, .8, .55, .25 in chroma.
    """
    _, height, width = clean.shape
    luma = math.sqrt(1 - wide_share) * correlated_field(height, width, spread, rng)
    luma += math.sqrt(wide_share) * correlated_field(height, width, wide_spread, rng)
    noise = np.repeat(luma[None], len(clean), axis=0)
    if len(clean) == 3:
        for to_rgb in FROM_CHROMA:
            noise += np.float32(chroma) * to_rgb[:, None, None] * correlated_field(height, width, chroma_spread, rng)
        brightness = np.tensordot(LUMA, clean, axes=1)
    else:
        brightness = clean[0]
    noise *= np.float32(sigma / 255) * np.sqrt((1 - signal) + signal * 2 * np.clip(brightness, 0, 1))
    noise += clean
    return noise


def denoise_in_camera(image: np.ndarray, *, luma: float, chroma: float, tolerance: float, spread: float) -> np.ndarray:
    """Smooths as cameras do before they save: luma where it is flat, chroma everywhere.

    Args:
        image: float32 about [0, 1], (3, H, W) RGB or (1, H, W) gray.
        luma: Share of the smoothed luma in the result, 0 to 1.
        chroma: Share of the smoothed chroma in the result, 0 to 1.
        tolerance: Differences of about so many of 255 are smoothed, larger ones are edges.
        spread: Standard deviation of the chroma's Gaussian filter, in pixels.

    Returns:
        float32 of the same shape.

    Source: a bilateral filter (Tomasi and Manduchi, ICCV 1998) and a Gaussian blur, in place of the makers' own
    processing, which is not published.
    """
    import cv2

    if len(image) == 1:
        smooth = cv2.bilateralFilter(image[0], 5, tolerance / 255, 1.5)
        return image + np.float32(luma) * (smooth - image[0])
    y = np.tensordot(LUMA, image, axes=1).astype(np.float32)
    colour = image - y
    radius = max(1, math.ceil(3 * spread))
    blurred = np.stack([cv2.GaussianBlur(plane, (2 * radius + 1,) * 2, spread) for plane in colour])
    smooth = y + np.float32(luma) * (cv2.bilateralFilter(y, 5, tolerance / 255, 1.5) - y)
    return (smooth + colour + np.float32(chroma) * (blurred - colour)).astype(np.float32)


def sharpen_in_camera(image: np.ndarray, *, amount: float, radius: float) -> np.ndarray:
    """Sharpens everything, noise included, as cameras do: image + amount · (image - blurred).

    Args:
        image: float32 about [0, 1], (C, H, W).
        amount: 0 leaves the image as it is.
        radius: Standard deviation of the Gaussian blur, in pixels.

    Returns:
        float32 of the same shape, not clipped.
    """
    import cv2

    size = (2 * math.ceil(3 * radius) + 1,) * 2
    blurred = np.stack([cv2.GaussianBlur(plane, size, radius) for plane in image])
    return image + np.float32(amount) * (image - blurred)
