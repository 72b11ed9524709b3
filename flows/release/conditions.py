"""What a candidate is judged on: held-out pairs, and its task's degradations, each at each level.

Degradations are measured under the product's protocol.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np

from relume.evaluation.settings import EvaluateSettings
from relume.evaluation.tasks import TaskDegradation
from relume.params import ReleaseSettings

if TYPE_CHECKING:
    from relume.serving.onnx_restorer import OnnxRestorer


@dataclasses.dataclass(frozen=True, kw_only=True)
class Condition:
    """A degradation of one level, that a candidate is judged on.

    Attributes:
        degradation: Of the task.
        level: Of its parameter.
        alone: Whether the task has this degradation only, which then needs no name.
    """

    degradation: TaskDegradation
    level: float
    alone: bool

    def __str__(self) -> str:
        return f"{'' if self.alone else f'{self.protocol}, '}{self.degradation.parameter} {self.level:g}"

    @property
    def protocol(self) -> str:
        """The product's."""
        return self.degradation.protocols[0]

    def given(self, restorer: "OnnxRestorer") -> str:
        """What a check says of a model that is given the level."""
        levels = restorer.serving.levels
        return " (given to it)" if levels and levels.kind == self.degradation.parameter else ""

    def limit(self, settings: ReleaseSettings) -> float:
        """The gain over the input that is asked for, between two levels of the settings on the line through both."""
        limits = sorted(settings.min_gain_over_input_db[self.protocol].items())
        return float(np.interp(self.level, [level for level, _ in limits], [limit for _, limit in limits]))

    def psnr(self, restorer: "OnnxRestorer | None", photographs: Mapping[str, np.ndarray], seed: int) -> list[float]:
        """PSNR in dB of each restored photograph, as the protocol measures it.

        Args:
            restorer: Of a model, which is given the level when it takes one of this kind; None for the degraded
                photographs themselves.
            photographs: uint8 (H, W, 3) by image id.
            seed: Of what is random.
        """
        from relume.evaluation.held_out import degraded_photograph, protocol_of
        from relume.metrics import measure, to_8_bit
        from relume.serving.levels import level_for

        protocol = protocol_of(self.protocol)
        given = level_for(restorer.serving.levels, protocol.parameter, self.level) if restorer else None
        found = []
        for image_id, photograph in photographs.items():
            degraded, clean = degraded_photograph(photograph, image_id, self.level, self.protocol, seed)
            image = to_8_bit(degraded)
            if restorer:
                image = restorer.restore(image, level=given).image
            found.append(measure(image, clean, on_luma=protocol.luma, border=protocol.border_at(self.level)).psnr)
        return found


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Paired:
    """Held-out pairs, that a candidate is judged on as its degradations.

    Attributes:
        pairs: By image id the degraded and the clean image, uint8 (H, W, 3).
    """

    pairs: Mapping[str, tuple[np.ndarray, np.ndarray]]

    def __str__(self) -> str:
        return "held-out pairs"

    def given(self, restorer: "OnnxRestorer") -> str:
        """Nobody knows the level of a pair."""
        return ""

    def limit(self, settings: ReleaseSettings) -> float:
        """The gain over the input that is asked for."""
        return settings.min_gain_over_pairs_db

    def psnr(self, restorer: "OnnxRestorer | None", photographs: Mapping[str, np.ndarray], seed: int) -> list[float]:
        """See `Condition.psnr`; a model that takes a level restores at its default."""
        from relume.metrics import measure

        images = [(restorer.restore(each).image if restorer else each, clean) for each, clean in self.pairs.values()]
        return [measure(image, clean).psnr for image, clean in images]


def conditions_of(evaluate: EvaluateSettings) -> Iterator[Condition]:
    """What a candidate of a recipe is judged on."""
    measured = list(evaluate.measured())
    for degradation, levels in measured:
        for level in levels:
            yield Condition(degradation=degradation, level=level, alone=len(measured) == 1)
