"""Measuring systems on one set under one protocol at one level."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from relume import metrics
from relume.errors import ConfigError
from relume.evaluation.benchmark.protocols import Protocol, make_input, shrunk
from relume.evaluation.benchmark.sets import ImageSet
from relume.evaluation.benchmark.systems import System
from relume.serving.levels import KINDS

INPUT = "input"


@dataclass(frozen=True, kw_only=True)
class Row:
    """One result on one image.

    Attributes:
        set: Name of the set.
        protocol: Name of the protocol.
        level: Of the protocol's parameter; None for one without.
        system: Name of the system; `input` for the degraded image itself.
        asked: The level that the system was given; None for a system that takes none.
        image: Name of the image.
        psnr: In dB over all values of the 8-bit result inside the border; 120 for equal images. The input of an
            unclipped protocol is measured as it is.
        ssim: Mean over the channels of the 8-bit result.
        psnr_y: On the luma (BT.601, 16 to 235); on gray images the same as `psnr`.
        ssim_y: On the luma.
    """

    set: str
    protocol: str
    level: float | None
    system: str
    asked: float | None
    image: str
    psnr: float
    ssim: float
    psnr_y: float
    ssim_y: float


@dataclass(frozen=True, kw_only=True)
class Measured:
    """All results on one image.

    Attributes:
        rows: The input's first.
        clean: uint8 (H, W, C).
        results: The 8-bit results in the order of `rows`.
    """

    rows: list[Row]
    clean: np.ndarray
    results: list[np.ndarray]


@dataclass(frozen=True, kw_only=True)
class Asking:
    """Which level an adjustable system is given.

    Attributes:
        levels: Each of these, whatever the true one is: a level sweep. Empty for one level an image.
        estimate: Estimates the sigma of an image; None to give the true level, or a model's default where the
            protocol has no level of the model's kind.
    """

    levels: tuple[float, ...] = ()
    estimate: Callable[[np.ndarray], float] | None = None

    def source(self, system: System, protocol: Protocol) -> Literal["none", "asked", "estimate", "true", "default"]:
        """Where the level that a system is given under a protocol comes from.

        Raises:
            ConfigError: No level is given, or an asked level is not one of the system's kind.
        """
        if not system.level:
            return "none"
        if self.levels:
            bounds = KINDS[system.level]
            for asked in self.levels:
                if not bounds.lowest <= asked <= bounds.highest:
                    raise ConfigError(
                        "The level is out of the range of the system",
                        where=f"{system.name}, {system.level} {asked:g}",
                        next_step=f"give --ask levels from {bounds.lowest:g} to {bounds.highest:g}",
                    )
            return "asked"
        if self.estimate and system.level == "sigma":
            return "estimate"
        if protocol.parameter == system.level:
            return "true"
        if system.trained:
            return "default"
        raise ConfigError(
            "The level to restore at is not given",
            where=f"{system.name} under {protocol.name}",
            why=f"it takes a {system.level}, which the protocol does not have",
            next_step="give levels with --ask, such as --ask 25, or an --estimator",
        )

    def of(self, system: System, protocol: Protocol, level: float | None, image: np.ndarray) -> list[float | None]:
        """The levels that a system is given for one image.

        Raises:
            ConfigError: See `source`.
        """
        source, trained = self.source(system, protocol), system.trained
        if source == "asked":
            return list(self.levels)
        if source == "estimate":
            assert self.estimate is not None
            estimated = self.estimate(image)
            return [trained.nearest(estimated) if trained else estimated]
        if source == "default":
            assert trained is not None
            return [trained.default]
        return [level if source == "true" else None]


def measure(
    image_set: ImageSet,
    protocol: Protocol,
    level: float | None,
    systems: Sequence[System],
    *,
    asking: Asking,
    seed: int,
    limit: int | None = None,
) -> Iterator[Measured]:
    """Runs all systems on the same inputs.

    Args:
        image_set: An opened set.
        protocol: How the inputs are made.
        level: Of the protocol's parameter; None for one without.
        systems: The systems.
        asking: Which level adjustable systems are given.
        seed: Of the noise.
        limit: Only the first so many images.

    Yields:
        The results on one image after the other.

    Raises:
        ConfigError: A system cannot run on the set, or the image is too small to be measured.
    """
    for example in image_set.examples(limit):
        check_size(protocol, level, *example.clean.shape[:2], where=example.image_id)
        given, example = make_input(protocol, level, example, seed=seed)
        results: list[tuple[str, float | None, np.ndarray]] = [(INPUT, None, given)]
        for system in systems:
            for asked in asking.of(system, protocol, level, given):
                image = given if system.scale == 1 else shrunk(example.clean, system.scale)
                results.append((system.name, asked, system.restore(image, asked)))
        border = protocol.border_at(level)
        rows = []
        for name, asked, result in results:
            unrounded = name == INPUT and protocol.unclipped
            colour, luma = (
                metrics.measure(result, example.clean, border=border, unrounded=unrounded, on_luma=on_luma)
                for on_luma in (False, True)
            )
            values = {"psnr": colour.psnr, "ssim": colour.ssim, "psnr_y": luma.psnr, "ssim_y": luma.ssim}
            where = {"set": image_set.name, "protocol": protocol.name, "level": level, "image": example.image_id}
            rows.append(Row(system=name, asked=asked, **where, **values))  # type: ignore[arg-type]
        yield Measured(rows=rows, clean=example.clean, results=[metrics.to_8_bit(result) for _, _, result in results])


def check_size(protocol: Protocol, level: float | None, height: int, width: int, *, where: object) -> None:
    """Refuses an image that is too small to be measured.

    Args:
        protocol: How the inputs are made.
        level: Of the protocol's parameter; None for one without.
        height: Of the image in pixels.
        width: Of the image in pixels.
        where: Its name, for the error.

    Raises:
        ConfigError: Inside the border there is no room for a window of SSIM.
    """
    border = protocol.border_at(level)
    if min(protocol.size_at(level, height, width)) - 2 * border < metrics.SSIM_WINDOW:
        raise ConfigError(
            "The image is too small to be measured",
            where=where,
            why=f"SSIM needs {metrics.SSIM_WINDOW} pixels a side inside a border of {border}",
            next_step="leave it out of the set",
        )


def check_fit(
    runs: Iterable[tuple[ImageSet, Protocol, float | None]],
    systems: Sequence[System],
    *,
    asking: Asking,
    limit: int | None = None,
) -> None:
    """Refuses what cannot be measured together; decodes no image, before hours are spent.

    Args:
        runs: Each set, protocol and level.
        systems: The systems.
        asking: Which level adjustable systems are given.
        limit: Only the first so many images of each set.

    Raises:
        ConfigError: A system, set and protocol do not fit each other, or an image is too small.
        ImageError: An image's header cannot be read.
        SourceError: An image of a pair is missing, differs in size, or is not the only one of its name.
    """
    sizes: dict[ImageSet, list[tuple[Path, int, int]]] = {}
    for image_set, protocol, level in runs:
        protocol.check_pairs(image_set.pairs is not None, where=f"set {image_set.name}")
        for system in systems:
            system.check_channels(1 if image_set.gray else 3)
            system.check_scale(protocol.parameter, level)
            asking.source(system, protocol)
        if image_set not in sizes:
            sizes[image_set] = image_set.sizes(limit)
        for path, height, width in sizes[image_set]:
            check_size(protocol, level, height, width, where=path)


def measured_on_luma(image_set: ImageSet, protocol: Protocol) -> bool:
    """Whether a set under a protocol is measured on the luma, as in publications."""
    return protocol.luma or (image_set.luma and protocol.steps is None)
