"""Measuring systems on one set under one protocol at one level."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from relume import metrics
from relume.errors import ConfigError
from relume.evaluation.benchmark.protocols import Protocol, make_input
from relume.evaluation.benchmark.sets import PictureSet
from relume.evaluation.benchmark.systems import System
from relume.serving.levels import KINDS

INPUT = "input"


@dataclass(frozen=True, kw_only=True)
class Row:
    """One result on one picture.

    Attributes:
        set: Name of the set.
        protocol: Name of the protocol.
        level: Of the protocol's parameter; None for one without.
        system: Name of the system; `input` for the degraded picture itself.
        asked: The level that the system was given; None for a system that takes none.
        image: Name of the picture.
        psnr: In dB over all values of the 8-bit result inside the border; 120 for equal pictures. The input of an
            unclipped protocol is measured as it is.
        ssim: Mean over the channels of the 8-bit result.
        psnr_y: On the luma (BT.601, 16 to 235); on gray pictures the same as `psnr`.
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
    """All results on one picture.

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
        levels: Each of these, whatever the true one is: a level sweep. Empty for one level a picture.
        estimate: Estimates the sigma of a picture; None to tell the true level, or a model's default where the
            protocol has no level of the model's kind.
    """

    levels: tuple[float, ...] = ()
    estimate: Callable[[np.ndarray], float] | None = None

    def source(self, system: System, protocol: Protocol) -> Literal["none", "asked", "estimate", "true", "default"]:
        """What says which level a system is given under a protocol.

        Raises:
            ConfigError: Nothing does, or an asked level is none of the system's kind.
        """
        if not system.level:
            return "none"
        if self.levels:
            bounds = KINDS[system.level]
            for asked in self.levels:
                if not bounds.lowest <= asked <= bounds.highest:
                    raise ConfigError(
                        "Not a level of the system",
                        where=f"{system.name} asked for {system.level} {asked:g}",
                        next_step=f"ask for {bounds.lowest:g} to {bounds.highest:g}",
                    )
            return "asked"
        if self.estimate and system.level == "sigma":
            return "estimate"
        if protocol.parameter == system.level:
            return "true"
        if system.trained:
            return "default"
        raise ConfigError(
            "Nothing says which level to restore at",
            where=f"{system.name} under {protocol.name}",
            why=f"it takes a {system.level}, which the protocol does not have",
            next_step="name levels by --ask, such as --ask 25, or an --estimator",
        )

    def of(self, system: System, protocol: Protocol, level: float | None, picture: np.ndarray) -> list[float | None]:
        """The levels that a system is given for one picture.

        Raises:
            ConfigError: See `source`.
        """
        source, trained = self.source(system, protocol), system.trained
        if source == "asked":
            return list(self.levels)
        if source == "estimate":
            assert self.estimate is not None
            estimated = self.estimate(picture)
            return [float(np.clip(estimated, trained.lowest, trained.highest)) if trained else estimated]
        if source == "default":
            assert trained is not None
            return [trained.default]
        return [level if source == "true" else None]


def measure(
    pictures: PictureSet,
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
        pictures: An opened set.
        protocol: How the inputs are made.
        level: Of the protocol's parameter; None for one without.
        systems: The systems.
        asking: Which level adjustable systems are given.
        seed: Of the noise.
        limit: Only the first so many pictures.

    Yields:
        The results on one picture after the other.

    Raises:
        ConfigError: A system cannot run on the set, or the picture is too small to be measured.
    """
    for example in pictures.examples(limit):
        check_size(protocol, level, *example.clean.shape[:2], where=example.image_id)
        given, example = make_input(protocol, level, example, seed=seed)
        results: list[tuple[str, float | None, np.ndarray]] = [(INPUT, None, given)]
        for system in systems:
            for asked in asking.of(system, protocol, level, given):
                results.append((system.name, asked, system.restore(given, asked)))
        border = protocol.border_at(level)
        rows = []
        for name, asked, result in results:
            unrounded = name == INPUT and protocol.unclipped
            colour, luma = (
                metrics.measure(result, example.clean, border=border, unrounded=unrounded, on_luma=on_luma)
                for on_luma in (False, True)
            )
            values = {"psnr": colour.psnr, "ssim": colour.ssim, "psnr_y": luma.psnr, "ssim_y": luma.ssim}
            where = {"set": pictures.name, "protocol": protocol.name, "level": level, "image": example.image_id}
            rows.append(Row(system=name, asked=asked, **where, **values))  # type: ignore[arg-type]
        yield Measured(rows=rows, clean=example.clean, results=[metrics.to_8_bit(result) for _, _, result in results])


def check_size(protocol: Protocol, level: float | None, height: int, width: int, *, where: object) -> None:
    """Refuses a picture that is too small to be measured.

    Args:
        protocol: How the inputs are made.
        level: Of the protocol's parameter; None for one without.
        height: Of the picture in pixels.
        width: Of the picture in pixels.
        where: Its name, for the error.

    Raises:
        ConfigError: Inside the border there is no room for a window of SSIM.
    """
    border = protocol.border_at(level)
    if min(protocol.size_at(level, height, width)) - 2 * border < metrics.SSIM_WINDOW:
        raise ConfigError(
            "The picture is too small to be measured",
            where=where,
            why=f"SSIM needs {metrics.SSIM_WINDOW} pixels a side inside a border of {border}",
            next_step="leave it out of the set",
        )


def check_fit(
    runs: Iterable[tuple[PictureSet, Protocol, float | None]],
    systems: Sequence[System],
    *,
    asking: Asking,
    limit: int | None = None,
) -> None:
    """Refuses what cannot be measured together; decodes no picture, before hours are spent.

    Args:
        runs: Each set, protocol and level.
        systems: The systems.
        asking: Which level adjustable systems are given.
        limit: Only the first so many pictures of each set.

    Raises:
        ConfigError: A system, set and protocol do not fit each other, or a picture is too small.
        ImageError: A picture's header cannot be read.
        SourceError: A picture of a pair is missing, differs in size, or is not the only one of its name.
    """
    sizes: dict[PictureSet, list[tuple[Path, int, int]]] = {}
    for pictures, protocol, level in runs:
        protocol.check_pairs(pictures.pairs is not None, where=f"set {pictures.name}")
        for system in systems:
            system.check_channels(1 if pictures.gray else 3)
            asking.source(system, protocol)
        if pictures not in sizes:
            sizes[pictures] = pictures.sizes(limit)
        for path, height, width in sizes[pictures]:
            check_size(protocol, level, height, width, where=path)


def measured_on_luma(pictures: PictureSet, protocol: Protocol) -> bool:
    """Whether the published figure of a set under a protocol is that of the luma."""
    return protocol.luma or (pictures.luma and protocol.steps is None)
