"""The settings of the stage `evaluate`, whose task and levels are also those of the gate."""

from collections.abc import Iterator
from typing import Annotated, Self

from pydantic import Field, model_validator

from relume.evaluation.tasks import TASKS, Task, TaskDegradation, TaskName
from relume.settings import Settings

Level = Annotated[float, Field(gt=0)]


class Pairs(Settings):
    """Real noisy images, each with a clean one of the same scene.

    Attributes:
        folder: Absolute path of a folder with the subfolders `noisy` and `clean`, both images of a pair under one name.
        sha256: Of the folder, so that other pairs are another evaluation; a run with a wrong one names the right one.
    """

    folder: str
    sha256: str


class EvaluateSettings(Settings):
    """What is measured on the held-out photographs and on real pairs, and what the gate judges a candidate on.

    Attributes:
        seed: Of the noise.
        threads: Of the CPU.
        task: What the model is for. It says which degradations are measured.
        levels: By a parameter of the task's degradations, such as `sigma`, the levels that are measured; none for a
            degradation that the model is not for. The task's own for a parameter that is not named.
        bm3d: Whether BM3D is measured as well, for the task `denoise`; it needs the extra of that name.
        pairs: Real pairs to measure the final model on; null for none.
    """

    seed: int = Field(ge=0)
    threads: int = Field(gt=0)
    task: TaskName = "denoise"
    levels: dict[str, tuple[Level, ...]] = Field(default={})
    bm3d: bool = False
    pairs: Pairs | None = None

    @model_validator(mode="after")
    def _are_the_tasks(self) -> Self:
        known = [degradation.parameter for degradation in self.the_task.degradations]
        if others := [parameter for parameter in self.levels if parameter not in known]:
            raise ValueError(f"levels names {others[0]}; the parameters of {self.task} are {', '.join(known)}")
        if not any(self.measured()):
            raise ValueError("levels leaves nothing to measure; name a level of one parameter at least")
        return self

    @property
    def the_task(self) -> Task:
        """The task."""
        return TASKS[self.task]

    def scale_problem(self, scale: int) -> str | None:
        """What a network that makes images so much larger cannot be measured on; None where nothing is."""
        if scale == 1:
            return None
        for degradation, levels in self.measured():
            if degradation.parameter != "scale":
                return f"the model makes images {scale} times as large, but {self.task} keeps their size"
            if set(levels) != {scale}:
                measured = ", ".join(f"{level:g}" for level in levels)
                return f"the model makes images {scale} times as large, but evaluate.levels has scale {measured}"
        return None

    def measured(self) -> Iterator[tuple[TaskDegradation, tuple[float, ...]]]:
        """The degradations that are measured, the first of them the product's foremost, each with its levels."""
        for degradation in self.the_task.degradations:
            if levels := self.levels.get(degradation.parameter, degradation.levels):
                yield degradation, levels
