"""python -m components.mine_hard: ranks all training patches into data/hard_patches/hard.parquet."""

import itertools

import numpy as np
import torch

from components.step import run_component
from components.training_stage.curated import Curated
from relume.files import atomic_folder
from relume.models.artifact import load_model
from relume.params_file import load_section
from relume.progress import Progress
from relume.training.config import TrainingSettings
from relume.training.mining import hard_count, hardest_first, patch_losses, write_ranking
from relume.training.patches import Patches
from relume.training.rules import level_problems, pair_problems, scale_problems
from relume.training.stages import MiningSettings


def main() -> None:
    """Reads `mine_hard` and `training`, writes a row for each patch: patch, loss, rank, hard.

    Where all patches count as hard there is nothing to rank: their losses are null.
    """
    params = load_section("mine_hard", MiningSettings)
    training = load_section("training", TrainingSettings)
    torch.set_num_threads(training.threads)
    patches = Curated(training).patches()
    count = hard_count(params.fraction, len(patches))
    if count == len(patches):
        losses, ranked = None, np.arange(len(patches))
        print(f"mine_hard  all {len(patches)} patches count as hard, so their losses are not ranked", flush=True)
    else:
        losses = measured(patches, params, training.seed)
        ranked = hardest_first(losses)
        print(
            f"mine_hard  {count} of {len(patches)} patches are hard:"
            f" mean loss {losses[ranked[:count]].mean():.4f}, of all {losses.mean():.4f}",
            flush=True,
        )
    with atomic_folder("data/hard_patches") as folder:
        write_ranking(folder / "hard.parquet", ranked, count, losses)


def measured(patches: Patches, params: MiningSettings, seed: int) -> np.ndarray:
    """The loss that the ensemble leaves on each patch, on a GPU where there is one; prints how far it is."""
    network = load_model("models/ensemble").to("cuda" if torch.cuda.is_available() else "cpu")
    where = "mine_hard.degradation"
    found = itertools.chain(
        level_problems(params.degradation, network, where=where),
        scale_problems(params.degradation, network, where=where),
    )
    if patches.pairs:
        found = itertools.chain(found, pair_problems(network, where="mine_hard"))
    for problem in found:
        raise problem
    progress = Progress("mine_hard", one_by_one=True)
    return patch_losses(
        network,
        patches,
        degradation=params.degradation,
        draws=params.draws,
        batch=params.batch,
        seed=seed,
        progress=lambda done: progress("patches", done, len(patches)),
    )


run_component(main)
