"""python -m components.pretrain --base NAME: trains one base model into models/bases/NAME."""

import argparse

import torch

from components.step import run_component
from components.training_stage.ranks import prepared_processes
from components.training_stage.train import train_stage
from relume.errors import ModelFormatError
from relume.files import sha256_folder
from relume.models.artifact import ModelCard, load_card, load_model
from relume.models.registry import build
from relume.params_file import load_section
from relume.training.config import BaseModelSettings, InitialWeights, TrainingSettings


def main() -> None:
    """Reads `pretrain.bases.NAME` and `training`, writes the model artifact."""
    parser = argparse.ArgumentParser(prog="python -m components.pretrain")
    parser.add_argument("--base", required=True, help="a name below pretrain.bases in recipe.yaml")
    base = parser.parse_args().base
    stage = load_section(f"pretrain.bases.{base}", BaseModelSettings)
    training = load_section("training", TrainingSettings)
    torch.manual_seed(training.seed)
    name, out = f"pretrain@{base}", f"models/bases/{base}"
    network = build(stage.architecture, stage.arguments)
    card = ModelCard(architecture=stage.architecture, arguments=stage.arguments, trained_for={}, provenance={})
    inputs: list[str] = []
    if stage.initial is not None:
        network.load_state_dict(initial_state(stage.initial, stage))
        card = load_card(stage.initial.artifact)
        inputs = [] if stage.phases else [stage.initial.artifact]  # a training has its hash among the settings
    train_stage(name, network, out=out, card=card, stage=stage, training=training, inputs=inputs)


def initial_state(initial: InitialWeights, stage: BaseModelSettings) -> dict[str, torch.Tensor]:
    """The weights that the training starts from.

    Raises:
        ModelFormatError: The artifact is not the one that recipe.yaml names, or of another network.
    """
    found = sha256_folder(initial.artifact)
    if found != initial.sha256:
        raise ModelFormatError(
            "The initial weights have changed",
            where=initial.artifact,
            why=f"sha256 is {found}, not {initial.sha256}",
            next_step="write the new sha256 to pretrain.bases in recipe.yaml, or restore the artifact",
        )
    card = load_card(initial.artifact)
    if (card.architecture, card.arguments) != (stage.architecture, stage.arguments):
        raise ModelFormatError(
            "The initial weights are of another network",
            where=initial.artifact,
            why=f"{card.architecture} {card.arguments}, not {stage.architecture} {stage.arguments}",
            next_step="give pretrain.bases in recipe.yaml the architecture and arguments of the artifact",
        )
    return load_model(initial.artifact).state_dict()


run_component(prepared_processes(main))
