"""Measuring systems on one set under one protocol at one level."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from relume.errors import ConfigError
from relume.evaluation.protocols import Protocol, make_input
from relume.evaluation.sets import PictureSet
from relume.evaluation.systems import System
from relume.metrics import luma, psnr, shaved, ssim, to_8_bit

EQUAL = 120.0  # dB, of equal pictures
INPUT = "input"


@dataclass(frozen=True, kw_only=True)
class Row:
    """One result on one picture.

    Attributes:
        set: Name of the set.
        protocol: Name of the protocol.
        level: Of the protocol's parameter; None for one without.
        system: Name of the system; `input` for the degraded picture itself.
        asked: The level that the system was told; None for a system that takes none.
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
    """Which level an adjustable system is told.

    Attributes:
        levels: Each of these, whatever the true one is: a level sweep. Empty for one level a picture.
        estimate: Estimates the sigma of a picture; None to tell the true level, or a model's default where the
            protocol has no level of the model's kind.
    """

    levels: tuple[float, ...] = ()
    estimate: Callable[[np.ndarray], float] | None = None

    def of(self, system: System, protocol: Protocol, level: float | None, picture: np.ndarray) -> list[float | None]:
        """The levels that a system is told for one picture.

        Raises:
            ConfigError: Nothing says which.
        """
        if not system.level:
            return [None]
        if self.levels:
            return list(self.levels)
        if self.estimate and system.level == "sigma":
            estimated = self.estimate(picture)
            trained = system.trained
            return [float(np.clip(estimated, trained.lowest, trained.highest)) if trained else estimated]
        if protocol.parameter == system.level:
            return [level]
        if system.trained:
            return [system.trained.default]
        raise ConfigError(
            "Nothing says which level to restore at",
            where=f"{system.name} under {protocol.name}",
            why=f"it takes a {system.level}, which the protocol does not have",
            next_step="name levels by --ask, such as --ask 25, or an --estimator",
        )


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
        asking: Which level adjustable systems are told.
        seed: Of the noise.
        limit: Only the first so many pictures.

    Yields:
        The results on one picture after the other.

    Raises:
        ConfigError: A system cannot run on the set, or the picture is too small to be measured.
    """
    for example in pictures.examples(limit):
        given, example = make_input(protocol, level, example, seed=seed)
        results: list[tuple[str, float | None, np.ndarray]] = [(INPUT, None, given)]
        for system in systems:
            for asked in asking.of(system, protocol, level, given):
                results.append((system.name, asked, system.restore(given, asked)))
        border = protocol.border_at(level)
        if min(example.clean.shape[:2]) - 2 * border < 11:
            raise ConfigError(
                "The picture is too small to be measured",
                where=example.image_id,
                why=f"SSIM needs 11 pixels a side inside a border of {border}",
                next_step="leave it out of the set",
            )
        rows = []
        for name, asked, result in results:
            unrounded = name == INPUT and protocol.unclipped
            values = _figures(result, example.clean, border=border, unrounded=unrounded)
            where = {"set": pictures.name, "protocol": protocol.name, "level": level, "image": example.image_id}
            rows.append(Row(system=name, asked=asked, **where, **values))  # type: ignore[arg-type]
        yield Measured(rows=rows, clean=example.clean, results=[to_8_bit(result) for _, _, result in results])


def _figures(result: np.ndarray, clean: np.ndarray, *, border: int, unrounded: bool) -> dict[str, float]:
    clean, rounded = shaved(clean, border), shaved(to_8_bit(result), border)
    values = shaved(result, border) * np.float32(255) if unrounded else rounded
    return {
        "psnr": min(EQUAL, psnr(values, clean)),
        "ssim": ssim(rounded, clean),
        "psnr_y": min(EQUAL, psnr(luma(values), luma(clean))),
        "ssim_y": ssim(luma(rounded), luma(clean)),
    }


def measured_on_luma(pictures: PictureSet, protocol: Protocol) -> bool:
    """Whether the published figure of a set under a protocol is that of the luma."""
    return protocol.luma or (pictures.luma and protocol.steps is None)
