"""Degrading an image as the settings say. The order of the draws is fixed: the bits of a training hang on it."""

import math
from dataclasses import dataclass

import numpy as np

from relume.degradations import steps as kinds
from relume.degradations.areas import degraded_areas
from relume.degradations.blur import blur_gaussian, blur_motion, motion_kernel
from relume.degradations.camera import add_camera_noise
from relume.degradations.compression import compress_jpeg
from relume.degradations.developed import add_developed_noise, denoise_in_camera, sharpen_in_camera
from relume.degradations.noise import (
    add_correlated_noise,
    add_gaussian_noise,
    add_poisson_gaussian_noise,
    add_poisson_noise,
    add_rendering_noise,
    add_salt_and_pepper,
    add_speckle_noise,
    as_8_bits,
)
from relume.degradations.resampling import downscale_bicubic, upscale_bicubic
from relume.degradations.settings import CONDITION_STEP, LEVEL_STEP, Degradation
from relume.degradations.steps import Step
from relume.degradations.weather import add_haze, add_rain


@dataclass(frozen=True, kw_only=True)
class Degraded:
    """A degraded image.

    Attributes:
        image: float32 (C, H, W), in [0, 1] or around it; smaller than the clean one by `Degradation.scale`.
        level: The level that an adjustable network is given, or all its conditions; None without `Degradation.level`.
    """

    image: np.ndarray
    level: float | tuple[float, ...] | None


def degrade(clean: np.ndarray, settings: Degradation, rng: np.random.Generator) -> Degraded:
    """Degrades an image.

    Args:
        clean: float32 in [0, 1], (C, H, W).
        settings: The steps.
        rng: Source of everything.
    """
    image, level, conditions = clean, None, dict.fromkeys(settings.conditions, 0.0)
    for step in settings.steps:
        image, strength = _apply(step, image, rng)
        if settings.level and isinstance(step, LEVEL_STEP[settings.level]):
            level = strength
        for name in conditions:
            if strength is not None and isinstance(step, CONDITION_STEP[name]):
                conditions[name] = {"blur": 10 * strength, "sigma": strength, "jpeg": 100 - strength}[name]
    return Degraded(image=image, level=tuple(conditions.values()) or level)


def degrade_at(clean: np.ndarray, settings: Degradation, rng: np.random.Generator, level: float) -> Degraded:
    """Degrades an image at a level that is given instead of drawn; all else is as `degrade` draws it.

    Args:
        clean: float32 in [0, 1], (C, H, W).
        settings: With a `level`.
        rng: Source of everything else. From the same state, all levels have the same noise up to its strength.
        level: In the unit of the settings' `level`, inside their range or not.

    Raises:
        ConfigError: The settings have no `level`, or none of this value.
    """
    return degrade(clean, settings.at(level), rng)


def _chain(steps: tuple[Step, ...], image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    for step in steps:
        image, _ = _apply(step, image, rng)
    return image


def _apply(step: Step, image: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, float | None]:
    """The image after one step, and the number that may serve as level."""
    if step.probability < 1 and rng.random() >= step.probability:
        return image, None
    draw, strength = rng.uniform, None
    match step:
        case kinds.GaussianNoise():
            strength = draw(*step.sigma) if step.kind == "gaussian_noise" else _beta(step, rng)
            image = add_gaussian_noise(image, strength, rng, clipped=_clipped(step, rng))
        case kinds.Jpeg():
            low, high = step.quality
            strength = min(int(draw(low, high + 1)), high)  # takes one draw even from [q, q], unlike rng.integers
            subsampling, shift = step.subsampling[0], (0, 0)
            if len(step.subsampling) > 1:
                subsampling = step.subsampling[rng.integers(len(step.subsampling))]
            if step.shifted and rng.random() < step.shifted:
                shift = (int(rng.integers(8)), int(rng.integers(8)))
            image = compress_jpeg(image, strength, subsampling=subsampling, shift=shift)
        case kinds.Bicubic():
            strength = draw(*step.scale)
            enlarged = upscale_bicubic(downscale_bicubic(image, strength), strength)
            image = np.ascontiguousarray(enlarged[:, : image.shape[1], : image.shape[2]])
        case kinds.Shrink():
            image = as_8_bits(downscale_bicubic(image, step.scale))
        case kinds.NoiseStep():
            clipped = _clipped(step, rng)
            image = _add_noise(step, image, rng)
            image = as_8_bits(image) if clipped else image
        case kinds.CameraDenoising():
            luma, chroma, tolerance, spread = (draw(*r) for r in (step.luma, step.chroma, step.tolerance, step.spread))
            image = denoise_in_camera(image, luma=luma, chroma=chroma, tolerance=tolerance, spread=spread)
        case kinds.CameraSharpening():
            image = sharpen_in_camera(image, amount=draw(*step.amount), radius=draw(*step.radius))
        case kinds.GaussianBlur():
            strength = sigma_x = draw(*step.sigma_x)
            sigma_y = draw(*step.sigma_y) if step.sigma_y else sigma_x
            image = blur_gaussian(image, sigma_x, sigma_y, draw(*step.angle))
        case kinds.MotionBlur():
            length, shake = draw(*step.length), draw(*step.shake)
            image = blur_motion(image, motion_kernel(rng, step.size, length=length, shake=shake))
        case kinds.Rain():
            density, length, angle, width = (draw(*r) for r in (step.density, step.length, step.angle, step.width))
            image = add_rain(image, rng, density=density, length=length, angle=angle, width=width)
        case kinds.Haze():
            image = add_haze(image, rng, beta=draw(*step.beta), airlight=draw(*step.airlight))
        case kinds.DegradedAreas():
            shares = {"degraded": step.degraded, "masked": step.masked}
            image = degraded_areas(image, rng, **shares, cell=step.cell, quality=step.quality, sigma=step.sigma)
        case kinds.OneOf():
            weights = np.array(step.weights or [1.0] * len(step.of))
            image = _chain(step.of[rng.choice(len(step.of), p=weights / weights.sum())], image, rng)
        case kinds.Shuffled():
            image = _chain(tuple(step.of[i] for i in rng.permutation(len(step.of))), image, rng)
        case _:
            raise AssertionError(step)
    return image, strength


def _beta(step: kinds.GaussianNoise, rng: np.random.Generator) -> float:
    assert isinstance(step, kinds.BetaGaussianNoise)
    low, high = step.sigma
    return low + (high - low) * rng.beta(*step.beta)


def _log_uniform(between: tuple[float, float], rng: np.random.Generator) -> float:
    low, high = (math.log(value) for value in between)
    return math.exp(rng.uniform(low, high))


def _clipped(step: kinds.NoiseStep, rng: np.random.Generator) -> bool:
    return bool(rng.random() < step.clipped)


def _add_noise(step: kinds.NoiseStep, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    draw = rng.uniform
    match step:
        case kinds.PoissonGaussianNoise():
            return add_poisson_gaussian_noise(image, draw(*step.gain), draw(*step.sigma), rng)
        case kinds.PoissonNoise():
            return add_poisson_noise(image, rng, strength=draw(*step.strength))
        case kinds.SpeckleNoise():
            return add_speckle_noise(image, draw(*step.variance), rng)
        case kinds.RenderingNoise():
            rays = int(rng.integers(step.rays[0], step.rays[1] + 1))
            return add_rendering_noise(image, rays, rng, found=draw(*step.found))
        case kinds.SaltAndPepper():
            return add_salt_and_pepper(image, draw(*step.density), rng)
        case kinds.CorrelatedNoise():
            return add_correlated_noise(image, draw(*step.sigma), rng, width=draw(*step.width))
        case kinds.DevelopedNoise():
            return add_developed_noise(
                image,
                _log_uniform(step.sigma, rng),
                rng,
                spread=draw(*step.spread),
                wide_spread=draw(*step.wide_spread),
                wide_share=draw(*step.wide_share),
                chroma=draw(*step.chroma),
                chroma_spread=draw(*step.chroma_spread),
                signal=draw(*step.signal),
            )
        case kinds.CameraNoise():
            return add_camera_noise(
                image,
                rng,
                electrons=_log_uniform(step.electrons, rng),
                read_noise=draw(*step.read_noise),
                red_gain=draw(*step.red_gain),
                blue_gain=draw(*step.blue_gain),
                bits=step.bits,
                demosaic=step.demosaic,
            )
    raise AssertionError(step)
