"""python -m components.finetune_hard: fine-tunes models/ensemble on the hard patches into models/final."""

from typing import Annotated

import numpy as np
import pyarrow.parquet as pq
from pydantic import Field

from components.step import load_params, run_step
from components.training_stage import train_stage
from relume.models.artifact import load_card, load_model
from relume.training.config import StageSettings, TrainingSettings


class FinetuneSettings(StageSettings):
    """The fine-tune's training.

    Attributes:
        other_fraction: Of an epoch, patches that are not hard, so that the model does not drift.
    """

    other_fraction: Annotated[float, Field(ge=0, lt=1)]


def main() -> None:
    """Reads `finetune_hard` and `training`, writes the final model."""
    settings = load_params("finetune_hard", FinetuneSettings)
    training = load_params("training", TrainingSettings)
    table = pq.read_table("data/hard_patches/hard.parquet").to_pydict()
    ranked = np.asarray(table["patch"])[np.argsort(table["rank"])]
    count = int(np.sum(table["hard"]))
    hard, others = ranked[:count], ranked[count:]
    wanted = round(count * settings.other_fraction / (1 - settings.other_fraction))
    others = others[np.linspace(0, len(others) - 1, min(wanted, len(others)), dtype=int)]
    card = load_card("models/ensemble")
    network = load_model("models/ensemble").train()
    train_stage(
        "finetune_hard",
        network,
        out="models/final",
        architecture=card.architecture,
        arguments=card.arguments,
        stage=settings,
        training=training,
        inputs=["models/ensemble"],
        indices=[int(i) for i in (*hard, *others)],
    )


run_step(main)
