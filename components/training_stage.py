"""What the training steps share: data, validation, tracking, checkpoint, progress, and the artifact they write."""

import hashlib
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from components.tracking import StageRun
from relume.files import sha256_folder
from relume.home import relume_home
from relume.models.artifact import ModelCard, save_model
from relume.training.batches import NoisyCrops, PatchShards
from relume.training.checkpoint import Checkpoint, checkpoint_key
from relume.training.config import StageSettings, TrainingSettings
from relume.training.loop import train
from relume.training.validation import validation_psnr

CURATED = Path("data/curated")


def train_stage(
    name: str,
    network: Any,
    *,
    out: str | Path,
    architecture: str,
    arguments: dict[str, Any],
    stage: StageSettings,
    training: TrainingSettings,
    inputs: Sequence[str | Path] = (),
    indices: Sequence[int] | None = None,
) -> None:
    """Trains a network on the curated patches and writes its artifact.

    Args:
        name: The stage's name, such as `pretrain@nafnet`.
        network: Its parameters that require gradients are trained.
        out: The artifact's folder.
        architecture: For the artifact, with `arguments`.
        arguments: The network's constructor arguments.
        stage: What is trained and how long.
        training: What all training stages share.
        inputs: Further folders that the training reads, such as its base models.
        indices: The patches that make an epoch; all by default.
    """
    configuration = {
        "stage": stage.model_dump(mode="json"),
        "training": training.model_dump(mode="json", exclude={"checkpoint_seconds"}),
        "model": {"architecture": architecture, "arguments": arguments},
        "indices": None if indices is None else hashlib.sha256(str(list(indices)).encode()).hexdigest(),
    }
    data_hash = hashlib.sha256("".join(sha256_folder(path) for path in (CURATED, *inputs)).encode()).hexdigest()
    checkpoint = Checkpoint(relume_home() / "checkpoints", checkpoint_key([name, configuration], data_hash))
    crops = NoisyCrops(PatchShards(CURATED), training.degradation, seed=training.seed, indices=indices)
    with checkpoint.lock(), StageRun(name, configuration) as run:
        history = train(
            network,
            crops,
            stage=stage,
            training=training,
            checkpoint=checkpoint,
            validate=validation_psnr(CURATED / "held_out" / "validation", training.seed),
            report=_reporter(name, run),
        )
        card = ModelCard(
            architecture=architecture,
            arguments=arguments,
            trained_for={"task": "denoise", **training.degradation.model_dump(mode="json")},
            provenance={"stage": name, "data_sha256": data_hash, "settings": configuration},
        )
        save_model(out, network, card, files={"history.csv": _history_csv(history)})
        run.log_files(Path(out) / "history.csv")
        checkpoint.discard()


def _history_csv(history: list[dict[str, float]]) -> str:
    names = ["step", "loss", "lr", "psnr"]
    rows = [",".join(f"{row[name]:.8g}" for name in names) for row in history]
    return "\n".join([",".join(names), *rows]) + "\n"


def _reporter(name: str, run: StageRun) -> Callable[[int, int, dict[str, float]], None]:
    """Prints progress, a bar on a terminal, else a line at each validation; and tracks the figures."""
    started, terminal = time.monotonic(), sys.stdout.isatty()

    def report(step: int, steps: int, figures: dict[str, float]) -> None:
        if figures:
            run.log(step, figures)
        elif not terminal:
            return
        text = f"{name}  {step}/{steps}  {time.monotonic() - started:.0f} s"
        if terminal:
            done = 30 * step // steps
            text = f"{text}  {'━' * done}{'╌' * (30 - done)}"
        if figures:
            text += f"  loss {figures['loss']:.4f}  validation {figures['psnr']:.2f} dB"
        print(f"\r\x1b[K{text}" if terminal else text, end="\n" if figures else "", flush=True)

    return report
