"""What a training does to its clean crops besides degrading them, and to the degraded ones afterwards."""

import math
from typing import Self

import numpy as np
from pydantic import model_validator

from relume.degradations import LUMA, Degradation, Degraded, degrade, sharpen_usm
from relume.settings import Settings, Share

MIXUP_BETA = 1.2  # of the Beta distribution of the weights: nearly uniform, seldom one image alone


class Augmentation(Settings):
    """Random changes of the training crops.

    Attributes:
        flips: Whether the eight flips and rotations are drawn evenly.
        usm: Share of the clean crops that are sharpened before they are degraded.
        resized: Share of the clean crops that are cut from a smaller or larger area and resized.
        resize: Factors of that, drawn evenly on a logarithmic scale: above 1 the crop is enlarged, so that its details
            are as soft as those of photographs at full size; below 1 it is shrunk.
        gray: Share of the clean crops that are made gray and degraded as one channel, so that a network of colour
            images restores gray ones too.
        mixup: Share of the degraded crops that are a mixture of two degradations of the same clean crop.
    """

    flips: bool = True
    usm: Share = 0.0
    resized: Share = 0.0
    resize: tuple[float, float] = (1.0, 2.0)
    gray: Share = 0.0
    mixup: Share = 0.0

    @model_validator(mode="after")
    def _a_range(self) -> Self:
        if not 0.1 <= self.resize[0] <= self.resize[1] <= 10:
            raise ValueError("resize must be [low, high] with 0.1 <= low <= high <= 10")
        return self


def source_side(side: int, available: int, settings: Augmentation, rng: np.random.Generator) -> int:
    """The side of the area that a crop is made of, in pixels; draws nothing when nothing is resized.

    Args:
        side: Of the crop.
        available: Of the patch that it is cut from; a crop that would need more is made of the whole patch.
        settings: Of which `resized` and `resize` count.
        rng: Source of the draws.
    """
    if not settings.resized or rng.random() >= settings.resized:
        return side
    low, high = (math.log(factor) for factor in settings.resize)
    return min(available, max(1, round(side / math.exp(rng.uniform(low, high)))))


def resize(crop: np.ndarray, side: int) -> np.ndarray:
    """Resizes a square crop: by averaging areas to shrink, bicubic to enlarge; uint8 (S, S, C) to (side, side, C)."""
    import cv2

    if len(crop) == side:
        return crop
    return cv2.resize(crop, (side, side), interpolation=cv2.INTER_AREA if side < len(crop) else cv2.INTER_CUBIC)


def dihedral(image: np.ndarray, mode: int) -> np.ndarray:
    """One of the eight flips and rotations of an (H, W, C) image; `mode` from 0 (the image itself) to 7."""
    image = np.rot90(image, mode % 4)
    return image[:, ::-1] if mode >= 4 else image


def augment(
    crop: np.ndarray, settings: Augmentation, rng: np.random.Generator, out: np.ndarray | None = None
) -> np.ndarray:
    """Makes a training target of a square crop: flips and rotations, sharpening, colour taken away.

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
    if settings.gray and rng.random() < settings.gray:
        clean[...] = np.tensordot(LUMA, clean, axes=1)
    return clean


def cut_pair(patch: np.ndarray, size: int, settings: Augmentation, rng: np.random.Generator) -> np.ndarray:
    """A crop of a pair, both images at the same place and flipped alike.

    What else is in the settings would change one side of a pair into what it was never taken as, and is left out.

    Args:
        patch: uint8 (2, P, P, C), the degraded image before the clean one.
        size: Side of the crop, in pixels.
        settings: Of which `flips` counts.
        rng: Source of the draws.

    Returns:
        float32 (2, C, size, size) in [0, 1].
    """
    top, left = rng.integers(0, patch.shape[1] - size + 1, 2)
    mode = int(rng.integers(8)) if settings.flips else 0
    turned = [dihedral(image[top : top + size, left : left + size], mode).transpose(2, 0, 1) for image in patch]
    return np.stack(turned).astype(np.float32) / np.float32(255)


def is_gray(clean: np.ndarray) -> bool:
    """Whether all channels of a (C, H, W) image are equal, such as those that `Augmentation.gray` makes."""
    return bool((clean[1:] == clean[:1]).all())


def mixes_levels(degradation: Degradation, settings: Augmentation) -> bool:
    """Whether degradations are mixed whose level an adjustable network is given: a mixture has none."""
    return bool(settings.mixup) and degradation.level is not None


def degrade_and_mix(
    clean: np.ndarray, degradation: Degradation, settings: Augmentation, rng: np.random.Generator
) -> Degraded:
    """Degrades a clean crop; for a share of the crops twice, and returns w · first + (1 - w) · second, w ~ Beta.

    Args:
        clean: float32 (C, H, W) in [0, 1].
        degradation: What to draw the degradation from.
        settings: Of which `mixup` and `gray` count; 0 draws nothing beyond the degradation. A degradation with a level
            is not mixed.
        rng: Source of the draws.

    Source: Zhang et al., "mixup", ICLR 2018, here of inputs that share their target.
    """
    assert not mixes_levels(degradation, settings)
    if settings.gray and is_gray(clean):
        one_channel = degrade_and_mix(clean[:1], degradation, settings.model_copy(update={"gray": 0.0}), rng)
        return Degraded(image=np.repeat(one_channel.image, len(clean), axis=0), level=one_channel.level)
    first = degrade(clean, degradation, rng)
    if not settings.mixup or rng.random() >= settings.mixup:
        return first
    second = degrade(clean, degradation, rng)
    weight = np.float32(rng.beta(MIXUP_BETA, MIXUP_BETA))
    return Degraded(image=weight * first.image + (1 - weight) * second.image, level=None)
