"""What a training stage is told: its phases, its optimiser, its degradation."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Positive = Annotated[int, Field(gt=0)]


class Settings(BaseModel):
    """Base of the training settings: immutable, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Phase(Settings):
    """One part of a progressive schedule; the learning rate goes on across phases.

    Attributes:
        steps: Optimiser steps.
        patch: Side of the training crops in pixels.
        batch: Crops per step.
    """

    steps: Positive
    patch: Positive
    batch: Positive


class OptimizerSettings(Settings):
    """AdamW with a linear warm-up, then a cosine from `lr` to `min_lr` over all phases.

    Attributes:
        lr: Peak learning rate.
        min_lr: Learning rate of the last step.
        betas: Decay rates of AdamW's moments.
        weight_decay: Decoupled weight decay.
        warmup: Steps of linear warm-up.
        clip: Largest norm of the gradient.
        ema: Decay per step of the exponential moving average of the weights, which is what is kept.
    """

    lr: Annotated[float, Field(gt=0)]
    min_lr: Annotated[float, Field(ge=0)]
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    warmup: Annotated[int, Field(ge=0)] = 0
    clip: Annotated[float, Field(gt=0)] = 1.0
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.99


class Degradation(Settings):
    """Gaussian noise of a blind range, partly as 8-bit files hold it.

    Attributes:
        sigma: Lowest and highest standard deviation, [0, 255] scale; drawn uniformly for each crop.
        clipped_fraction: Fraction of the crops whose noise is clipped and rounded to 8 bits.
    """

    sigma: tuple[float, float]
    clipped_fraction: Annotated[float, Field(ge=0, le=1)] = 0.5

    @model_validator(mode="after")
    def _ordered(self) -> "Degradation":
        if not 0 <= self.sigma[0] <= self.sigma[1]:
            raise ValueError("sigma must be [low, high] with 0 <= low <= high")
        return self


class TrainingSettings(Settings):
    """What all training stages share.

    Attributes:
        seed: Of initial weights, order, crops and noise.
        threads: Of the CPU; changes the bits of a result, which is why it is a parameter.
        precision: Lightning Fabric's name of the precision.
        degradation: What the models learn to undo.
        checkpoint_seconds: Time between checkpoints.
        validations: How many times the validation photographs are restored during a stage.
    """

    seed: Annotated[int, Field(ge=0)]
    threads: Positive
    precision: Literal["32-true", "bf16-mixed", "16-mixed"]
    degradation: Degradation
    checkpoint_seconds: Annotated[float, Field(gt=0)]
    validations: Positive


class StageSettings(Settings):
    """What one training stage trains, and how long.

    Attributes:
        loss: A name of `relume.losses.LOSSES`.
        optimizer: See there.
        phases: The progressive schedule.
    """

    loss: Literal["l1", "charbonnier", "psnr"]
    optimizer: OptimizerSettings
    phases: Annotated[tuple[Phase, ...], Field(min_length=1)]

    @property
    def steps(self) -> int:
        """Optimiser steps of all phases together."""
        return sum(phase.steps for phase in self.phases)


class BaseModelSettings(StageSettings):
    """A base model: its architecture beside its training."""

    architecture: str
    arguments: dict[str, Any]
