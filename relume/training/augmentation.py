"""What a training does to its clean crops besides degrading them, and to the degraded ones afterwards."""

import numpy as np

from relume.degradations import Degradation, Degraded, degrade, sharpen_usm
from relume.errors import ConfigError
from relume.settings import Settings, Share

MIXUP_BETA = 1.2  # of the Beta distribution of the weights: nearly uniform, seldom one image alone


class Augmentation(Settings):
    """Random changes of the training crops.

    Attributes:
        flips: Whether the eight flips and rotations are drawn evenly.
        usm: Share of the clean crops that are sharpened before they are degraded.
        mixup: Share of the degraded crops that are a mixture of two degradations of the same clean crop.
    """

    flips: bool = True
    usm: Share = 0.0
    mixup: Share = 0.0


def dihedral(image: np.ndarray, mode: int) -> np.ndarray:
    """One of the eight flips and rotations of an (H, W, C) image; `mode` from 0 (the image itself) to 7."""
    image = np.rot90(image, mode % 4)
    return image[:, ::-1] if mode >= 4 else image


def augment(
    crop: np.ndarray, settings: Augmentation, rng: np.random.Generator, out: np.ndarray | None = None
) -> np.ndarray:
    """Makes a training target of a square crop: flips and rotations, then sharpening.

    Args:
        crop: uint8 (S, S, C).
        settings: What to draw; what is off draws nothing.
        rng: Source of the draws.
        out: Where to, such as a place in a batch; a new array by default.

    Returns:
        float32 (C, S, S) in [0, 1].
    """
    if settings.flips:
        crop = dihedral(crop, int(rng.integers(8)))
    channels = crop.transpose(2, 0, 1)
    clean = np.empty(channels.shape, dtype=np.float32) if out is None else out
    clean[...] = channels
    clean /= np.float32(255)
    if settings.usm and rng.random() < settings.usm:
        clean[...] = sharpen_usm(clean)
    return clean


def mixes_levels(degradation: Degradation, settings: Augmentation) -> bool:
    """Whether a mixture is asked for of degradations whose level an adjustable network is told; it would have none."""
    return bool(settings.mixup) and degradation.level is not None


def check_mixture(degradation: Degradation, settings: Augmentation, *, where: str = "") -> None:
    """Refuses such a mixture.

    Raises:
        ConfigError: `mixes_levels`.
    """
    if mixes_levels(degradation, settings):
        raise ConfigError(
            "A mixture of two degradations has no level",
            where=f"{where}mixup: {settings.mixup:g}, level: {degradation.level}",
            next_step="set augmentation.mixup to 0 or leave degradation.level out",
        )


def degrade_and_mix(
    clean: np.ndarray, degradation: Degradation, settings: Augmentation, rng: np.random.Generator
) -> Degraded:
    """Degrades a clean crop; for a share of the crops twice, and returns w · first + (1 - w) · second, w ~ Beta.

    Args:
        clean: float32 (C, H, W) in [0, 1].
        degradation: What to draw the degradation from.
        settings: Of which `mixup` counts; 0 draws nothing beyond the degradation.
        rng: Source of the draws.

    Raises:
        ConfigError: A mixture is asked for of a degradation whose level an adjustable network is told.

    Source: Zhang et al., "mixup", ICLR 2018, here of inputs that share their target.
    """
    check_mixture(degradation, settings)
    first = degrade(clean, degradation, rng)
    if not settings.mixup or rng.random() >= settings.mixup:
        return first
    second = degrade(clean, degradation, rng)
    weight = np.float32(rng.beta(MIXUP_BETA, MIXUP_BETA))
    return Degraded(image=weight * first.image + (1 - weight) * second.image, level=None)
