"""Training patches by number, from the shards of `curate` on this machine."""

from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

import numpy as np

from relume.errors import SourceError
from relume.reading import reading


class Patches(Protocol):
    """All training patches, in the order of the shards.

    Attributes:
        side: Of a patch, in pixels.
    """

    side: int

    def __len__(self) -> int: ...

    def read(self, indices: Iterable[int]) -> list[np.ndarray]:
        """Some patches by number, each uint8 (P, P, 3), not to be written to."""


class PatchPositions:
    """Where patch n of all is stored.

    Args:
        counts: Patches in each shard.
    """

    def __init__(self, counts: Iterable[int]):
        self._starts = np.cumsum([0, *counts])

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, index: int) -> tuple[int, int]:
        """The shard's number and the row in it."""
        shard = int(np.searchsorted(self._starts, index, side="right")) - 1
        return shard, int(index - self._starts[shard])


class PatchShards:
    """The patches of a folder, memory-mapped: only what a crop touches is read.

    Args:
        folder: Holds `train-*.npy`, each uint8 (N, P, P, 3).

    Raises:
        SourceError: There is no shard.
        BrokenFileError: A shard is damaged.
    """

    def __init__(self, folder: str | Path):
        files = sorted(Path(folder).glob("train-*.npy"))
        if not files:
            raise SourceError("There are no training patches", where=folder, next_step="run `dvc repro curate`")
        self.shards = [_open_shard(file) for file in files]
        self.side = int(self.shards[0].shape[1])
        self._positions = PatchPositions(len(shard) for shard in self.shards)

    def __len__(self) -> int:
        return len(self._positions)

    def __getitem__(self, index: int) -> np.ndarray:
        """One patch, uint8 (P, P, 3), as a view of the shard."""
        shard, row = self._positions[index]
        return self.shards[shard][row]

    def read(self, indices: Iterable[int]) -> list[np.ndarray]:
        """See `Patches.read`."""
        return [self[index] for index in indices]


def _open_shard(path: Path) -> np.ndarray:
    with reading(path, next_step="run `dvc repro --force curate`"):
        shard = np.load(path, mmap_mode="r")
        if shard.dtype != np.uint8 or shard.ndim != 4 or shard.shape[1] != shard.shape[2] or shard.shape[3] != 3:
            raise ValueError(f"it holds {shard.dtype} of shape {shard.shape}, not uint8 (N, P, P, 3)")
        # A plain view of the map: slicing a np.memmap costs several times that of an array.
        return shard.view(np.ndarray)
