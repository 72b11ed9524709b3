"""Training patches by number, from the shards of `curate` on this machine."""

import io
from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Protocol

import numpy as np

from relume.errors import SourceError
from relume.reading import reading


class Patches(Protocol):
    """All training patches, in the order of the shards: those of photographs, then those of pairs.

    Attributes:
        side: Of a patch, in pixels.
        pairs: How many patches, the last ones, are of pairs.
    """

    side: int
    pairs: int

    def __len__(self) -> int: ...

    def read(self, indices: Iterable[int]) -> list[np.ndarray]:
        """Some patches by number, each uint8 (P, P, 3), of a pair (2, P, P, 3), the degraded before the clean one."""

    def table(self) -> "PatchTable":
        """What is known of each."""

    def scores(self) -> "PatchScores | None":
        """The scores of the photographs that they are of, where the curation has a rule that measures them."""


@dataclass(frozen=True, kw_only=True)
class PatchTable:
    """The columns of `patches.parquet` that a training chooses by, in the order of the patches.

    Attributes:
        set: Name of its set.
        sharpness: Variance of the Laplacian.
        flat_fraction: Share without structure.
    """

    set: np.ndarray
    sharpness: np.ndarray
    flat_fraction: np.ndarray


def read_patch_table(file: Path | io.BytesIO, *, where: str | Path) -> PatchTable:
    """Reads `patches.parquet`.

    Args:
        file: The table.
        where: Its name in a message.

    Raises:
        BrokenFileError: It is missing or damaged.
    """
    from pyarrow import parquet

    columns = [field.name for field in fields(PatchTable)]
    with reading(where, next_step="run `dvc repro --force curate`"):
        table = parquet.read_table(file, columns=columns)
        return PatchTable(**{name: np.asarray(table[name].to_pylist()) for name in columns})


class PatchScores:
    """What `scores.parquet` knows of the photograph of each patch.

    Args:
        scores: The file.
        patches: `patches.parquet`.
        where: The folder of both in a message.

    Attributes:
        names: Of the scores.
    """

    def __init__(self, scores: Path | io.BytesIO, patches: Path | io.BytesIO, *, where: str | Path):
        from pyarrow import parquet, types

        self._scores, self._patches, self._where = scores, patches, where
        with reading(where, next_step="run `dvc repro --force curate`"):
            schema = parquet.read_schema(scores)
        self.names = tuple(
            field.name for field in schema if types.is_integer(field.type) or types.is_floating(field.type)
        )

    def __getitem__(self, name: str) -> np.ndarray:
        """(N,) a score of the photograph of each patch, NaN where it was not measured.

        Raises:
            BrokenFileError: A file is damaged.
        """
        from pyarrow import compute, parquet

        with reading(self._where, next_step="run `dvc repro --force curate`"):
            scores = parquet.read_table(self._scores, columns=["image_id", name])
            of = parquet.read_table(self._patches, columns=["image_id"])["image_id"]
            rows = compute.index_in(of, value_set=scores["image_id"].combine_chunks())
            values = compute.take(scores[name], rows).to_numpy()
        return np.asarray(values, np.float64)


def shard_files(folder: str | Path) -> list[Path]:
    """The shards of patches in a curated folder, in their order.

    Raises:
        SourceError: There is none.
    """
    files = [file for kind in ("train", "pairs") for file in sorted(Path(folder).glob(f"{kind}-*.npy"))]
    if not files:
        raise SourceError("There are no training patches", where=folder, next_step="run `dvc repro curate`")
    return files


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
        folder: Holds `train-*.npy`, each uint8 (N, P, P, 3), and `pairs-*.npy`, each uint8 (N, 2, P, P, 3).

    Raises:
        SourceError: There is no shard.
        BrokenFileError: A shard is damaged.
    """

    def __init__(self, folder: str | Path):
        self._folder = Path(folder)
        self.shards = [_open_shard(file) for file in shard_files(folder)]
        self.side = int(self.shards[0].shape[-2])
        self.pairs = sum(len(shard) for shard in self.shards if shard.ndim == 5)
        self._positions = PatchPositions(len(shard) for shard in self.shards)

    def __len__(self) -> int:
        return len(self._positions)

    def __getitem__(self, index: int) -> np.ndarray:
        """One patch, as a view of the shard."""
        shard, row = self._positions[index]
        return self.shards[shard][row]

    def read(self, indices: Iterable[int]) -> list[np.ndarray]:
        """See `Patches.read`."""
        return [self[index] for index in indices]

    def table(self) -> PatchTable:
        """See `Patches.table`."""
        path = self._folder / "patches.parquet"
        return read_patch_table(path, where=path)

    def scores(self) -> PatchScores | None:
        """See `Patches.scores`."""
        path = self._folder / "scores.parquet"
        return PatchScores(path, self._folder / "patches.parquet", where=self._folder) if path.is_file() else None


def _open_shard(path: Path) -> np.ndarray:
    with reading(path, next_step="run `dvc repro --force curate`"):
        shard = np.load(path, mmap_mode="r")
        of_pairs = path.name.startswith("pairs")
        side = shard.shape[-2] if shard.ndim > 1 else 0
        if shard.dtype != np.uint8 or shard.shape[1:] != ((2,) if of_pairs else ()) + (side, side, 3):
            wanted = "(N, 2, P, P, 3)" if of_pairs else "(N, P, P, 3)"
            raise ValueError(f"it holds {shard.dtype} of shape {shard.shape}, not uint8 {wanted}")
        # A plain view of the map: slicing a np.memmap costs several times that of an array.
        return shard.view(np.ndarray)
