"""python -m components.mine_hard: ranks all training patches into data/hard_patches/hard.parquet."""

import sys
import time

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from components.step import load_params, run_step
from components.training_stage import Curated
from relume.files import atomic_folder
from relume.models.artifact import load_model
from relume.training.config import TrainingSettings
from relume.training.mining import hard_count, hardest_first, patch_losses
from relume.training.stages import MiningSettings


def main() -> None:
    """Reads `mine_hard` and `training`, writes a row for each patch: patch, loss, rank, hard."""
    params = load_params("mine_hard", MiningSettings)
    training = load_params("training", TrainingSettings)
    torch.set_num_threads(training.threads)
    patches = Curated(training).patches()
    last = time.monotonic()

    def progress(done: int) -> None:
        nonlocal last
        if time.monotonic() - last > 5 or (done == len(patches) and sys.stdout.isatty()):
            print(f"mine_hard  {done}/{len(patches)} patches", flush=True)
            last = time.monotonic()

    losses = patch_losses(
        load_model("models/ensemble"),
        patches,
        degradation=params.degradation,
        draws=params.draws,
        batch=params.batch,
        seed=training.seed,
        progress=progress,
    )
    rank = np.empty(len(losses), dtype=np.int64)
    rank[hardest_first(losses)] = np.arange(len(losses))
    hard = rank < hard_count(params.fraction, len(losses))
    table = pa.table({"patch": np.arange(len(losses)), "loss": losses, "rank": rank, "hard": hard})
    with atomic_folder("data/hard_patches") as folder:
        pq.write_table(table, folder / "hard.parquet")
    print(
        f"mine_hard  {hard.sum()} of {len(losses)} patches are hard:"
        f" mean loss {losses[hard].mean():.4f}, of all {losses.mean():.4f}",
        flush=True,
    )


run_step(main)
