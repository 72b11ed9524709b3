"""Noise as a camera makes it: in the linear raw mosaic of the sensor, and spread by what the camera does afterwards."""

from typing import Literal

import numpy as np

from relume.errors import ConfigError

Demosaic = Literal["edge_aware", "bilinear"]


def to_linear(image: np.ndarray) -> np.ndarray:
    """Undoes the tone curve 3x² - 2x³ and the sRGB gamma; [0, 1] to [0, 1].

    Source: Brooks et al., "Unprocessing images for learned raw denoising", CVPR 2019, section 3; sRGB: IEC 61966-2-1.
    """
    image = 0.5 - np.sin(np.arcsin(1 - 2 * np.clip(image, 0, 1)) / 3)
    return np.where(image <= 0.04045, image / 12.92, ((image + 0.055) / 1.055) ** 2.4)


def from_linear(linear: np.ndarray) -> np.ndarray:
    """The sRGB gamma and then the tone curve 3x² - 2x³; the inverse of `to_linear`."""
    linear = np.clip(linear, 0, 1)
    image = np.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear ** (1 / 2.4) - 0.055)
    return (3 - 2 * image) * image**2


def expose(raw: np.ndarray, rng: np.random.Generator, *, electrons: float, read_noise: float, bits: int) -> np.ndarray:
    """One exposure of a sensor: shot noise, read noise, and a converter with a black level.

    Args:
        raw: Light on each photosite, 1 where it saturates; any shape.
        rng: Source of the noise.
        electrons: Photo-electrons at saturation. A higher ISO speed means fewer.
        read_noise: Standard deviation in electrons.
        bits: Of the converter; a sixteenth of its range is below black, so that noise there is not cut off.

    Returns:
        uint16 of the same shape, from 0 to 2^bits - 1.
    """
    top, black = 2**bits - 1, 2**bits // 16
    counted = rng.poisson(raw * electrons) + read_noise * rng.standard_normal(raw.shape)
    return np.clip(np.rint(counted / electrons * (top - black) + black), 0, top).astype(np.uint16)


def demosaic_rggb(mosaic: np.ndarray, method: Demosaic) -> np.ndarray:
    """Fills in the two colours that each photosite did not see.

    Args:
        mosaic: uint16 (H, W), red at the upper left, blue diagonal to it.
        method: `bilinear`, or OpenCV's `edge_aware`, which interpolates green along edges.

    Returns:
        uint16 (H, W, 3) RGB.
    """
    import cv2

    code = cv2.COLOR_BayerRGGB2RGB_EA if method == "edge_aware" else cv2.COLOR_BayerRGGB2RGB
    around = cv2.copyMakeBorder(mosaic, 4, 4, 4, 4, cv2.BORDER_REFLECT_101)  # which keeps the pattern's phase
    return cv2.demosaicing(around, code)[4:-4, 4:-4]


def add_camera_noise(
    clean: np.ndarray,
    rng: np.random.Generator,
    *,
    electrons: float,
    read_noise: float,
    red_gain: float = 2.0,
    blue_gain: float = 1.7,
    bits: int = 14,
    demosaic: Demosaic = "edge_aware",
) -> np.ndarray:
    """Takes an image back to the sensor, exposes it there and develops it again.

    Clean image -> no tone curve, no gamma -> no white balance -> RGGB mosaic -> shot and read noise, converter ->
    demosaicing -> white balance -> gamma, tone curve. Colour correction is left out.

    Args:
        clean: float32 in [0, 1], (3, H, W) RGB, at least 5 x 5 pixels.
        rng: Source of the noise.
        electrons: Photo-electrons at saturation; some 10,000 at a low ISO speed, 100 at the highest.
        read_noise: Standard deviation in electrons.
        red_gain: White balance of red relative to green; 1.9 to 2.4 in the source.
        blue_gain: White balance of blue relative to green; 1.5 to 1.9 in the source.
        bits: Of the converter, 8 to 16.
        demosaic: See `demosaic_rggb`.

    Returns:
        float32 of the same shape, in [0, 1].

    Raises:
        ConfigError: The image has no three channels.

    Source: Brooks et al., CVPR 2019.
    """
    if len(clean) != 3:
        raise ConfigError(
            "Camera noise needs a colour image",
            where=f"an image of {len(clean)} channels",
            why="it is made in a colour mosaic",
            next_step="use poisson_gaussian_noise for gray images",
        )
    gains = np.array([red_gain, 1, blue_gain])[:, None, None]
    light = to_linear(clean.astype(np.float64)) / gains
    mosaic = light[1].copy()
    mosaic[::2, ::2] = light[0, ::2, ::2]
    mosaic[1::2, 1::2] = light[2, 1::2, 1::2]
    numbers = expose(mosaic, rng, electrons=electrons, read_noise=read_noise, bits=bits)
    spread = 2 ** (16 - bits)  # room for the fractions that interpolation makes
    developed = demosaic_rggb(numbers * np.uint16(spread), demosaic).transpose(2, 0, 1) / spread
    top, black = 2**bits - 1, 2**bits // 16
    return from_linear((developed - black) / (top - black) * gains).astype(np.float32, order="C")
