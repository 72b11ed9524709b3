"""Training state on disk: one safetensors file, replaced atomically, under a lock that dies with its process."""

import contextlib
import hashlib
import json
import os
import platform
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import filelock
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from relume.files import atomic_file
from relume.reading import reading


def checkpoint_key(configuration: Any, data_hash: str) -> str:
    """The name of a training's checkpoint: the same training of the same data by the same libraries.

    Code is not part of it, so that a training is resumed after an edit that does not change what is trained.

    Args:
        configuration: JSON-able settings of the training.
        data_hash: Of everything the training reads.

    Returns:
        24 hexadecimal digits.
    """
    identity = [configuration, data_hash, torch.__version__, platform.machine()]
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:24]


class Checkpoint:
    """The checkpoint of one training.

    Args:
        folder: Of all checkpoints.
        key: See `checkpoint_key`.
    """

    def __init__(self, folder: str | Path, key: str):
        self.path = Path(folder) / f"{key}.safetensors"
        self.tracked = Path(folder) / f"{key}.tracked.json"  # where this training is tracked, for who tracks it

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Held while training. The operating system frees it when the process ends, however it ends."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(self.path.with_suffix(".lock"))
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            print(f"Another process runs the same training ({self.path.stem}); waiting for it to end.", flush=True)
            lock.acquire()
        for unfinished in self.path.parent.glob(f".{self.path.stem}.*"):  # left by a kill while it was written
            unfinished.unlink()
        try:
            yield
        finally:
            lock.release()

    def save(self, tensors: dict[str, torch.Tensor], facts: dict[str, Any]) -> None:
        """Replaces the checkpoint; a kill at any moment leaves the old one or the new one.

        Args:
            tensors: By name.
            facts: JSON-able, such as the step.
        """
        whole, text = {name: tensor.contiguous() for name, tensor in tensors.items()}, json.dumps(facts)
        with atomic_file(self.path) as temporary:
            save_file(whole, temporary, metadata={"facts": text, "sha256": _sha256(whole, text)})

    def load(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]] | None:
        """Tensors and facts of the last `save`, or None when there was none.

        Raises:
            BrokenFileError: The file is damaged. It is not removed: it may hold hours of training.
        """
        if not os.path.lexists(self.path):
            return None
        again = "bring it back from a backup, or remove it to train from the start"
        with reading(self.path, next_step=again), safe_open(self.path, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
            text, stated = file.metadata()["facts"], file.metadata().get("sha256")
            if stated not in (None, _sha256(tensors, text)):  # none: an earlier relume wrote it
                raise ValueError("its hash is not the one that it states")
            return tensors, json.loads(text)

    def keep_batch(self, tensors: dict[str, torch.Tensor], *, step: int, rank: int) -> Path:
        """Writes a batch beside the checkpoint for inspection, and returns where."""
        path = self.path.with_name(f"{self.path.stem}-step{step}-rank{rank}.safetensors")
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(path) as temporary:
            save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, temporary)
        return path

    def discard(self) -> None:
        """Removes the checkpoint, once the training's result is safely written."""
        # First: what trains the same later must never take the runs of a finished training for its own.
        self.tracked.unlink(missing_ok=True)
        self.path.unlink(missing_ok=True)


def _sha256(tensors: dict[str, torch.Tensor], facts: str) -> str:
    """The hash of all that a checkpoint holds: a flipped bit of a weight would be trained on without a word."""
    found = hashlib.sha256(facts.encode())
    for name, tensor in sorted(tensors.items()):
        found.update(json.dumps([name, str(tensor.dtype), tuple(tensor.shape)]).encode())
        found.update(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy())
    return found.hexdigest()
