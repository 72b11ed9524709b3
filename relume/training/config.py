"""The settings of a training stage: its phases, its optimiser, its degradation, and how it is spread over processes."""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from relume.degradations import Degradation
from relume.losses.settings import LossSettings
from relume.settings import Settings, Share
from relume.training.augmentation import Augmentation

Positive = Annotated[int, Field(gt=0)]
Decay = Annotated[float, Field(ge=0, lt=1)]
Reuse = tuple[Positive, Positive, Positive, Positive]  # how often the block of each level of a DyNet is applied


class Schedule(Settings):
    """The learning rate over a number of steps: a linear warm-up, then a shape.

    Attributes:
        lr: Peak learning rate.
        min_lr: Learning rate of the last step of a cosine.
        warmup: Steps of linear warm-up.
        shape: `cosine` from `lr` to `min_lr`; `restarts`, one such cosine for each of `periods`; `steps`, `lr` times
            `gamma` at each of the `milestones`; `constant`.
        milestones: Steps at which the rate falls, counted as the schedule's, warm-up included.
        gamma: Factor at each milestone.
        periods: Lengths in steps of the cosines after the warm-up; the last one runs to the end.
    """

    lr: Annotated[float, Field(gt=0)]
    min_lr: Annotated[float, Field(ge=0)] = 0.0
    warmup: Annotated[int, Field(ge=0)] = 0
    shape: Literal["cosine", "restarts", "steps", "constant"] = "cosine"
    milestones: tuple[Positive, ...] = ()
    gamma: Annotated[float, Field(gt=0, le=1)] = 0.5
    periods: tuple[Positive, ...] = ()

    @model_validator(mode="after")
    def _complete(self) -> "Schedule":
        if (self.shape == "steps") != bool(self.milestones):
            raise ValueError("milestones are needed with shape `steps`, and allowed with no other")
        if (self.shape == "restarts") != bool(self.periods):
            raise ValueError("periods are needed with shape `restarts`, and allowed with no other")
        if list(self.milestones) != sorted(self.milestones):
            raise ValueError("each milestone must be larger than the one before")
        return self


class OptimizerSettings(Schedule):
    """Adam or AdamW and its schedule over all phases that have none of their own.

    Attributes:
        kind: `adamw` decouples the weight decay, `adam` does not.
        betas: Decay rates of the moments.
        weight_decay: Of all trained parameters.
        clip: Largest norm of the gradient; None leaves it as it is.
        ema: Decay per step of the exponential moving average of the weights, which is what is kept.
    """

    kind: Literal["adamw", "adam"] = "adamw"
    betas: tuple[Decay, Decay] = (0.9, 0.999)
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    clip: Annotated[float, Field(gt=0)] | None = 1.0
    ema: Decay = 0.99


class ScoreBounds(Settings):
    """Between which values a score of the photograph is of which a phase takes patches.

    Attributes:
        score: A column of `data/curated/scores.parquet`, which `curate.keep` brings, such as `niqe`, `width` or
            `rank_niqe`, 1 for the best of the set.
        min: Lowest value; null for none.
        max: Highest value; null for none.
    """

    score: str
    min: float | None = None
    max: float | None = None

    @model_validator(mode="after")
    def _bounds(self) -> "ScoreBounds":
        if self.min is None and self.max is None:
            raise ValueError("min, max or both are needed")
        return self


class SetChoice(Settings):
    """What a phase takes of a set.

    Attributes:
        weight: Samples of this set, of so many as the weights of all sets of the phase sum to.
        select: Only so many patches, chosen by chance; by default all.
        min_sharpness: Patches below this variance of the Laplacian are left out.
        max_flat_fraction: Patches with a larger share of structureless area are left out.
        scores: Bounds of the scores of the photograph that a patch is of; all hold.
    """

    weight: Positive = 1
    select: Positive | None = None
    min_sharpness: Annotated[float, Field(ge=0)] = 0.0
    max_flat_fraction: Share = 1.0
    scores: tuple[ScoreBounds, ...] = ()


class Phase(Settings):
    """One part of a progressive schedule. What it does not say is as in the stage, and the stage's schedule continues.

    Attributes:
        steps: Optimiser steps.
        patch: Side of the training crops in pixels.
        batch: Crops per step, over all processes together.
        accumulate: Parts that the batch is run in, one after the other, to save memory.
        schedule: A learning rate of this phase alone, from its first to its last step.
        loss: Instead of the stage's.
        degradation: Instead of the training's.
        augmentation: Instead of the training's.
        train: fnmatch patterns of the parameters that move in this phase; by default all that are trainable.
        data: By the name of a set of the curated data its weight, such as `{div2k: 1, own: 4}`, or what of it is taken;
            by default every patch of all sets counts alike.
    """

    steps: Positive
    patch: Positive
    batch: Positive
    accumulate: Positive = 1
    schedule: Schedule | None = None
    loss: LossSettings | None = None
    degradation: Degradation | None = None
    augmentation: Augmentation | None = None
    train: tuple[str, ...] = ("*",)
    data: Annotated[dict[str, Positive | SetChoice], Field(min_length=1)] | None = None

    @property
    def choices(self) -> tuple[tuple[str, SetChoice], ...]:
        """The sets of `data` in the order of their names."""
        given = sorted((self.data or {}).items())
        return tuple((name, SetChoice(weight=each) if isinstance(each, int) else each) for name, each in given)

    @model_validator(mode="after")
    def _whole_parts(self) -> "Phase":
        if self.batch % self.accumulate:
            raise ValueError("batch must be a multiple of accumulate")
        return self


class ResolvedPhase(Phase):
    """A phase that leaves nothing to its stage or to the training but the schedule."""

    loss: LossSettings
    degradation: Degradation
    augmentation: Augmentation


class Plain(Settings):
    """One pass of the network for each batch; adjustable networks are given the level of each crop."""

    kind: Literal["plain"] = "plain"


class AlternateReuse(Settings):
    """Dynamic pre-training of DyNet: each step trains one of several networks that share their weights.

    Source: arXiv 2404.02154, which does not say how the choice is drawn; here it is even by default.

    Attributes:
        reuse: For each network, how often each level's block is applied.
        probabilities: Of the choice.
    """

    kind: Literal["alternate_reuse"]
    reuse: Annotated[tuple[Reuse, ...], Field(min_length=2)]
    probabilities: tuple[Annotated[float, Field(ge=0, le=1)], ...] = ()

    @model_validator(mode="after")
    def _sums_to_one(self) -> "AlternateReuse":
        if self.probabilities and (
            len(self.probabilities) != len(self.reuse) or abs(sum(self.probabilities) - 1) > 1e-9
        ):
            raise ValueError("probabilities must be one for each network and sum to 1")
        return self


class EveryLevel(Settings):
    """Hypernetwork training: each step runs the main networks of all levels, each on its own degradation of the crops.

    Source: arXiv 2206.05970, whose text sums the levels' losses; its code takes their mean.

    Attributes:
        levels: In the unit of the degradation's level, such as sigma on [0, 255].
        reduction: Of the levels' losses.
    """

    kind: Literal["every_level"]
    levels: Annotated[tuple[float, ...], Field(min_length=1)]
    reduction: Literal["sum", "mean"] = "sum"


class EstimateLevel(Settings):
    """Training of a level estimator: the loss is that of the level that it estimates of each crop.

    One that recognises classes learns them by their cross-entropy, and the stage's loss has no effect.
    """

    kind: Literal["estimate_level"]


Method = Annotated[Plain | AlternateReuse | EveryLevel | EstimateLevel, Field(discriminator="kind")]


class TrainingSettings(Settings):
    """What all training stages share.

    Attributes:
        seed: Of initial weights, order, crops, degradations and masks.
        threads: Of the CPU; changes the bits of a result, which is why it is a parameter.
        workers: Processes that prepare batches ahead; 0 prepares them in the training process.
        patches: Prefix on S3 that `relume data upload` copied data/curated to; None reads data/curated itself.
        patch_cache_mb: Of local disk, for patches that were read from S3 once; 0 keeps none.
        processes: Ranks on this machine, a GPU each where there are GPUs.
        strategy: `ddp` copies the network to every rank, `fsdp` spreads its parameters over them.
        precision: Lightning Fabric's name of the precision.
        compile: Whether the network is compiled by torch.compile.
        degradation: What the models learn to undo.
        augmentation: Of the clean crops.
        checkpoint_seconds: Time between checkpoints; each validation writes one, too.
        validations: How many times the validation photographs are restored during a stage.
    """

    seed: Annotated[int, Field(ge=0)]
    threads: Positive
    workers: Annotated[int, Field(ge=0)] = 0
    patches: Annotated[str, Field(pattern=r"^s3://[^/]")] | None = None
    patch_cache_mb: Annotated[float, Field(ge=0)] = 4096
    processes: Positive = 1
    strategy: Literal["ddp", "fsdp"] = "ddp"
    precision: Literal["32-true", "bf16-mixed", "16-mixed"]
    compile: bool = False
    degradation: Degradation
    augmentation: Augmentation = Augmentation()
    checkpoint_seconds: Annotated[float, Field(gt=0)]
    validations: Positive


class StageSettings(Settings):
    """What one training stage trains, and how long.

    Attributes:
        loss: A loss of `relume.losses`, or a weighted sum of several.
        optimizer: See there.
        phases: The progressive schedule; without any, the stage passes its input on unchanged.
        method: How a step uses the network.
        keep: Whose weights are kept: those of the `last` step or those of the `best` validation.
        patience: Validations without a better one after which the stage ends; none never ends early.
    """

    loss: LossSettings
    optimizer: OptimizerSettings
    phases: tuple[Phase, ...]
    method: Method = Plain()
    keep: Literal["last", "best"] = "last"
    patience: Positive | None = None

    @property
    def steps(self) -> int:
        """Optimiser steps of all phases together."""
        return sum(phase.steps for phase in self.phases)

    def resolved(self, training: TrainingSettings) -> "ResolvedStage":
        """The stage with phases that say what they left to it or to the training; once more changes nothing."""
        phases = [
            {
                **dict(phase),
                "loss": phase.loss or self.loss,
                "degradation": phase.degradation or training.degradation,
                "augmentation": phase.augmentation or training.augmentation,
            }
            for phase in self.phases
        ]
        own = {name: getattr(self, name) for name in StageSettings.model_fields}
        return ResolvedStage.model_validate(own | {"phases": phases})


class ResolvedStage(StageSettings):
    """A stage whose phases are resolved."""

    phases: tuple[ResolvedPhase, ...]


class InitialWeights(Settings):
    """Weights that a training starts from, such as published ones.

    Attributes:
        artifact: Folder of a model artifact, made by `relume models import` or by another run.
        sha256: Of the folder, as `relume models import` prints it: other weights are another training.
    """

    artifact: str
    sha256: str


class BaseModelSettings(StageSettings):
    """A base model: its architecture beside its training.

    Attributes:
        architecture: A name of `relume.models.registry`.
        arguments: The network's constructor arguments.
        initial: Weights to start from; without phases they are passed on unchanged.
    """

    architecture: str
    arguments: dict[str, Any]
    initial: InitialWeights | None = None

    @model_validator(mode="after")
    def _has_weights(self) -> "BaseModelSettings":
        if not self.phases and self.initial is None:
            raise ValueError("a base model without phases needs initial weights")
        return self
