"""Hard-patch mining: how much loss a model leaves on each training patch.

Source: the hard-example fine-tuning of the challenge's Pixel Purifiers team (arXiv 2504.12276). The report
gives neither threshold nor noise draws; here the noise level is fixed and the loss averaged over several
draws, because one draw ranks by luck.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from relume.degradations import add_gaussian_noise, counter_rng
from relume.training.batches import PatchShards


@torch.inference_mode()
def patch_losses(
    network: nn.Module,
    patches: PatchShards,
    *,
    sigma: float,
    draws: int,
    batch: int,
    seed: int,
    progress: Callable[[int], None],
) -> np.ndarray:
    """Mean absolute error of the restored patch, for every training patch.

    Args:
        network: In eval mode.
        patches: All training patches.
        sigma: Noise level on the [0, 255] scale; clipped and rounded to 8 bits.
        draws: Noise realisations to average over.
        batch: Patches restored at once.
        seed: Of the noise; realisation d of patch i is the same in every run.
        progress: Told how many patches are done.

    Returns:
        float32 (number of patches,), in [0, 1].
    """
    losses = np.zeros(len(patches), dtype=np.float32)
    for first in range(0, len(patches), batch):
        rows = range(first, min(first + batch, len(patches)))
        clean = np.stack([patches[i] for i in rows]).transpose(0, 3, 1, 2).astype(np.float32) / np.float32(255)
        for draw in range(draws):
            noisy = np.stack(
                [
                    add_gaussian_noise(image, sigma, counter_rng(seed, "mining", i, draw), clipped=True)
                    for i, image in zip(rows, clean, strict=True)
                ]
            )
            batch_NCHW = torch.from_numpy(noisy).contiguous(memory_format=torch.channels_last)
            restored = network(batch_NCHW).numpy()
            losses[rows.start : rows.stop] += np.abs(restored - clean).mean(axis=(1, 2, 3)) / draws
        progress(rows.stop)
    return losses
