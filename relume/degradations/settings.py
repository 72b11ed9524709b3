"""What a training learns to undo: the steps of a degradation, and the level that an adjustable network is given."""

from typing import Annotated, Literal, Self

from pydantic import Field, ValidationError, model_validator

from relume.degradations.steps import (
    BaseStep,
    Bicubic,
    GaussianBlur,
    GaussianNoise,
    Jpeg,
    OneOf,
    Shrink,
    Shuffled,
    Step,
    describe_steps,
)
from relume.errors import ConfigError
from relume.settings import Settings

LEVEL_STEP: dict[str, type[BaseStep]] = {"sigma": GaussianNoise, "quality": Jpeg, "scale": Bicubic}
CONDITION_STEP: dict[str, type[BaseStep]] = {"blur": GaussianBlur, "sigma": GaussianNoise, "jpeg": Jpeg}


class Degradation(Settings):
    """Steps in their order.

    Attributes:
        steps: At least one.
        level: The drawn number that an adjustable network is given: `sigma` of the gaussian_noise, `quality` of the
            jpeg or `scale` of the bicubic step, of which there must then be exactly one, not inside another step
            and without a probability.
        conditions: What a network of several degradations is given in place of the level alone, in its order: `blur`
            (ten times the standard deviation of a gaussian_blur), `sigma` and `jpeg` (100 minus the quality), each 0
            where its step is skipped. With `level: sigma`, the one that a served model is given.
    """

    steps: Annotated[tuple[Step, ...], Field(min_length=1)]
    level: Literal["sigma", "quality", "scale"] | None = None
    conditions: tuple[Literal["blur", "sigma", "jpeg"], ...] = ()

    @model_validator(mode="after")
    def _one_step_has_the_level(self) -> Self:
        if self.level:
            wanted = LEVEL_STEP[self.level]
            found = [step for step in self.steps if isinstance(step, wanted)]
            if len(found) != 1 or found[0].probability != 1:
                raise ValueError(f"level {self.level} needs exactly one {wanted.title} step, of probability 1")
        return self

    @model_validator(mode="after")
    def _one_step_has_each_condition(self) -> Self:
        if self.conditions and self.level != "sigma":
            raise ValueError("conditions need level sigma")
        if len(set(self.conditions)) != len(self.conditions) or (self.conditions and "sigma" not in self.conditions):
            raise ValueError("conditions name sigma and other degradations once each")
        for name in self.conditions:
            found = [step for step in self.steps if isinstance(step, CONDITION_STEP[name])]
            if len(found) != 1 or getattr(found[0], "sigma_y", None):
                kind = "gaussian_blur step without sigma_y" if name == "blur" else f"{CONDITION_STEP[name].title} step"
                raise ValueError(f"condition {name} needs exactly one {kind}")
        return self

    @model_validator(mode="after")
    def _shrinks_always_or_never(self) -> Self:
        shrinking = [step for step in self.steps if isinstance(step, Shrink)]
        inside = any(_shrinks_inside(step) for step in self.steps)
        if inside or len(shrinking) > 1 or any(step.probability != 1 for step in shrinking):
            raise ValueError("all images become equally small: at most one shrink step, of probability 1, in no other")
        return self

    @property
    def scale(self) -> int:
        """How much smaller the degraded image is, and a network has to enlarge it."""
        return next((step.scale for step in self.steps if isinstance(step, Shrink)), 1)

    @property
    def levels(self) -> tuple[float, float] | None:
        """Lowest and highest level that is drawn; None without `level`."""
        if self.level is None:
            return None
        (step,) = (step for step in self.steps if isinstance(step, LEVEL_STEP[self.level]))
        low, high = getattr(step, self.level)
        return low, high

    def at(self, level: float) -> "Degradation":
        """The same with a fixed level, which may be outside the range that is drawn from.

        Raises:
            ConfigError: There is no `level`, or none of this value.
        """
        if self.level is None:
            raise ConfigError(
                "The degradation has no level",
                where=self.describe(),
                next_step="set degradation.level to sigma, quality or scale",
            )
        wanted, fixed = LEVEL_STEP[self.level], {self.level: (level, level)}
        try:
            steps = [
                type(step).model_validate(dict(step) | fixed) if isinstance(step, wanted) else step
                for step in self.steps
            ]
        except ValidationError as error:
            raise ConfigError(
                "The degradation cannot have this level",
                where=f"{self.level} {level:g}",
                why=error.errors()[0]["msg"],
                next_step="choose a level in the range of the degradation",
            ) from None
        return Degradation(steps=tuple(steps), level=self.level, conditions=self.conditions)

    def describe(self) -> str:
        """One line for model cards, such as "Gaussian noise, sigma 0 to 55"."""
        return describe_steps(self.steps)

    def __str__(self) -> str:
        return self.describe()


def _shrinks_inside(step: Step) -> bool:
    if isinstance(step, OneOf):
        inner = [each for steps in step.of for each in steps]
    elif isinstance(step, Shuffled):
        inner = list(step.of)
    else:
        return False
    return any(isinstance(each, Shrink) or _shrinks_inside(each) for each in inner)
