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
    from relume.serving.served_model import Serving


@dataclasses.dataclass(frozen=True, kw_only=True)
class Condition:
    """A degradation of one level, that a candidate is judged on.

    Attributes:
        degradation: Of the task.
        level: Of its parameter.
        alone: Whether the task has this degradation only, which then needs no name.
        blind: Whether models are not given the level, but restore at what their level estimator estimates.
    """

    degradation: TaskDegradation
    level: float
    alone: bool
    blind: bool = False

    def __str__(self) -> str:
        level = f"{self.degradation.parameter} {self.level:g}{' estimated' if self.blind else ''}"
        return level if self.alone else f"{self.protocol}, {level}"

    @property
    def protocol(self) -> str:
        """The product's."""
        return self.degradation.protocols[0]

    def given(self, restorer: "OnnxRestorer") -> str:
        """What a check says of a model that is given the level."""
        levels = restorer.serving.levels
        given = not self.blind and levels and levels.kind == self.degradation.parameter
        return " (given to it)" if given else ""

    def limit(self, settings: ReleaseSettings) -> float:
        """The gain over the input that is asked for, between two levels of the settings on the line through both; none
        at a level that the task's models are not trained on."""
        if self.degradation.trained not in (None, self.level):
            return 0.0
        limits = sorted(settings.min_gain_over_input_db[self.protocol].items())
        return float(np.interp(self.level, [level for level, _ in limits], [limit for _, limit in limits]))

    def psnr(self, restorer: "OnnxRestorer | None", photographs: Mapping[str, np.ndarray], seed: int) -> list[float]:
        """PSNR in dB of each restored photograph, as the protocol measures it.

        Args:
            restorer: Of a model, which is given the level when it takes one of this kind and is not judged blind; None
                for the degraded photographs themselves.
            photographs: uint8 (H, W, 3) by image id.
            seed: Of what is random.
        """
        return [self.image(restorer, photograph, image_id, seed)[1] for image_id, photograph in photographs.items()]

    def image(
        self, restorer: "OnnxRestorer | None", photograph: np.ndarray, image_id: str, seed: int
    ) -> tuple[np.ndarray, float]:
        """A restored photograph, uint8 (H, W, 3), and its PSNR in dB.

        Args:
            restorer: As for `psnr`.
            photograph: uint8 (H, W, 3).
            image_id: On which, as on the seed, depends what is random.
            seed: Of what is random.
        """
        from relume.evaluation.benchmark.protocols import shrunk
        from relume.evaluation.held_out import degraded_photograph, protocol_of
        from relume.metrics import measure, to_8_bit
        from relume.serving.levels import level_for

        protocol, given = protocol_of(self.protocol), None
        if restorer and not self.blind:
            given = level_for(restorer.serving.levels, protocol.parameter, self.level)
        degraded, clean = degraded_photograph(photograph, image_id, self.level, self.protocol, seed)
        image = to_8_bit(degraded)
        if restorer:
            if (scale := restorer.serving.inference.scale) > 1:
                image = to_8_bit(shrunk(clean, scale))
            image = restorer.restore(image, level=given).image
        return image, measure(image, clean, on_luma=protocol.luma, border=protocol.border_at(self.level)).psnr


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
        """See `Condition.psnr`; a model that takes a sigma restores at the one that it estimates, else at the noise of
        smooth areas, as the evaluation of pairs has it."""
        from relume.curation.quality import image_noise
        from relume.metrics import measure
        from relume.serving.levels import level_for

        def restored(image: np.ndarray) -> np.ndarray:
            if restorer is None:
                return image
            serving, given = restorer.serving, None
            if serving.levels and not serving.inference.estimator:
                given = level_for(serving.levels, "sigma", round(image_noise(image), 2))
            return restorer.restore(image, level=given).image

        return [measure(restored(degraded), clean).psnr for degraded, clean in self.pairs.values()]


def conditions_of(evaluate: EvaluateSettings, serving: "Serving") -> Iterator[Condition]:
    """What a candidate of a recipe is judged on: given the levels and, where it has a level estimator for them, blind.

    Args:
        evaluate: The task and its levels.
        serving: Of the candidate.
    """
    measured = list(evaluate.measured())
    for degradation, levels in measured:
        estimates = serving.inference.estimator and serving.levels and serving.levels.kind == degradation.parameter
        for blind in (False, True) if estimates else (False,):
            for level in levels:
                yield Condition(degradation=degradation, level=level, alone=len(measured) == 1, blind=blind)
