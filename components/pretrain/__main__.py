"""python -m components.pretrain --base NAME: trains one base model into models/bases/NAME."""

import argparse

import torch

from components.step import load_params, run_step
from components.training_stage import train_stage
from relume.models.registry import build
from relume.training.config import BaseModelSettings, TrainingSettings


def main() -> None:
    """Reads `pretrain.bases.NAME` and `training`, writes the model artifact."""
    parser = argparse.ArgumentParser(prog="python -m components.pretrain")
    parser.add_argument("--base", required=True, help="a name below pretrain.bases in params.yaml")
    base = parser.parse_args().base
    stage = load_params(f"pretrain.bases.{base}", BaseModelSettings)
    training = load_params("training", TrainingSettings)
    torch.manual_seed(training.seed)
    train_stage(
        f"pretrain@{base}",
        build(stage.architecture, stage.arguments),
        out=f"models/bases/{base}",
        architecture=stage.architecture,
        arguments=stage.arguments,
        stage=stage,
        training=training,
    )


run_step(main)
