"""Which phase, which samples and which learning rate belong to an optimiser step."""

import math

from relume.training.config import OptimizerSettings, Phase


def phase_at(phases: tuple[Phase, ...], step: int) -> tuple[Phase, int]:
    """The phase of a step and the number of the step's first sample.

    Args:
        phases: The progressive schedule.
        step: From 0 to the sum of the phases' steps, exclusive.

    Returns:
        The phase, and how many samples all earlier steps have taken: the data position follows from
        the step alone, which makes resuming exact, across phase borders too.
    """
    samples = 0
    for phase in phases:
        if step < phase.steps:
            return phase, samples + step * phase.batch
        step -= phase.steps
        samples += phase.steps * phase.batch
    raise IndexError("step beyond the last phase")


def learning_rate(settings: OptimizerSettings, step: int, steps: int) -> float:
    """Linear warm-up to `lr`, then half a cosine to `min_lr` at the last step.

    Args:
        settings: Optimiser settings.
        step: From 0 to `steps`, exclusive.
        steps: Of the whole training.
    """
    if step < settings.warmup:
        return settings.lr * (step + 1) / settings.warmup
    progress = (step - settings.warmup) / max(1, steps - 1 - settings.warmup)
    return settings.min_lr + (settings.lr - settings.min_lr) * (1 + math.cos(math.pi * progress)) / 2
