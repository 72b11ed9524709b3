"""What the stages after the pre-training are told: the fusion, the ranking of patches, the fine-tune."""

from typing import Annotated, Any, Literal

from pydantic import Field

from relume.degradations.settings import Degradation
from relume.training.config import Positive, Settings, StageSettings


class FusionSettings(Settings):
    """A network over the base models.

    Attributes:
        architecture: One of the fusions of `relume.models.registry`.
        arguments: Its constructor's, without those that the base models give.
    """

    architecture: Literal["ensemble", "weighted_average", "src_b", "snucv"]
    arguments: dict[str, Any] = Field(default_factory=dict)


class EnsembleHeadSettings(StageSettings):
    """The training of a fusion over the frozen base models.

    Attributes:
        fusion: None hands the only base model on as it is.
    """

    fusion: FusionSettings | None


class MiningSettings(Settings):
    """How the training patches are ranked.

    Attributes:
        degradation: Of the ranking, the same for all patches, so that losses compare; that of the training at its
            hardest when None.
        draws: Realisations of it whose losses are averaged.
        fraction: Of the patches, hardest first, that count as hard.
        batch: Patches restored at once.
    """

    degradation: Degradation | None = None
    draws: Positive
    fraction: Annotated[float, Field(gt=0, le=1)]
    batch: Positive


class FinetuneSettings(StageSettings):
    """The fine-tune on hard patches.

    Attributes:
        other_fraction: Of an epoch, patches that are not hard, so that the model does not drift.
        adapt: `biases` trains only biases, added to the frozen network's bias-free convolutions.
    """

    other_fraction: Annotated[float, Field(ge=0, lt=1)]
    adapt: Literal["biases"] | None = None
