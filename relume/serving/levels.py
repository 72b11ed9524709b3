"""The level of an adjustable served model: what it was trained for, and which one a picture is restored at.

A level is one number for each picture in the units of the model's card: for denoising the standard deviation of the
noise on the 8-bit scale, [0, 255]. Users know it as the strength.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from relume.errors import ConfigError, ModelFormatError

LEVEL_KINDS = {"sigma": (0, 255), "quality": (1, 100), "scale": (1, 16)}
"""What a level can mean, with the lowest and highest value: deviation of the noise, JPEG quality, enlargement."""


def level_kind(trained_for: Mapping[str, Any]) -> str:
    """What the level of an adjustable model means, a key of `LEVEL_KINDS`; `sigma` where its card does not say.

    Args:
        trained_for: Of the model's card.

    Raises:
        ModelFormatError: The card says something else.
    """
    kind = (trained_for.get("degradation") or {}).get("level") or "sigma"
    if kind not in tuple(LEVEL_KINDS):
        raise ModelFormatError(
            "Not what a level can mean",
            where=f"trained_for.degradation.level {kind!r}",
            next_step=f"write one of {', '.join(LEVEL_KINDS)} into model.json",
        )
    return kind


@dataclass(frozen=True, kw_only=True)
class LevelRange:
    """The levels of an adjustable model.

    Attributes:
        lowest: Lowest level that it was trained for, in [0, 255].
        highest: Highest level that it was trained for, in [0, 255].
        default: What a picture is restored at when nobody says; from `lowest` to `highest`.

    Raises:
        ConfigError: They are not in this order, or outside of [0, 255].
    """

    lowest: float
    highest: float
    default: float

    def __post_init__(self) -> None:
        if not 0 <= self.lowest <= self.default <= self.highest <= 255:
            raise ConfigError(
                "Not the levels of an adjustable model",
                where=f"{self.lowest} to {self.highest}, by default {self.default}",
                next_step="give 0 <= lowest <= default <= highest <= 255",
            )

    def note(self, level: float) -> str | None:
        """What the user should know of a level: that the model was not trained for it; else None."""
        if self.lowest <= level <= self.highest:
            return None
        return (
            f"strength {level:g} is outside of {self.lowest:g} to {self.highest:g}, which the model was trained for;"
            " the result gets unsure with the distance"
        )


def choose_level(asked: float | None, levels: LevelRange | None, *, model: object) -> float | None:
    """The level that a picture is restored at.

    Args:
        asked: What the user wants, in [0, 255]; None for the model's default.
        levels: Those of the model; None for a model that takes no level.
        model: Its name, for the error.

    Returns:
        The level; None for a model that takes none.

    Raises:
        ConfigError: The model takes no level, or `asked` is no level.
    """
    if levels is None:
        if asked is not None:
            raise ConfigError(
                "The model takes no strength",
                where=model,
                why="it is not adjustable: it has one strength, that of its training",
                next_step="leave the strength out, or release an adjustable model",
            )
        return None
    if asked is None:
        return levels.default
    if not 0 <= asked <= 255:
        raise ConfigError(
            "Not a strength",
            where=f"{asked:g}",
            why="it is the standard deviation of the noise on the 8-bit scale, from 0 to 255",
            next_step=f"the model was trained for {levels.lowest:g} to {levels.highest:g}",
        )
    return float(asked)
