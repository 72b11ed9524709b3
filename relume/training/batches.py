"""Training crops from the shards of `curate`, each a function of its sample number alone."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from relume.degradations import add_gaussian_noise, counter_rng
from relume.errors import ConfigError, SourceError
from relume.training.config import Degradation


class PatchShards:
    """The training patches, memory-mapped: only what a crop touches is read.

    Args:
        folder: Holds `train-*.npy`, each uint8 (N, P, P, 3).

    Raises:
        SourceError: There is no shard.
    """

    def __init__(self, folder: str | Path):
        files = sorted(Path(folder).glob("train-*.npy"))
        if not files:
            raise SourceError("No training patches", where=folder, next_step="run `dvc repro curate`")
        self.shards = [np.load(file, mmap_mode="r") for file in files]
        self.starts = np.cumsum([0, *(len(shard) for shard in self.shards)])
        self.side = int(self.shards[0].shape[1])

    def __len__(self) -> int:
        return int(self.starts[-1])

    def __getitem__(self, index: int) -> np.ndarray:
        """One patch, uint8 (P, P, 3), as a view of the shard."""
        shard = int(np.searchsorted(self.starts, index, side="right")) - 1
        return self.shards[shard][index - self.starts[shard]]


def dihedral(image: np.ndarray, mode: int) -> np.ndarray:
    """One of the eight flips and rotations of an (H, W, C) image; `mode` from 0 (the image itself) to 7."""
    image = np.rot90(image, mode % 4)
    return image[:, ::-1] if mode >= 4 else image


class NoisyCrops:
    """Pairs of noisy and clean crops; sample n depends on the seed and n, not on what was drawn before.

    Args:
        patches: Where crops come from.
        degradation: Noise range and protocol.
        seed: Of order, crops, flips and noise.
        indices: The patches that make one epoch, all by default; a patch may stand in it several times.
    """

    def __init__(
        self, patches: PatchShards, degradation: Degradation, *, seed: int, indices: Sequence[int] | None = None
    ):
        self.patches, self.degradation, self.seed = patches, degradation, seed
        self.indices = np.arange(len(patches)) if indices is None else np.asarray(indices)
        self._epoch, self._order = -1, self.indices

    def _index(self, sample: int) -> int:
        epoch, position = divmod(sample, len(self.indices))
        if epoch != self._epoch:
            rng = counter_rng(self.seed, "order", epoch)
            self._epoch, self._order = epoch, rng.permutation(self.indices)
        return int(self._order[position])

    def sample(self, number: int, size: int) -> tuple[np.ndarray, np.ndarray]:
        """Sample `number`: noisy and clean crop, each float32 (3, size, size) in about [0, 1]."""
        patch = self.patches[self._index(number)]
        rng = counter_rng(self.seed, "sample", number)
        top, left = rng.integers(0, self.patches.side - size + 1, 2)
        crop = dihedral(patch[top : top + size, left : left + size], int(rng.integers(8)))
        clean = np.ascontiguousarray(crop.transpose(2, 0, 1)).astype(np.float32) / np.float32(255)
        sigma = rng.uniform(*self.degradation.sigma)
        clipped = bool(rng.random() < self.degradation.clipped_fraction)
        return add_gaussian_noise(clean, sigma, rng, clipped=clipped), clean

    def batch(self, first: int, count: int, size: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Samples `first` to `first + count`: noisy and clean, float32 (count, 3, size, size).

        Raises:
            ConfigError: The crop is larger than the patches.
        """
        if size > self.patches.side:
            raise ConfigError(
                "A training phase asks for crops larger than the patches",
                where=f"patch: {size}",
                why=f"curate.patch is {self.patches.side}",
                next_step="raise curate.patch or lower the phase's patch in params.yaml",
            )
        noisy, clean = zip(*(self.sample(first + i, size) for i in range(count)), strict=True)
        return torch.from_numpy(np.stack(noisy)), torch.from_numpy(np.stack(clean))
