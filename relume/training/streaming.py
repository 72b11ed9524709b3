"""A curated folder on S3: copied there by one command, trained from on other machines without being copied back.

Only the patches that a batch needs are read, each by its range of bytes. The manifest, which the copy writes last,
holds the folder's hash as a training on the spot computes it, so that a checkpoint of one is good for the other; and
every file's size and ETag, by which a prefix that was changed or copied in part is refused.
"""

import functools
import io
import json
import math
import os
import shutil
import zlib
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from relume import s3
from relume.errors import SourceError
from relume.files import sha256_folder, write_bytes
from relume.reading import as_kind, reading
from relume.training.patches import PatchPositions, PatchScores, PatchTable, read_patch_table, shard_files

MANIFEST = "manifest.json"


def upload(folder: str | Path, address: str, *, progress: Callable[[str, int, int], None]) -> int:
    """Copies a curated folder to S3.

    Args:
        folder: What `curate` filled.
        address: `s3://bucket/prefix`; files that are there already are replaced, others left alone.
        progress: Called with what is counted, how many are done, and of how many.

    Returns:
        The number of files.

    Raises:
        SourceError: There are no shards, S3 is missing, silent or refuses, or it lists other files than were written.
    """
    folder, prefix = Path(folder), address.rstrip("/")
    shards = shard_files(folder)
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    manifest: dict[str, Any] = {"sha256": sha256_folder(folder), "files": {}, "shards": []}
    for number, name in enumerate(names, start=1):
        etag = s3.write(f"{prefix}/{name}", folder / name)
        manifest["files"][name] = {"bytes": (folder / name).stat().st_size, "etag": etag}
        progress("files", number, len(names))
    for path in shards:
        shard = np.load(path, mmap_mode="r")
        manifest["shards"].append({"name": path.name, "offset": shard.offset, "shape": shard.shape})
    s3.write(f"{prefix}/{MANIFEST}", json.dumps(manifest).encode())
    open_streamed(prefix)  # what the server lists is what was written, or trainings elsewhere would find out
    return len(names)


@dataclass(frozen=True)
class _ListedFile:
    bytes: int
    etag: str


@dataclass(frozen=True)
class _Shard:
    name: str
    offset: int
    shape: Annotated[list[int], Field(min_length=4, max_length=5)]


@dataclass(frozen=True)
class _Manifest:
    """What manifest.json holds; see `StreamedFolder`."""

    sha256: str
    files: dict[str, _ListedFile]
    shards: Annotated[list[_Shard], Field(min_length=1)]


@dataclass(frozen=True, kw_only=True)
class StreamedFolder:
    """A curated folder on S3.

    Attributes:
        address: `s3://bucket/prefix`, without a slash at its end.
        sha256: Of the folder that was copied, as `relume.files.sha256_folder` gives it.
        files: Size and ETag of each file by its name.
        shards: Of each shard of patches its `name`, `offset` of the first one in bytes, and `shape`, (N, P, P, 3) or of
            pairs (N, 2, P, P, 3).
    """

    address: str
    sha256: str
    files: dict[str, dict[str, Any]]
    shards: list[dict[str, Any]]

    @property
    def patch_bytes(self) -> int:
        """Of the largest patch."""
        return max(math.prod(shard["shape"][1:]) for shard in self.shards)

    def patches(self, cache: Path, megabytes: float) -> "StreamedPatches":
        """The training patches.

        Args:
            cache: Folder of those that are kept on local disk.
            megabytes: That they may take there.
        """
        for other in cache.glob("*"):  # those of another folder, so that the bound is one of the disk
            if other.name != self.sha256:
                shutil.rmtree(other, ignore_errors=True)  # another rank may do the same
        kept = KeptPatches(
            cache / self.sha256 / "patches", int(megabytes * 1e6 / (self.patch_bytes + 4)), self.patch_bytes
        )
        return StreamedPatches(self, kept)

    def copy(self, name: str, folder: Path) -> Path:
        """Copies a subfolder of a few small files, such as `held_out/validation`, to local disk.

        Returns:
            The copy, `folder` / `name`.
        """
        for file, facts in self.files.items():
            if file.startswith(f"{name}/"):
                content = s3.read_range(f"{self.address}/{file}", facts["etag"], 0, facts["bytes"])
                write_bytes(folder / file, content)
        return folder / name


def open_streamed(address: str) -> StreamedFolder:
    """Looks a curated folder on S3 up.

    Args:
        address: `s3://bucket/prefix`.

    Raises:
        SourceError: There is none, it is not as it was copied, or S3 is missing, silent or refuses.
    """
    address = address.rstrip("/")
    listed = {
        name.removeprefix(f"{address}/"): {"bytes": size, "etag": etag}
        for name, size, etag in s3.listing(f"{address}/")
    }
    if MANIFEST not in listed:
        raise SourceError(
            "The address has no curated folder",
            where=address,
            why=f"there is no {MANIFEST}" if listed else "there is no object below it",
            next_step=f"run `relume data upload {address}` on the machine that has data/curated",
        )
    with reading(f"{address}/{MANIFEST}", next_step=f"where data/curated is: relume data upload {address}"):
        manifest = json.loads(s3.read(f"{address}/{MANIFEST}")[0])
        as_kind(_Manifest, manifest)
    changed = [name for name, facts in manifest["files"].items() if listed.get(name) != facts]
    if changed:
        raise SourceError(
            "The curated folder on S3 has changed since it was uploaded",
            where=f"{address}/{changed[0]}",
            why=f"{len(changed)} of {len(manifest['files'])} files are missing or have changed",
            next_step=f"run `relume data upload {address}` on the machine that has data/curated",
        )
    return StreamedFolder(address=address, **manifest)


class StreamedPatches:
    """The training patches of a folder on S3; those of a batch are read side by side.

    Args:
        folder: Where they are.
        kept: Those that stay on local disk once they were read.
    """

    def __init__(self, folder: StreamedFolder, kept: "KeptPatches"):
        self._folder, self._kept = folder, kept
        self._positions = PatchPositions(shard["shape"][0] for shard in folder.shards)
        self.side = int(folder.shards[0]["shape"][-2])
        self.pairs = sum(shard["shape"][0] for shard in folder.shards if len(shard["shape"]) == 5)

    def __len__(self) -> int:
        return len(self._positions)

    def read(self, indices: Iterable[int]) -> list[np.ndarray]:
        """See `relume.training.patches.Patches.read`."""
        return list(_threads(os.getpid()).map(self._patch, indices))

    def _patch(self, index: int) -> np.ndarray:
        number, row = self._positions[index]
        shard = self._folder.shards[number]
        size = math.prod(shard["shape"][1:])
        content = self._kept.read(index, size)
        if content is None:
            etag = self._folder.files[shard["name"]]["etag"]
            content = s3.read_range(f"{self._folder.address}/{shard['name']}", etag, shard["offset"] + row * size, size)
            self._kept.write(index, content)
        return np.frombuffer(content, dtype=np.uint8).reshape(shard["shape"][1:])

    def table(self) -> PatchTable:
        """See `relume.training.patches.Patches.table`."""
        name = "patches.parquet"
        return read_patch_table(self._whole(name), where=f"{self._folder.address}/{name}")

    def scores(self) -> PatchScores | None:
        """See `relume.training.patches.Patches.scores`."""
        if "scores.parquet" not in self._folder.files:
            return None
        return PatchScores(self._whole("scores.parquet"), self._whole("patches.parquet"), where=self._folder.address)

    def _whole(self, name: str) -> io.BytesIO:
        facts = self._folder.files[name]
        return io.BytesIO(s3.read_range(f"{self._folder.address}/{name}", facts["etag"], 0, facts["bytes"]))


class KeptPatches:
    """The first patches of a data set in a file on local disk, each written when it is first read.

    An epoch takes every patch once, in random order. Keeping a fixed share c of them saves that share of the reads;
    evicting the least recently used saves 1 - (1 - c)(1 - ln(1 - c)), 15 % at c = 1/2, since most are evicted before
    they come again. And a share that is fixed needs no record of what is there that processes would have to agree on.

    Args:
        file: Of the patches. It is made sparse and grows as they come.
        count: How many are kept.
        size: Bytes of the largest one.
    """

    def __init__(self, file: Path, count: int, size: int):
        self._count, self._size = count, size
        file.parent.mkdir(parents=True, exist_ok=True)
        self._file = os.open(file, os.O_RDWR | os.O_CREAT, 0o644)

    def read(self, index: int, size: int) -> bytes | None:
        """A patch of so many bytes, or None when it is not here."""
        if index >= self._count:
            return None
        record = os.pread(self._file, size + 4, index * (self._size + 4))
        # Holes, and what a loss of power left half written, do not fit their checksum.
        return record[4:] if zlib.crc32(record[4:]) == int.from_bytes(record[:4], "little") and record else None

    def write(self, index: int, content: bytes) -> None:
        """Keeps a patch, if it is one of those.

        Raises:
            SourceError: The disk is full.
        """
        if index >= self._count:
            return
        try:
            os.pwrite(self._file, zlib.crc32(content).to_bytes(4, "little") + content, index * (self._size + 4))
        except OSError as error:
            raise SourceError(
                "A training patch cannot be cached on the local disk",
                why=error.strerror,
                next_step="lower training.patch_cache_mb in recipe.yaml",
            ) from None


@functools.cache
def _threads(process: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(s3.CONNECTIONS, "patches")  # a forked process has none of its parent's threads
