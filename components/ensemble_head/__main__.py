"""python -m components.ensemble_head: fuses models/bases into models/ensemble, and trains the head."""

import dataclasses
from pathlib import Path

import torch

from components.step import run_component
from components.training_stage.ranks import prepared_processes
from components.training_stage.train import train_stage
from relume.errors import ModelMissingError
from relume.models.artifact import load_card
from relume.models.fusion.assembly import fuse, restoring
from relume.params_file import load_section
from relume.training.config import TrainingSettings
from relume.training.stages import EnsembleHeadSettings

BASES, ENSEMBLE = Path("models/bases"), Path("models/ensemble")


def main() -> None:
    """Reads `ensemble_head` and `training`, writes the ensemble with the frozen bases in it."""
    settings = load_section("ensemble_head", EnsembleHeadSettings)
    training = load_section("training", TrainingSettings)
    cards = {path.parent: load_card(path.parent) for path in BASES.glob("[!.]*/model.json")}
    folders = sorted(BASES / name for name in restoring({folder.name: card for folder, card in cards.items()}))
    if not folders:
        raise ModelMissingError("There are no base models", where=BASES, next_step="run `dvc repro pretrain`")
    torch.manual_seed(training.seed)
    network, plan = fuse(settings.fusion, folders)
    card = dataclasses.replace(load_card(folders[0]), architecture=plan.architecture, arguments=plan.arguments)
    train_stage(
        "ensemble_head",
        network.train(),
        out=ENSEMBLE,
        card=card,
        stage=settings,
        training=training,
        inputs=folders,
    )


run_component(prepared_processes(main))
