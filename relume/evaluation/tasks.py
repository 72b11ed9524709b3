"""Tasks: what a model is for, and with it what it is measured on, what it is compared with, and what it is called.

A recipe names its task. The protocols are those of `relume.evaluation.benchmark.protocols`, under the names that
`relume.evaluation.held_out` gives them. This module imports neither torch nor numpy.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal, get_args

TaskName = Literal[
    "denoise",
    "unseen-noise",
    "real-noise",
    "dejpeg",
    "super-resolution",
    "derain",
    "dehaze",
    "deblur",
    "all-in-one",
]
INPUTS = {"noisy": "noisy input", "jpeg": "decoded JPEG", "bicubic": "bicubic enlargement", "input": "degraded input"}
"""What a model is given, as tables name it: a system like any other, whose result is the image as it came."""


@dataclass(frozen=True, kw_only=True)
class TaskDegradation:
    """A degradation that the models of a task remove.

    Attributes:
        parameter: What is varied, the parameter of all its protocols.
        levels: Values of it that are measured where a recipe names no others.
        protocols: Under which it is measured. The first is the product's: its inputs are 8-bit files, the photographs
            are restored in tiles as they are served, and the gate asks for a gain under it.
        lower_is_stronger: Whether a lower value is a stronger degradation.
        trained: The level that models of the task are trained on, where that is one: at others the gate asks only that
            nothing is lost. None for all.
    """

    parameter: str
    levels: tuple[float, ...]
    protocols: tuple[str, ...]
    lower_is_stronger: bool = False
    trained: float | None = None

    def strongest(self, levels: Iterable[float]) -> float:
        """Of some levels the one of the strongest degradation."""
        return min(levels) if self.lower_is_stronger else max(levels)


@dataclass(frozen=True, kw_only=True)
class Task:
    """What models are for.

    PSNR and SSIM are of RGB or of the luma, inside of a border, as each protocol says.

    Attributes:
        product: The name of its product where a recipe gives no other.
        degradations: What its models remove.
        input: What they are given, a key of `INPUTS`.
        baseline: What a first release has to beat: `nlm` for non-local means, or the input itself.
    """

    product: str
    degradations: tuple[TaskDegradation, ...]
    input: str = "input"
    baseline: Literal["nlm", "input"] = "input"


WHITE_NOISE = TaskDegradation(
    parameter="sigma", levels=(15, 25, 50), protocols=("clipped", "unclipped", "jpeg85", "jpeg95")
)
UNSEEN = (  # of arXiv 2303.13132, whose renderings with few rays are modelled, not rendered
    replace(WHITE_NOISE, trained=15),
    TaskDegradation(parameter="strength", levels=(2,), protocols=("poisson",)),
    TaskDegradation(parameter="variance", levels=(0.024,), protocols=("speckle",)),
    TaskDegradation(parameter="density", levels=(0.002,), protocols=("salt-and-pepper",)),
    TaskDegradation(parameter="rays", levels=(64,), protocols=("rendering",), lower_is_stronger=True),
    TaskDegradation(parameter="sigma", levels=(15, 25, 50), protocols=("correlated",)),
    TaskDegradation(parameter="sigma", levels=(15, 25, 50), protocols=("mixture",)),
)
PHOTOGRAPHS = (
    TaskDegradation(parameter="sigma", levels=(5, 10, 20), protocols=("developed",)),
    TaskDegradation(parameter="electrons", levels=(500, 2000), protocols=("camera",), lower_is_stronger=True),
)
JPEG = TaskDegradation(parameter="quality", levels=(10, 20, 30, 40), protocols=("jpeg",), lower_is_stronger=True)
SCALE = TaskDegradation(parameter="scale", levels=(2, 3, 4), protocols=("sr",))
RAIN = TaskDegradation(parameter="streaks", levels=(4,), protocols=("rain",))
HAZE = TaskDegradation(parameter="beta", levels=(1,), protocols=("haze",))
BLUR = TaskDegradation(parameter="length", levels=(12,), protocols=("motion-blur",))

TASKS: dict[str, Task] = {
    "denoise": Task(product="denoise", degradations=(WHITE_NOISE,), input="noisy", baseline="nlm"),
    "unseen-noise": Task(product="denoise_unseen", degradations=UNSEEN, input="noisy"),
    "real-noise": Task(product="photo", degradations=PHOTOGRAPHS, input="noisy"),
    "dejpeg": Task(product="dejpeg", degradations=(JPEG,), input="jpeg"),
    "super-resolution": Task(product="sr", degradations=(SCALE,), input="bicubic"),
    "derain": Task(product="derain", degradations=(RAIN,)),
    "dehaze": Task(product="dehaze", degradations=(HAZE,)),
    "deblur": Task(product="deblur", degradations=(BLUR,)),
    "all-in-one": Task(product="all_in_one", degradations=(WHITE_NOISE, RAIN, HAZE, JPEG, BLUR)),
}
assert tuple(TASKS) == get_args(TaskName)


def degradation_of(protocol: str) -> TaskDegradation:
    """The degradation whose first protocol, the product's, has this name."""
    degradations = (degradation for task in TASKS.values() for degradation in task.degradations)
    return next(degradation for degradation in degradations if degradation.protocols[0] == protocol)
