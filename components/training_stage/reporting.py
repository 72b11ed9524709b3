"""How a training is reported: progress on the terminal, metrics and images to MLflow."""

import sys
import time
from collections.abc import Callable

import numpy as np

from components.tracking import StageRun
from relume.training.config import StageSettings
from relume.training.schedule import position_at


def silent(step: int, steps: int, metrics: dict[str, float], image: np.ndarray | None) -> None:
    """The other ranks leave reporting to the first."""


def reporter(
    name: str, run: StageRun, stage: StageSettings
) -> Callable[[int, int, dict[str, float], np.ndarray | None], None]:
    """Prints progress, a bar on a terminal, else a line at each validation; and tracks metrics and images."""
    started, terminal = time.monotonic(), sys.stdout.isatty()

    def report(step: int, steps: int, metrics: dict[str, float], image: np.ndarray | None) -> None:
        if metrics:
            run.log(step, metrics)
            position = position_at(stage.phases, step - 1)
            run.phase(position.number, position.phase.model_dump(mode="json", exclude_none=True)).log(step, metrics)
        elif not terminal:
            return
        if image is not None:
            run.log_image(f"validation/step_{step:07d}.png", image)
        text = f"{name}  {step}/{steps}  {time.monotonic() - started:.0f} s"
        if terminal:
            done = 30 * step // steps
            text = f"{text}  {'━' * done}{'╌' * (30 - done)}"
        if metrics:
            text += f"  loss {metrics['loss']:.4f}  validation {metrics['psnr']:.2f} dB"
        print(f"\r\x1b[K{text}" if terminal else text, end="\n" if metrics else "", flush=True)

    return report
