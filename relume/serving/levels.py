"""The level of an adjustable model: which kind of number it is, what the model was trained for, and how to speak of it.

Everything that takes, checks or reports a level asks here. The name of a kind is that of the field of the degradation
step that draws it, see `LEVEL_STEP` in `relume.degradations.settings`. This module imports neither torch nor numpy.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from relume.errors import ConfigError, ModelFormatError


@dataclass(frozen=True, kw_only=True)
class LevelKind:
    """A kind of level.

    Attributes:
        lowest: The lowest number that is a level of this kind.
        highest: The highest.
        meaning: What the number says, a noun phrase.
    """

    lowest: float
    highest: float
    meaning: str


KINDS = {
    "sigma": LevelKind(lowest=0, highest=255, meaning="the standard deviation of the noise on the 8-bit scale"),
    "quality": LevelKind(lowest=1, highest=100, meaning="the quality of the JPEG compression"),
    "scale": LevelKind(lowest=1, highest=16, meaning="the factor by which the image was enlarged"),
}


def kind_of(trained_for: Mapping[str, Any]) -> str:
    """The kind of an adjustable model's level, a key of `KINDS`; `sigma` where its card does not say.

    Args:
        trained_for: Of the model's card.

    Raises:
        ModelFormatError: The card says something else.
    """
    kind = (trained_for.get("degradation") or {}).get("level") or "sigma"
    if kind not in tuple(KINDS):
        raise ModelFormatError(
            "The kind of level is unknown",
            where=f"trained_for.degradation.level {kind!r}",
            next_step=f"write one of {', '.join(KINDS)} into model.json",
        )
    return kind


@dataclass(frozen=True, kw_only=True)
class LevelRange:
    """The levels of an adjustable model.

    Attributes:
        kind: A key of `KINDS`.
        lowest: Lowest level that it was trained for, within the kind's bounds.
        highest: Highest level that it was trained for, within the kind's bounds.
        default: What an image is restored at by default; from `lowest` to `highest`.

    Raises:
        ConfigError: The kind is unknown, or the levels are not in this order or not within the kind's bounds.
    """

    kind: str
    lowest: float
    highest: float
    default: float

    def __post_init__(self) -> None:
        if self.kind not in tuple(KINDS):
            raise ConfigError(
                "The kind of level is unknown", where=repr(self.kind), next_step=f"name one of {', '.join(KINDS)}"
            )
        bounds = KINDS[self.kind]
        if not bounds.lowest <= self.lowest <= self.default <= self.highest <= bounds.highest:
            raise ConfigError(
                "The levels of an adjustable model are not valid",
                where=f"{self.kind} {self.lowest} to {self.highest}, by default {self.default}",
                next_step=f"give {bounds.lowest} <= lowest <= default <= highest <= {bounds.highest}",
            )

    @property
    def points(self) -> tuple[float, float, float]:
        """The lowest, the highest and the default level, at which a proof is made."""
        return self.lowest, self.highest, self.default

    def choose(self, asked: float | None) -> float:
        """The level that an image is restored at.

        Args:
            asked: What the user wants, also outside of the trained range; None for the default.

        Raises:
            ConfigError: `asked` is not within the kind's bounds.
        """
        if asked is None:
            return self.default
        bounds = KINDS[self.kind]
        if not bounds.lowest <= asked <= bounds.highest:
            raise ConfigError(
                f"The level is out of the range of kind {self.kind}",
                where=f"{asked:g}",
                why=f"{self.kind} is {bounds.meaning}, from {bounds.lowest:g} to {bounds.highest:g}",
                next_step=f"choose one; the model was trained for {self.kind} {self.lowest:g} to {self.highest:g}",
            )
        return float(asked)

    def nearest(self, estimated: float) -> float:
        """The level for an estimate: within what the model was trained for, with one decimal, as it is reported."""
        return round(min(max(estimated, self.lowest), self.highest), 1)

    def note(self, level: float) -> str | None:
        """What the user should know of a level: that the model was not trained for it; else None."""
        if self.lowest <= level <= self.highest:
            return None
        return (
            f"{self.kind} {level:g} is outside of {self.lowest:g} to {self.highest:g}, which the model was trained for;"
            " the further outside, the less reliable the result"
        )


def choose_level(asked: float | None, levels: LevelRange | None, *, model: object) -> float | None:
    """The level that an image is restored at by any model.

    Args:
        asked: What the user wants; None for the model's default.
        levels: Those of the model; None for a model that takes no level.
        model: Its name, for the error.

    Returns:
        The level; None for a model that takes none.

    Raises:
        ConfigError: The model takes no level, or `asked` is no level of its kind.
    """
    if levels is not None:
        return levels.choose(asked)
    if asked is not None:
        raise ConfigError(
            "The model takes no level",
            where=model,
            why="it is not adjustable: it restores as it was trained",
            next_step="leave the level out, or release an adjustable model",
        )
    return None


def level_for(levels: LevelRange | None, kind: str, value: float) -> float | None:
    """The level at which a model restores a degradation whose true level is known, as in a measurement.

    Args:
        levels: Those of the model; None for a model that takes no level.
        kind: Of the degradation's level.
        value: The degradation's level.

    Returns:
        The true level where the model takes one of this kind, else the model's default; None for a model that takes
        none.
    """
    if levels is None:
        return None
    return value if levels.kind == kind else levels.default
