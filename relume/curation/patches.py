"""Training patches: their places in a photograph, which are worth keeping, and the shards they are packed in."""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from relume.curation.quality import flat_fraction, sharpness


@dataclass(frozen=True, kw_only=True)
class Patch:
    """A square of a photograph.

    Attributes:
        image_id: The photograph.
        y: Top row, in pixels.
        x: Left column, in pixels.
        sharpness: Variance of the Laplacian.
        flat_fraction: Share without structure.
    """

    image_id: str
    y: int
    x: int
    sharpness: float
    flat_fraction: float

    @property
    def patch_id(self) -> str:
        """Name that is the same in every run."""
        return f"{self.image_id}_{self.y:05d}_{self.x:05d}"


def find_patches(image_id: str, luma: np.ndarray, *, side: int, stride: int, max_flat_fraction: float) -> list[Patch]:
    """Lists the patches of a photograph that are not too flat, row by row.

    Args:
        image_id: The photograph.
        luma: (H, W) gray values, 0 to 255; no side below `side`.
        side: Side of a patch, in pixels.
        stride: Distance between patches; the last of a row or column is flush with the border.
        max_flat_fraction: Flatter patches are left out.
    """
    patches = []
    for y in _starts(luma.shape[0], side, stride):
        for x in _starts(luma.shape[1], side, stride):
            part = luma[y : y + side, x : x + side]
            if (flat := flat_fraction(part)) <= max_flat_fraction:
                patches.append(Patch(image_id=image_id, y=y, x=x, sharpness=sharpness(part), flat_fraction=flat))
    return patches


def choose_patches(by_photograph: Sequence[Sequence[Patch]], quota: int, seed: int) -> set[str]:
    """Chooses at most `quota` patches of some photographs, as evenly over them as they allow.

    Returns:
        Names of the chosen patches. Which ones of a photograph depends on their names and the seed alone.
    """

    def key(patch: Patch) -> bytes:
        return hashlib.sha256(f"{seed}:{patch.patch_id}".encode()).digest()

    ranked = [(rank, patch) for patches in by_photograph for rank, patch in enumerate(sorted(patches, key=key))]
    ranked.sort(key=lambda item: (item[0], key(item[1])))
    return {patch.patch_id for _, patch in ranked[:quota]}


class PatchShardWriter:
    """Writes `train-00000.npy`, ... and `patches.parquet` beside them.

    Shards are uint8 (N, side, side, 3) RGB in C order; the rows of the table are in the order of the
    shards and of the patches in them.

    Args:
        folder: Where to.
        count: Number of patches that will come.
        side: Side of a patch, in pixels.
        shard_megabytes: Size of a shard.
    """

    def __init__(self, folder: Path, count: int, *, side: int, shard_megabytes: float):
        self._folder, self._count, self._side = folder, count, side
        self._per_shard = max(1, int(shard_megabytes * 1e6 / (side * side * 3)))
        self._rows: list[tuple[str, int, Patch]] = []
        self._shard: np.memmap | None = None

    def add(self, patch: Patch, pixels: np.ndarray) -> None:
        """Appends the patch, cut out of its photograph's uint8 pixels."""
        number, row = divmod(len(self._rows), self._per_shard)
        name = f"train-{number:05d}.npy"
        if row == 0:
            shape = (min(self._per_shard, self._count - len(self._rows)), self._side, self._side, 3)
            self._shard = np.lib.format.open_memmap(self._folder / name, mode="w+", dtype=np.uint8, shape=shape)
            with open(self._folder / name, "r+b") as file:
                # On a full disk this is refused; a page of the map without space would end the process by SIGBUS.
                os.posix_fallocate(file.fileno(), 0, os.fstat(file.fileno()).st_size)
        assert self._shard is not None
        self._shard[row] = pixels[patch.y : patch.y + self._side, patch.x : patch.x + self._side]
        self._rows.append((name, row, patch))

    def close(self) -> None:
        """Writes the table."""
        import pyarrow as pa
        from pyarrow import parquet

        assert len(self._rows) == self._count
        if self._shard is not None:
            self._shard.flush()
        patches = [patch for _, _, patch in self._rows]
        table = pa.table(
            {
                "patch_id": pa.array([patch.patch_id for patch in patches], pa.string()),
                "image_id": pa.array([patch.image_id for patch in patches], pa.string()),
                "split": pa.array(["train"] * len(patches), pa.string()),
                "shard": pa.array([shard for shard, _, _ in self._rows], pa.string()),
                "row": pa.array([row for _, row, _ in self._rows], pa.int64()),
                "y": pa.array([patch.y for patch in patches], pa.int64()),
                "x": pa.array([patch.x for patch in patches], pa.int64()),
                "size": pa.array([self._side] * len(patches), pa.int64()),
                "sharpness": pa.array([round(patch.sharpness, 3) for patch in patches], pa.float64()),
                "flat_fraction": pa.array([round(patch.flat_fraction, 4) for patch in patches], pa.float64()),
            }
        )
        parquet.write_table(table, self._folder / "patches.parquet", compression="zstd")


def _starts(length: int, side: int, stride: int) -> list[int]:
    starts = list(range(0, length - side + 1, stride))
    if starts[-1] != length - side:
        starts.append(length - side)
    return starts
