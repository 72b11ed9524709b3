"""Hard-patch mining: how much loss a model leaves on each training patch.

Source: the hard-example fine-tuning of the challenge's Pixel Purifiers team (arXiv 2504.12276). The report
gives neither threshold nor noise draws; here the degradation has one level and the loss is averaged over
several draws, because one draw ranks by luck.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from relume.degradations import Degradation, counter_rng, degrade
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
        degradation: Of one level for all patches, so that their losses compare.
        draws: Degradations of each patch to average over.
        batch: Patches restored at once.
        seed: Of the noise; realisation d of patch i is the same in every run.
        progress: Told how many patches are done.

    Returns:
        float32 (number of patches,), in [0, 1].
    """
    losses = np.zeros(len(patches), dtype=np.float32)
    for first in range(0, len(patches), batch):
        rows = range(first, min(first + batch, len(patches)))
        clean = np.stack(patches.read(rows)).transpose(0, 3, 1, 2).astype(np.float32) / np.float32(255)
        for draw in range(draws):
            results = [
                degrade(image, degradation, counter_rng(seed, "mining", i, draw))
                for i, image in zip(rows, clean, strict=True)
            ]
            images_NCHW = torch.from_numpy(np.stack([result.image for result in results]))
            inputs = [images_NCHW.contiguous(memory_format=torch.channels_last)]
            if degradation.level is not None:
                inputs.append(torch.tensor([result.level for result in results], dtype=torch.float32))
            restored = network(*inputs).numpy()
            losses[rows.start : rows.stop] += np.abs(restored - clean).mean(axis=(1, 2, 3)) / draws
        progress(rows.stop)
    return losses
