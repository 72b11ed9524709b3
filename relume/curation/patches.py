"""Training patches: their places in a photograph, which are worth keeping, and the shards they are packed in."""

import hashlib
import heapq
import math
import os
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import numpy as np

from relume.curation.quality import flat_fraction, sharpness
from relume.ingestion.ingest import UNNAMED
from relume.kept import Part


@dataclass(frozen=True, kw_only=True, slots=True)
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


_ROW = np.dtype([("y", np.int32), ("x", np.int32), ("sharpness", np.float64), ("flat_fraction", np.float64)])
PATCH_BYTES = _ROW.itemsize
_ROWS_AT_ONCE = 1 << 14  # of the table of patches, until they are written


class Patches(Sequence[Patch]):
    """The patches of one photograph in 24 bytes each: a curation of millions knows those of all.

    Args:
        image_id: The photograph.
        patches: Its patches, in any order.
    """

    __slots__ = ("_image_id", "_rows")

    def __init__(self, image_id: str, patches: Sequence[Patch] = ()):
        self._image_id = image_id
        rows = [(patch.y, patch.x, patch.sharpness, patch.flat_fraction) for patch in patches]
        self._rows = np.array(rows, _ROW)

    @classmethod
    def frombytes(cls, image_id: str, data: bytes) -> "Patches":
        """From what `tobytes` gave."""
        found = cls(image_id)
        found._rows = np.frombuffer(data, _ROW)
        return found

    def tobytes(self) -> bytes:
        """All but the photograph's name, PATCH_BYTES for each."""
        return self._rows.tobytes()

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, index: int) -> Patch: ...
    @overload
    def __getitem__(self, index: slice) -> list[Patch]: ...
    def __getitem__(self, index: int | slice) -> Patch | list[Patch]:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        y, x, sharp, flat = self._rows[index].item()
        return Patch(image_id=self._image_id, y=y, x=x, sharpness=sharp, flat_fraction=flat)


def find_patches(
    image_id: str, luma: np.ndarray, *, side: int, stride: int, max_flat_fraction: float, flush: bool = True
) -> list[Patch]:
    """Lists the patches of a photograph that are not too flat, row by row.

    Args:
        image_id: The photograph.
        luma: (H, W) gray values, uint8 or float32, 0 to 255; no side below `side`.
        side: Side of a patch, in pixels.
        stride: Distance between patches.
        max_flat_fraction: Flatter patches are left out.
        flush: Whether a last patch of a row or column, flush with the border, covers what the grid leaves over.
    """
    patches = []
    for y in _starts(luma.shape[0], side, stride, flush):
        for x in _starts(luma.shape[1], side, stride, flush):
            part = luma[y : y + side, x : x + side]
            if (flat := flat_fraction(part)) <= max_flat_fraction:
                patches.append(Patch(image_id=image_id, y=y, x=x, sharpness=sharpness(part), flat_fraction=flat))
    return patches


def choose_patches(by_photograph: Iterable[Sequence[Patch]], quota: int, seed: int) -> set[str]:
    """Chooses at most `quota` patches of some photographs, as evenly over them as they allow.

    Returns:
        Names of the chosen patches. Which ones of a photograph depends on their names and the seed alone.
    """

    def key(name: str) -> bytes:
        return hashlib.sha256(f"{seed}:{name}".encode()).digest()

    def ranked() -> Iterator[tuple[int, bytes, str]]:
        for patches in by_photograph:
            keys = sorted((key(patch.patch_id), patch.patch_id) for patch in patches)
            yield from ((rank, *found) for rank, found in enumerate(keys))

    return {name for _, _, name in heapq.nsmallest(quota, ranked())}


class _Shards:
    """Shards of arrays of one shape, `<name>-00000.npy`, ...

    Args:
        folder: Where to.
        name: Of the shards.
        count: Number of arrays that will come.
        shape: Of each, uint8.
        shard_megabytes: Size of a shard.
    """

    def __init__(self, folder: Path, name: str, count: int, shape: tuple[int, ...], shard_megabytes: float):
        self._folder, self._name, self._shape = folder, name, shape
        self._per_shard = max(1, int(shard_megabytes * 1e6 / math.prod(shape)))
        self.count, self.added = count, 0
        self._shard: np.memmap | None = None

    def add(self, content: np.ndarray) -> tuple[str, int, int]:
        """Appends an array; returns the shard, the row in it, and the byte where it begins."""
        number, row = divmod(self.added, self._per_shard)
        name = f"{self._name}-{number:05d}.npy"
        if row == 0:
            shape = (min(self._per_shard, self.count - self.added), *self._shape)
            self._shard = np.lib.format.open_memmap(self._folder / name, mode="w+", dtype=np.uint8, shape=shape)
            with open(self._folder / name, "r+b") as file:
                # On a full disk this is refused; a page of the map without space would end the process by SIGBUS.
                os.posix_fallocate(file.fileno(), 0, os.fstat(file.fileno()).st_size)
        assert self._shard is not None
        self._shard[row] = content
        self.added += 1
        return name, row, self._shard.offset + row * content.nbytes

    @property
    def files(self) -> list[str]:
        """The names of all shards."""
        return [f"{self._name}-{number:05d}.npy" for number in range(-(-self.count // self._per_shard))]

    def close(self) -> None:
        """Writes what is left."""
        assert self.added == self.count
        if self._shard is not None:
            self._shard.flush()


def cut(patch: Patch, side: int, pixels: np.ndarray, degraded: np.ndarray | None = None) -> np.ndarray:
    """A patch of a photograph, (side, side, 3) uint8, or of a pair, (2, side, side, 3) with the degraded one first."""
    images = [pixels] if degraded is None else [degraded, pixels]
    parts = [np.ascontiguousarray(image[patch.y : patch.y + side, patch.x : patch.x + side]) for image in images]
    return parts[0] if degraded is None else np.stack(parts)


class PatchShardWriter:
    """Writes `train-00000.npy`, ... of photographs, `pairs-00000.npy`, ... of pairs, and `patches.parquet` beside them.

    Shards are uint8 in C order: (N, side, side, 3) RGB, of pairs (N, 2, side, side, 3) with the degraded patch before
    the clean one. The rows of the table are in the order of the shards, pairs last, and of the patches in them.

    Args:
        folder: Where to.
        count: Number of patches of photographs that will come.
        pairs: Number of patches of pairs that will come after those.
        side: Side of a patch, in pixels.
        shard_megabytes: Size of a shard.
    """

    def __init__(self, folder: Path, count: int, *, pairs: int = 0, side: int, shard_megabytes: float):
        self._folder, self._side = folder, side
        self._single = _Shards(folder, "train", count, (side, side, 3), shard_megabytes)
        self._paired = _Shards(folder, "pairs", pairs, (2, side, side, 3), shard_megabytes)
        self._rows: list[tuple[str, int, Patch, str]] = []
        self._table: Any = None

    @property
    def files(self) -> list[str]:
        """The names of all shards."""
        return self._single.files + self._paired.files

    def shape(self, paired: bool) -> tuple[int, ...]:
        """Of what is added."""
        return (2, self._side, self._side, 3) if paired else (self._side, self._side, 3)

    def add(self, patch: Patch, content: np.ndarray, *, of_set: str = UNNAMED) -> Part:
        """Appends a patch.

        Args:
            patch: Its place.
            content: What `cut` gives, of a photograph or of a pair.
            of_set: The set of the photograph.

        Returns:
            Where it is.
        """
        shard, row, offset = (self._single if content.ndim == 3 else self._paired).add(content)
        self._rows.append((shard, row, patch, of_set))
        if len(self._rows) == _ROWS_AT_ONCE:
            self._write_rows()
        return Part(shard, offset, content.nbytes, zlib.crc32(content.tobytes()))

    def close(self) -> None:
        """Writes what is left."""
        self._single.close()
        self._paired.close()
        if self._rows or self._table is None:
            self._write_rows()
        self._table.close()

    def _write_rows(self) -> None:
        import pyarrow as pa
        from pyarrow import parquet

        patches = [patch for _, _, patch, _ in self._rows]
        table = pa.table(
            {
                "patch_id": pa.array([patch.patch_id for patch in patches], pa.string()),
                "image_id": pa.array([patch.image_id for patch in patches], pa.string()),
                "set": pa.array([of_set for *_, of_set in self._rows], pa.string()),
                "split": pa.array(["train"] * len(patches), pa.string()),
                "shard": pa.array([shard for shard, *_ in self._rows], pa.string()),
                "row": pa.array([row for _, row, *_ in self._rows], pa.int64()),
                "y": pa.array([patch.y for patch in patches], pa.int64()),
                "x": pa.array([patch.x for patch in patches], pa.int64()),
                "size": pa.array([self._side] * len(patches), pa.int64()),
                "sharpness": pa.array([round(patch.sharpness, 3) for patch in patches], pa.float64()),
                "flat_fraction": pa.array([round(patch.flat_fraction, 4) for patch in patches], pa.float64()),
            }
        )
        if self._table is None:
            self._table = parquet.ParquetWriter(self._folder / "patches.parquet", table.schema, compression="zstd")
        self._table.write_table(table)
        self._rows.clear()


def _starts(length: int, side: int, stride: int, flush: bool) -> list[int]:
    starts = list(range(0, length - side + 1, stride))
    if flush and starts[-1] != length - side:
        starts.append(length - side)
    return starts
