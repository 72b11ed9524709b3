"""python -m components.ensemble_head: trains the head over models/bases into models/ensemble."""

from pathlib import Path
from typing import Any

import torch

from components.step import load_params, run_step
from components.training_stage import train_stage
from relume.errors import ModelMissingError
from relume.models.artifact import load_card, load_model
from relume.models.registry import build
from relume.training.config import StageSettings, TrainingSettings

BASES = Path("models/bases")


class EnsembleSettings(StageSettings):
    """The head's training, and the arguments of `FusionHead`."""

    head: dict[str, Any]


def main() -> None:
    """Reads `ensemble_head` and `training`, writes the ensemble with the frozen bases in it."""
    settings = load_params("ensemble_head", EnsembleSettings)
    training = load_params("training", TrainingSettings)
    folders = sorted(path.parent for path in BASES.glob("*/model.json"))
    if not folders:
        raise ModelMissingError("No base model", where=BASES, next_step="run `dvc repro pretrain`")
    cards = [load_card(folder) for folder in folders]
    arguments = {
        "bases": [{"architecture": card.architecture, "arguments": card.arguments} for card in cards],
        "head": settings.head,
    }
    torch.manual_seed(training.seed)
    network = build("ensemble", arguments)
    for base, folder in zip(network.bases, folders, strict=True):
        base.load_state_dict(load_model(folder).state_dict())
        base.requires_grad_(False)
    train_stage(
        "ensemble_head",
        network.train(),
        out="models/ensemble",
        architecture="ensemble",
        arguments=arguments,
        stage=settings,
        training=training,
        inputs=folders,
    )


run_step(main)
