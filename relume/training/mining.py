"""Hard-patch mining: how much loss a model leaves on each training patch.

Source: the hard-example fine-tuning of the challenge's Pixel Purifiers team (arXiv 2504.12276). The report
gives neither threshold nor noise draws; here the degradation has one level and the loss is averaged over
several draws, because one draw ranks by luck.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import nn

from relume.degradations import Degradation, Degraded, counter_rng, degrade
from relume.reading import reading
from relume.training.patches import Patches


@torch.inference_mode()
def patch_losses(
    network: nn.Module,
    patches: Patches,
    *,
    degradation: Degradation,
    draws: int,
    batch: int,
    seed: int,
    progress: Callable[[int], None],
) -> np.ndarray:
    """Mean absolute error of the restored patch, for every training patch.

    Args:
        network: In eval mode.
        patches: All training patches.
        degradation: Of one level for all patches, so that their losses compare; pairs have their own.
        draws: Degradations of each patch to average over.
        batch: Patches restored at once.
        seed: Of the noise; realisation d of patch i is the same in every run.
        progress: Called with how many patches are done.

    Returns:
        float32 (number of patches,), in [0, 1].
    """
    device = next(network.parameters()).device
    losses = np.zeros(len(patches), dtype=np.float32)
    for first in range(0, len(patches), batch):
        rows = range(first, min(first + batch, len(patches)))
        found = patches.read(rows)
        clean = np.stack([patch if patch.ndim == 3 else patch[1] for patch in found])
        side = patches.side // degradation.scale * degradation.scale  # what a network that enlarges gives
        clean = clean[:, :side, :side].transpose(0, 3, 1, 2).astype(np.float32) / np.float32(255)
        for draw in range(draws):
            results = [
                degrade(image, degradation, counter_rng(seed, "mining", i, draw)) if patch.ndim == 3 else _given(patch)
                for i, image, patch in zip(rows, clean, found, strict=True)
            ]
            images_NCHW = torch.from_numpy(np.stack([result.image for result in results])).to(device)
            inputs = [images_NCHW.contiguous(memory_format=torch.channels_last)]
            if degradation.level is not None:
                inputs.append(torch.tensor([result.level for result in results], dtype=torch.float32, device=device))
            restored = network(*inputs).cpu().numpy()
            losses[rows.start : rows.stop] += np.abs(restored - clean).mean(axis=(1, 2, 3)) / draws
        progress(rows.stop)
    return losses


def _given(pair: np.ndarray) -> Degraded:
    """The degraded side of a patch of a pair."""
    return Degraded(image=pair[0].transpose(2, 0, 1).astype(np.float32) / np.float32(255), level=None)


def hardest_first(losses: np.ndarray) -> np.ndarray:
    """The patches by number, that of the largest loss first; of equal losses the lower number first."""
    return np.argsort(-losses, kind="stable")


def hard_count(fraction: float, patches: int) -> int:
    """How many of so many patches are hard, one at least."""
    return max(1, round(fraction * patches))


def write_ranking(path: Path, ranked: np.ndarray, hard: int, losses: np.ndarray | None) -> None:
    """Writes a row for each patch: `patch`, `loss` (null where none was measured), `rank` from 0, and `hard`.

    Args:
        path: A Parquet file.
        ranked: All patches by number, the hardest first.
        hard: How many of them are hard.
        losses: Of each patch.
    """
    import pyarrow as pa
    from pyarrow import parquet

    rank = np.empty(len(ranked), dtype=np.int64)
    rank[ranked] = np.arange(len(ranked))
    column = pa.nulls(len(ranked), pa.float32()) if losses is None else losses
    table = pa.table({"patch": np.arange(len(ranked)), "loss": column, "rank": rank, "hard": rank < hard})
    parquet.write_table(table, path)


def read_ranking(path: Path) -> tuple[np.ndarray, int]:
    """All patches by number, the hardest first, and how many of them are hard, as `write_ranking` wrote them.

    Raises:
        BrokenFileError: The file is missing or damaged.
    """
    from pyarrow import parquet

    with reading(path, next_step="run `dvc repro --force mine_hard`"):
        table = parquet.read_table(path, columns=["rank", "hard"])
        ranked = np.argsort(table["rank"].to_numpy())
        if not np.array_equal(table["rank"].to_numpy()[ranked], np.arange(len(ranked))):
            raise ValueError("its ranks are not those of all patches")
        return ranked, int(table["hard"].to_numpy().sum())


def hard_epoch(ranked: np.ndarray, hard: int, other_fraction: float) -> list[int]:
    """The patches of one epoch of the fine-tuning.

    Args:
        ranked: All patches by number, the hardest first.
        hard: How many of them are hard; all of these are in the epoch.
        other_fraction: Share of the epoch that is taken evenly from the rest of the ranking, so that what the model
            does well already is not forgotten; less where the rest is smaller.
    """
    others = ranked[hard:]
    wanted = min(round(hard * other_fraction / (1 - other_fraction)), len(others))
    return [int(patch) for patch in (*ranked[:hard], *others[np.linspace(0, len(others) - 1, wanted, dtype=int)])]
