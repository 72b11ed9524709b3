"""Which phase, which samples and which learning rate belong to an optimiser step."""

import math
from bisect import bisect_right
from dataclasses import dataclass
from itertools import accumulate
from typing import Generic, TypeVar

from relume.training.config import Phase, Schedule, StageSettings

P = TypeVar("P", bound=Phase)


@dataclass(frozen=True, kw_only=True)
class Position(Generic[P]):
    """The position of a step in a progressive schedule.

    Attributes:
        phase: The phase.
        number: Of the phase, from 0.
        step: Within the phase, from 0.
        sample: Number of the step's first sample: the data position follows from the step alone, which makes resuming
            exact, across phase borders too.
    """

    phase: P
    number: int
    step: int
    sample: int


def position_at(phases: tuple[P, ...], step: int) -> Position[P]:
    """The position of a step.

    Args:
        phases: The progressive schedule.
        step: From 0 to the sum of the phases' steps, exclusive.

    Raises:
        IndexError: The step is beyond the last phase.
    """
    samples = 0
    for number, phase in enumerate(phases):
        if step < phase.steps:
            return Position(phase=phase, number=number, step=step, sample=samples + step * phase.batch)
        step -= phase.steps
        samples += phase.steps * phase.batch
    raise IndexError("step beyond the last phase")


def learning_rate(schedule: Schedule, step: int, steps: int) -> float:
    """The learning rate of one step of a schedule.

    Args:
        schedule: Its shape.
        step: From 0 to `steps`, exclusive.
        steps: Of the whole schedule.
    """
    if step < schedule.warmup:
        return schedule.lr * (step + 1) / schedule.warmup
    if schedule.shape == "constant":
        return schedule.lr
    if schedule.shape == "steps":
        return schedule.lr * schedule.gamma ** bisect_right(schedule.milestones, step)
    starts = list(accumulate(schedule.periods[:-1], initial=schedule.warmup))
    current = bisect_right(starts, step) - 1
    end = (*starts, steps)[current + 1]
    progress = (step - starts[current]) / max(1, end - 1 - starts[current])
    return schedule.min_lr + (schedule.lr - schedule.min_lr) * (1 + math.cos(math.pi * progress)) / 2


def learning_rate_at(stage: StageSettings, step: int) -> float:
    """The learning rate of a stage's step: of the phase's own schedule, or of the stage's.

    The stage's schedule runs over all steps of the phases that have none of their own.
    """
    position = position_at(stage.phases, step)
    if position.phase.schedule is not None:
        return learning_rate(position.phase.schedule, position.step, position.phase.steps)
    shared = [phase.steps if phase.schedule is None else 0 for phase in stage.phases]
    return learning_rate(stage.optimizer, sum(shared[: position.number]) + position.step, sum(shared))
