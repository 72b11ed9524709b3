"""Tiles in system shared memory, for a Triton server on the same host."""

import contextlib
import ipaddress
import math
import os
import queue
import re
import secrets
import socket
from collections.abc import Iterator
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path
from typing import Any

import numpy as np
import psutil

_PREFIX = "relume-tiles-"


class SharedTiles:
    """One region of shared memory, divided into slots; a slot holds the tiles of one request and their answer.

    Python's resource tracker removes the region when this process is killed.

    Args:
        slots: Requests in flight.
        size: Bytes of the tiles of one request.
        answer: Bytes of what is restored of them; as many when None.

    Raises:
        OSError: There is no room for the region.
    """

    def __init__(self, slots: int, size: int, answer: int | None = None):
        self.name = f"{_PREFIX}{os.getpid()}-{secrets.token_hex(4)}"
        slot = size + (size if answer is None else answer)
        self.size = slots * slot
        self._memory = SharedMemory(self.name, create=True, size=self.size)
        try:
            _reserve(self.name, self.size)
        except OSError:
            self.close()
            raise
        buffer = self._memory.buf
        assert buffer is not None  # it is until the region is closed
        self._free: queue.SimpleQueue[Slot] = queue.SimpleQueue()
        for index in range(slots):
            self._free.put(Slot(self.name, buffer, index * slot, index * slot + size))

    @contextlib.contextmanager
    def slot(self) -> Iterator["Slot"]:
        """Lends a slot that no other thread uses; waits for one."""
        slot = self._free.get()
        try:
            yield slot
        finally:
            self._free.put(slot)

    def close(self) -> None:
        """Removes the region."""
        self._memory.close()
        self._memory.unlink()


def _reserve(name: str, size: int) -> None:
    """Takes the memory of a region now: where it runs out later, writing to it would kill the process."""
    descriptor = os.open(f"/dev/shm/{name}", os.O_RDWR)
    try:
        os.posix_fallocate(descriptor, 0, size)
    finally:
        os.close(descriptor)


class Slot:
    """Room for the tiles of one request and for their answer."""

    def __init__(self, region: str, buffer: memoryview, input_offset: int, output_offset: int):
        self._region, self._buffer = region, buffer
        self._input_offset, self._output_offset = input_offset, output_offset

    def put(self, image: Any, restored: Any, tiles_NCHW: np.ndarray, shape: tuple[int, ...]) -> None:
        """Copies tiles in and makes tritonclient's input and output, which has a shape and their type, point here."""
        size = tiles_NCHW.nbytes
        # No name is given to a part of the buffer: one that outlives an error would keep the region open.
        self._buffer[self._input_offset : self._input_offset + size] = tiles_NCHW.data.cast("B")
        image.set_shared_memory(self._region, size, self._input_offset)
        restored.set_shared_memory(self._region, math.prod(shape) * tiles_NCHW.itemsize, self._output_offset)

    def get(self, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        """Copies the answer of a shape and type out."""
        size = math.prod(shape) * dtype.itemsize
        answer = bytes(self._buffer[self._output_offset : self._output_offset + size])
        return np.frombuffer(answer, dtype).reshape(shape)


def is_this_host(host: str) -> bool:
    """Whether a name or address is this host's, so that shared memory can be tried."""
    if host in ("localhost", socket.gethostname()):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def is_orphan(region: str) -> bool:
    """Whether a region is one of relume's whose process is gone."""
    found = re.match(rf"{_PREFIX}(\d+)-", region)
    return found is not None and not psutil.pid_exists(int(found[1]))


def remove_orphans() -> None:
    """Removes regions whose process is gone, left by a kill of a client together with its resource tracker."""
    for path in Path("/dev/shm").glob(f"{_PREFIX}*"):
        if is_orphan(path.name):
            path.unlink(missing_ok=True)
