"""How a training is reported: progress on the terminal, metrics and images to MLflow."""

import sys
import time
from collections.abc import Callable

import numpy as np

from components.tracking import StageRun
from relume.durations import time_left
from relume.progress import LOG_SECONDS
from relume.training.config import StageSettings
from relume.training.schedule import position_at


def silent(step: int, steps: int, metrics: dict[str, float], image: np.ndarray | None) -> None:
    """The other ranks leave reporting to the first."""


def reporter(
    name: str, run: StageRun, stage: StageSettings
) -> Callable[[int, int, dict[str, float], np.ndarray | None], None]:
    """Prints progress, a bar on a terminal, else a line at each validation and every ten seconds; tracks the metrics.

    The time left is that of the steps of this process: a training that is resumed began elsewhere.
    """
    started, terminal = time.monotonic(), sys.stdout.isatty()
    printed, first = started, 0

    def report(step: int, steps: int, metrics: dict[str, float], image: np.ndarray | None) -> None:
        nonlocal printed, first
        now = time.monotonic()
        first = first or step
        if metrics:
            run.log(step, metrics)
            position = position_at(stage.phases, step - 1)
            run.phase(position.number, position.phase.model_dump(mode="json", exclude_none=True)).log(step, metrics)
        elif not terminal and now - printed < LOG_SECONDS:
            return
        printed = now
        if image is not None:
            run.log_image(f"validation/step_{step:07d}.png", image)
        left = time_left(now - started, step - first, steps - first)
        text = f"{name}  {step}/{steps}  {now - started:.0f} s" + (f"  {left}" if left else "")
        if terminal:
            done = 30 * step // steps
            text = f"{text}  {'━' * done}{'╌' * (30 - done)}"
        if metrics:
            text += f"  loss {metrics['loss']:.4f}  validation "
            text += f"{metrics['psnr']:.2f} dB" if "psnr" in metrics else f"{metrics['accuracy']:.2f} % of the level"
        print(f"\r\x1b[K{text}" if terminal else text, end="\n" if metrics or not terminal else "", flush=True)

    return report
