"""The artifact that a training stage writes: weights, card and history."""

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from components.training_stage.ranks import is_first_rank
from relume.files import sha256_folder
from relume.models.artifact import ModelCard, save_model
from relume.training.config import EveryLevel, ResolvedStage


def pass_on(name: str, network: Any, *, out: str | Path, card: ModelCard, inputs: Sequence[str | Path]) -> None:
    """Writes the artifact of a stage that trains nothing.

    Args:
        name: The stage's name.
        network: That of the stage before, or a fusion of base models.
        out: The artifact's folder.
        card: Architecture, arguments and what it was trained for.
        inputs: Folders of the model artifacts that it was made of.
    """
    if not is_first_rank():
        return
    provenance = {"stage": name, "data_sha256": hash_of(*map(sha256_folder, inputs)), "settings": {"phases": []}}
    save_model(out, network, replace(card, provenance=provenance), files={"history.csv": history_csv([])})
    print(f"{name}  no phases are set, so the network is written untrained", flush=True)


def trained_for(stage: ResolvedStage) -> dict[str, Any]:
    """The degradation and the sets of the last phase, and the lowest and highest level of all phases."""
    degradations = [phase.degradation for phase in stage.phases]
    found = {"description": degradations[-1].describe(), "degradation": degradations[-1].model_dump(mode="json")}
    if stage.phases[-1].data is not None:
        found["data"] = stage.phases[-1].model_dump(mode="json", include={"data"})["data"]
    levels = [level for degradation in degradations for level in degradation.levels or ()]
    if isinstance(stage.method, EveryLevel):
        levels = list(stage.method.levels)
    return found | ({"levels": [min(levels), max(levels)]} if levels else {})


def hash_of(*hashes: str) -> str:
    return hashlib.sha256("".join(hashes).encode()).hexdigest()


def history_csv(history: list[dict[str, float]]) -> str:
    names = ["step", "loss", "lr", "accuracy" if history and "accuracy" in history[0] else "psnr"]
    rows = [",".join(f"{row[name]:.8g}" for name in names) for row in history]
    return "\n".join([",".join(names), *rows]) + "\n"
