"""The settings of the stages after the pre-training: the fusion, the ranking of patches, the fine-tune."""

from typing import Annotated, Any, Literal

from pydantic import Field

from relume.degradations import Degradation
from relume.settings import Settings
from relume.training.config import Positive, Reuse, StageSettings


class FusionSettings(Settings):
    """The network over the base models.

    Attributes:
        architecture: See `relume.models.fusion.assembly.fuse`.
        arguments: Its own, without those of its bases.
    """

    architecture: str
    arguments: dict[str, Any] = Field(default_factory=dict)


class EnsembleHeadSettings(StageSettings):
    """The training of a fusion over the frozen base models.

    Attributes:
        fusion: None passes the only base on, or trains it further if there are phases.
    """

    fusion: FusionSettings | None


class MiningSettings(Settings):
    """How the training patches are ranked.

    Attributes:
        degradation: Of the ranking; of one level for all, so that losses compare.
        draws: Degradations of each patch whose losses are averaged.
        fraction: Of the patches, hardest first, that count as hard.
        batch: Patches restored at once.
    """

    degradation: Degradation
    draws: Positive
    fraction: Annotated[float, Field(gt=0, le=1)]
    batch: Positive


class ChosenReuse(Settings):
    """One of the networks that share the weights of a DyNet.

    Attributes:
        reuse: How often the block of each level is applied.
    """

    reuse: Reuse


class FinetuneSettings(StageSettings):
    """The fine-tune on hard patches.

    Attributes:
        other_fraction: Of an epoch, patches that are not hard, so that the model does not drift.
        adapt: `biases` freezes the model and trains only biases added to its bias-free convolutions
            (`relume.models.bias_adaptation`); `reuse` chooses which of the networks of one pre-training is fine-tuned,
            exported and served.
    """

    other_fraction: Annotated[float, Field(ge=0, lt=1)]
    adapt: Literal["biases"] | ChosenReuse | None = None

    def arguments(self, given: dict[str, Any]) -> dict[str, Any]:
        """The arguments of the network that is fine-tuned, from those of the one that it starts from."""
        return given | {"reuse": list(self.adapt.reuse)} if isinstance(self.adapt, ChosenReuse) else given
