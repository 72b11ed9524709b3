"""Trains a network on the curated patches, and writes its artifact."""

import contextlib
import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from components.tracking import StageRun
from components.training_stage.artifact import hash_of, history_csv, pass_on, trained_for
from components.training_stage.curated import Curated
from components.training_stage.ranks import is_first_rank
from components.training_stage.reporting import reporter, silent
from relume.files import sha256_folder
from relume.home import relume_home
from relume.models.artifact import ModelCard, save_model
from relume.params_file import PARAMS, RECIPE
from relume.training.batches import TrainingCrops
from relume.training.checkpoint import Checkpoint, checkpoint_key
from relume.training.config import StageSettings, TrainingSettings
from relume.training.validation import validation

# What does not change what is trained: a training with other values of these is resumed from the same checkpoint.
NOT_TRAINED = {"checkpoint_seconds", "patch_cache_mb", "patches", "processes", "strategy", "workers"}


def train_stage(
    name: str,
    network: Any,
    *,
    out: str | Path,
    card: ModelCard,
    stage: StageSettings,
    training: TrainingSettings,
    inputs: Sequence[str | Path] = (),
    indices: Sequence[int] | None = None,
) -> None:
    """Trains a network on the curated patches and writes its artifact; without phases, the network as it is.

    Args:
        name: The stage's name, such as `pretrain@nafnet`.
        network: Its parameters that require gradients are trained.
        out: The artifact's folder.
        card: Architecture and arguments, and for a stage without phases what the network was trained for.
        stage: What is trained and how long.
        training: What all training stages share.
        inputs: Further folders that the training reads, such as its base models.
        indices: The patches that make an epoch; all by default.
    """
    if not stage.phases:
        pass_on(name, network, out=out, card=card, inputs=inputs)
        return
    # Fabric takes a second to import, which stages that train nothing need not wait for.
    from relume.training.loop import train

    configuration = {
        "stage": stage.model_dump(mode="json"),
        "training": training.model_dump(mode="json", exclude=NOT_TRAINED),
        "model": {"architecture": card.architecture, "arguments": card.arguments},
        "indices": None if indices is None else hashlib.sha256(str(list(indices)).encode()).hexdigest(),
    }
    curated = Curated(training)
    data_hash = hash_of(curated.sha256, *map(sha256_folder, inputs))
    checkpoint = Checkpoint(relume_home() / "checkpoints", checkpoint_key([name, configuration], data_hash))
    crops = TrainingCrops(curated.patches(), seed=training.seed, indices=indices)
    resolved = stage.resolved(training)
    with contextlib.ExitStack() as stack:
        run = None
        if is_first_rank():
            stack.enter_context(checkpoint.lock())
            run = stack.enter_context(StageRun(name, configuration, record=checkpoint.tracked))
            for file in filter(Path.is_file, map(Path, (PARAMS, RECIPE))):
                run.log_text(file.name, file.read_text(encoding="utf-8"))
        history = train(
            network,
            crops,
            stage=resolved,
            training=training,
            checkpoint=checkpoint,
            validate=validation(curated.validation(), resolved.phases[-1].degradation, training.seed, stage.method),
            report=reporter(name, run, stage) if run else silent,
        )
        if run is None:
            return
        provenance = {"stage": name, "data_sha256": data_hash, "settings": configuration}
        card = replace(card, trained_for=trained_for(resolved), provenance=provenance)
        save_model(out, network, card, files={"history.csv": history_csv(history)})
        run.log_files(Path(out) / "history.csv")
        checkpoint.discard()
