"""Protocols: what is done to a clean image, and on which part of the result a method is measured.

All inputs are what an 8-bit file holds, clipped and rounded, except those of `awgn`, the published protocol of
Gaussian denoising, whose noise stays as it is. The noise depends on the seed and the image's name alone, so that
an image has the same noise in any set and, up to a factor, at any level.
"""

import zlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from pydantic import ValidationError

from relume.degradations import Degradation, as_8_bits, counter_rng, degrade
from relume.degradations.steps import (
    Bicubic,
    CameraNoise,
    CorrelatedNoise,
    DevelopedNoise,
    GaussianNoise,
    Haze,
    Jpeg,
    MotionBlur,
    PoissonNoise,
    Rain,
    RenderingNoise,
    SaltAndPepper,
    Shrink,
    SpeckleNoise,
    Step,
)
from relume.errors import ConfigError
from relume.evaluation.benchmark.sets import Example
from relume.nearest import did_you_mean


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """A way to make inputs and to measure results.

    Attributes:
        name: Its name on the command line.
        about: One line, with the source.
        parameter: What is swept: `sigma`, `quality` and `scale` can be given to systems; empty for none.
        levels: Published values of it, the default.
        highest: The highest value of it.
        steps: The degradation at a level; None where the degraded images come with the set.
        unclipped: Whether the input is left in float.
        luma: Whether colour images are measured on the luma.
        border: Pixels at each side that are not measured; the level itself for None.
    """

    name: str
    about: str
    parameter: str = ""
    levels: tuple[float, ...] = ()
    highest: float = 255
    steps: Callable[[float], tuple[Step, ...]] | None = None
    unclipped: bool = False
    luma: bool = False
    border: int | None = 0

    def border_at(self, level: float | None) -> int:
        """Pixels at each side that are not measured at a level."""
        if self.border is None:
            assert level is not None
            return round(level)
        return self.border

    def size_at(self, level: float | None, height: int, width: int) -> tuple[int, int]:
        """Height and width of what is left of an image: for super-resolution multiples of the scale, else all."""
        if self.parameter != "scale":
            return height, width
        assert level is not None
        return int(height // level * level), int(width // level * level)

    def check_pairs(self, paired: bool, *, where: str) -> None:
        """Refuses clean images alone where the degraded ones come with the set.

        Args:
            paired: Whether there are degraded images.
            where: The set or image, for the error.

        Raises:
            ConfigError: There are none, and the protocol makes none.
        """
        if self.steps is None and not paired:
            raise ConfigError(
                "The set has no degraded images",
                where=f"protocol {self.name}, {where}",
                next_step="choose a protocol that makes them, such as awgn-clipped, or name a folder of pairs",
            )


def _correlated(sigma: float) -> tuple[Step, ...]:
    return (CorrelatedNoise(sigma=(sigma, sigma), width=(1.0, 1.0), clipped=1),)


def _mixture(sigma: float) -> tuple[Step, ...]:
    return (
        SpeckleNoise(variance=(0.024, 0.024), clipped=0),
        GaussianNoise(sigma=(sigma, sigma), clipped=0),
        SaltAndPepper(density=(0.002, 0.002), clipped=1),
    )


def _rain(streaks: float) -> tuple[Step, ...]:
    density = streaks / 1000
    return (Rain(density=(density, density), length=(10, 40), angle=(-30, 30), width=(0.4, 1)),)


def _noise_in_jpeg(quality: int) -> Protocol:
    def steps(sigma: float) -> tuple[Step, ...]:
        return GaussianNoise(sigma=(sigma, sigma), clipped=1), Jpeg(quality=(quality, quality))

    return Protocol(
        name=f"awgn-jpeg{quality}",
        about=f"Gaussian noise saved as JPEG of quality {quality}, which spreads it over its blocks",
        parameter="sigma",
        levels=(15, 25, 50),
        steps=steps,
    )


MASKED = "as masked image training is tested (arXiv 2303.13132)"
PROTOCOLS = {
    protocol.name: protocol
    for protocol in (
        Protocol(
            name="awgn",
            about="Gaussian noise, neither clipped nor rounded, as the published tables",
            parameter="sigma",
            levels=(15, 25, 50),
            steps=lambda sigma: (GaussianNoise(sigma=(sigma, sigma), clipped=0),),
            unclipped=True,
        ),
        Protocol(
            name="awgn-clipped",
            about="Gaussian noise as an 8-bit file holds it, the product's protocol",
            parameter="sigma",
            levels=(15, 25, 50),
            steps=lambda sigma: (GaussianNoise(sigma=(sigma, sigma), clipped=1),),
        ),
        _noise_in_jpeg(85),
        _noise_in_jpeg(95),
        Protocol(
            name="poisson",
            about=f"Poisson noise times a strength, {MASKED}",
            parameter="strength",
            levels=(2,),
            steps=lambda strength: (PoissonNoise(strength=(strength, strength), clipped=1),),
            luma=True,
            border=1,
        ),
        Protocol(
            name="speckle",
            about=f"multiplicative uniform noise, {MASKED}",
            parameter="variance",
            levels=(0.024,),
            steps=lambda variance: (SpeckleNoise(variance=(variance, variance), clipped=1),),
            luma=True,
            border=1,
        ),
        Protocol(
            name="salt-and-pepper",
            about=f"values replaced by 0 or 1, {MASKED}",
            parameter="density",
            levels=(0.002,),
            steps=lambda density: (SaltAndPepper(density=(density, density), clipped=1),),
            luma=True,
            border=1,
        ),
        Protocol(
            name="rendering",
            about="Monte Carlo noise of few rays for each pixel, a tenth of which find the light (our model)",
            parameter="rays",
            levels=(64,),
            highest=65536,
            steps=lambda rays: (RenderingNoise(rays=(rays, rays), clipped=1),),  # type: ignore[arg-type]
            luma=True,
            border=1,
        ),
        Protocol(
            name="correlated",
            about="Gaussian noise that neighbours share (filter of 1 pixel; our parameters)",
            parameter="sigma",
            levels=(15, 25, 50),
            steps=_correlated,
            luma=True,
            border=1,
        ),
        Protocol(
            name="mixture",
            about="speckle 0.024, Gaussian noise, salt and pepper 0.002 (our mixture)",
            parameter="sigma",
            levels=(15, 25, 50),
            steps=_mixture,
            luma=True,
            border=1,
        ),
        Protocol(
            name="jpeg",
            about="libjpeg, gray for gray sets, 4:2:0 for colour",
            parameter="quality",
            levels=(10, 20, 30, 40),
            steps=lambda quality: (Jpeg(quality=(quality, quality)),),  # type: ignore[arg-type]  # pydantic checks
        ),
        Protocol(
            name="sr",
            about="MATLAB's bicubic down and, for networks that keep the size, bicubic up again",
            parameter="scale",
            levels=(2, 3, 4),
            steps=lambda scale: (Bicubic(scale=(scale, scale)),),
            luma=True,
            border=None,
        ),
        Protocol(
            name="developed",
            about="noise of developed photographs, saved as JPEG of quality 95 (our parameters)",
            parameter="sigma",
            levels=(5, 10, 20),
            steps=lambda sigma: (DevelopedNoise(sigma=(sigma, sigma), clipped=0), Jpeg(quality=(95, 95))),
        ),
        Protocol(
            name="camera",
            about="noise of a sensor through its development (our parameters)",
            parameter="electrons",
            levels=(500, 2000),
            highest=100_000,
            steps=lambda electrons: (CameraNoise(electrons=(electrons, electrons), read_noise=(3, 3), clipped=1),),
        ),
        Protocol(
            name="rain",
            about="streaks of rain drawn onto the image, so many on a thousand pixels (our parameters)",
            parameter="streaks",
            levels=(4,),
            steps=_rain,
            luma=True,
        ),
        Protocol(
            name="haze",
            about="haze over a smooth random depth (our parameters)",
            parameter="beta",
            levels=(1,),
            steps=lambda beta: (Haze(beta=(beta, beta), airlight=(0.7, 1)),),
        ),
        Protocol(
            name="motion-blur",
            about="blur along a random path (our parameters)",
            parameter="length",
            levels=(12,),
            steps=lambda length: (MotionBlur(size=21, length=(length, length)),),
        ),
        Protocol(name="paired", about="the degraded images of the set itself"),
    )
}


def parse_protocol(text: str) -> tuple[Protocol, tuple[float | None, ...]]:
    """Reads `NAME` or `NAME:LEVEL,LEVEL,...`, such as `awgn:15,25,50`.

    Returns:
        The protocol and its levels, those given or else its own; (None,) for one without.

    Raises:
        ConfigError: There is no such protocol or level.
    """
    name, colon, rest = text.partition(":")
    if name not in PROTOCOLS:
        raise ConfigError(
            "The protocol is unknown",
            where=name,
            why=did_you_mean(name, PROTOCOLS),
            next_step=f"choose one of: {', '.join(PROTOCOLS)}",
        )
    protocol = PROTOCOLS[name]
    if not colon:
        return protocol, protocol.levels or (None,)
    if not protocol.parameter:
        raise ConfigError("The protocol has no levels", where=text, next_step=f"write {name}")
    levels = parse_levels(rest, where=f"protocol {name}", highest=protocol.highest)
    for level in levels:
        _steps_at(protocol, level)
    return protocol, levels


def parse_levels(text: str, *, where: str, highest: float = 255) -> tuple[float, ...]:
    """Reads numbers between commas, each once; what a system can be given is not outside of 0 to 255.

    Raises:
        ConfigError: The text is not such a list.
    """
    try:
        levels = tuple(dict.fromkeys(float(part) for part in text.split(",")))
    except ValueError:
        levels = ()
    if not levels or not all(0 <= level <= highest for level in levels):  # false for nan, too
        raise ConfigError(
            "The text is not a list of levels",
            where=f"{where} {text}",
            next_step=f"write numbers from 0 to {highest:g} between commas, such as 15,25,50",
        )
    return levels


def make_input(protocol: Protocol, level: float | None, example: Example, *, seed: int) -> tuple[np.ndarray, Example]:
    """Degrades an image.

    Args:
        protocol: How.
        level: Of its parameter; None for a protocol without.
        example: The image. For super-resolution it is cut to a multiple of the scale first.
        seed: Of the noise.

    Returns:
        The input, float32 (H, W, C) in [0, 1], or around it when unclipped; and the example as it is measured.

    Raises:
        ConfigError: The protocol needs pairs and the set has none, or the level is none of the protocol's.
    """
    protocol.check_pairs(example.degraded is not None, where=f"image {example.image_id}")
    if protocol.steps is None:
        assert example.degraded is not None
        return example.degraded.astype(np.float32) / np.float32(255), example
    assert level is not None
    height, width = protocol.size_at(level, *example.clean.shape[:2])
    clean = example.clean[:height, :width]
    planes = clean.transpose(2, 0, 1).astype(np.float32) / np.float32(255)
    rng = counter_rng(seed, "evaluation", zlib.crc32(example.image_id.encode()))
    image = degrade(planes, Degradation(steps=_steps_at(protocol, level)), rng).image
    image = image if protocol.unclipped else as_8_bits(image)
    measured = Example(image_id=example.image_id, clean=clean, degraded=None)
    return np.ascontiguousarray(image.transpose(1, 2, 0)), measured


def shrunk(clean: np.ndarray, scale: int) -> np.ndarray:
    """What a network that enlarges is given in place of the enlarged input of super-resolution.

    Args:
        clean: uint8 (H, W, C), of sides that are multiples of the scale.
        scale: How much smaller.

    Returns:
        float32 (H / scale, W / scale, C) in [0, 1], as an 8-bit file holds it.
    """
    planes = clean.transpose(2, 0, 1).astype(np.float32) / np.float32(255)
    image = degrade(planes, Degradation(steps=(Shrink(scale=scale),)), counter_rng(0, "evaluation")).image  # type: ignore[arg-type]  # pydantic checks
    return np.ascontiguousarray(image.transpose(1, 2, 0))


def _steps_at(protocol: Protocol, level: float) -> tuple[Step, ...]:
    assert protocol.steps is not None
    try:
        return protocol.steps(level)
    except ValidationError as error:
        raise ConfigError(
            "The protocol does not have this level",
            where=f"{protocol.name}, {protocol.parameter} {level:g}",
            why=error.errors()[0]["msg"],
            next_step=f"the published levels are {', '.join(f'{value:g}' for value in protocol.levels)}",
        ) from None
