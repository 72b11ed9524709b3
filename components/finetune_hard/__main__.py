"""python -m components.finetune_hard: fine-tunes models/ensemble on the hard patches into models/final."""

import dataclasses
from pathlib import Path

import torch

from components.step import run_component
from components.training_stage.ranks import prepared_processes
from components.training_stage.train import train_stage
from relume.models.artifact import ModelCard, load_card, load_model
from relume.models.bias_adaptation import BiasAdapted, plan_biases
from relume.models.registry import build
from relume.params_file import load_section
from relume.training.config import TrainingSettings
from relume.training.mining import hard_epoch, read_ranking
from relume.training.stages import ChosenReuse, FinetuneSettings

ENSEMBLE, FINAL = Path("models/ensemble"), Path("models/final")
RANKING = Path("data/hard_patches/hard.parquet")


def main() -> None:
    """Reads `finetune_hard` and `training`, writes the final model."""
    settings = load_section("finetune_hard", FinetuneSettings)
    training = load_section("training", TrainingSettings)
    card, network = load_card(ENSEMBLE), load_model(ENSEMBLE)
    if isinstance(settings.adapt, ChosenReuse):
        card, network = reused(card, network, settings)
    elif settings.adapt == "biases":
        card, network = with_biases(card, network)
    train_stage(
        "finetune_hard",
        network.train(),
        out=FINAL,
        card=card,
        stage=settings,
        training=training,
        inputs=[ENSEMBLE],
        indices=epoch(settings.other_fraction) if settings.phases else None,
    )


def epoch(other_fraction: float) -> list[int]:
    """The hard patches, and others evenly from the rest of the ranking."""
    ranked, hard = read_ranking(RANKING)
    return hard_epoch(ranked, hard, other_fraction)


def reused(card: ModelCard, network: torch.nn.Module, settings: FinetuneSettings) -> tuple[ModelCard, torch.nn.Module]:
    """The network of the same weights whose blocks are applied as often as the settings say, and its card."""
    arguments = settings.arguments(card.arguments)
    chosen = build(card.architecture, arguments)
    chosen.load_state_dict(network.state_dict())
    return dataclasses.replace(card, arguments=arguments), chosen


def with_biases(card: ModelCard, network: torch.nn.Module) -> tuple[ModelCard, torch.nn.Module]:
    """The frozen network with zero biases to train, and its card."""
    arguments = plan_biases(card.architecture, card.arguments)
    adapted = BiasAdapted(**arguments)
    adapted.load_frozen(network.state_dict())
    return dataclasses.replace(card, architecture="bias_adapted", arguments=arguments), adapted


run_component(prepared_processes(main))
