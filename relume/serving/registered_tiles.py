"""Regions of shared memory that a Triton server knows, each lent to one image at a time and kept for the next."""

import contextlib
import logging
import threading
import time
import weakref
from collections.abc import Iterator

from relume.errors import ServerRefusedError, ServerUnreachableError
from relume.serving.shared_tiles import SharedTiles
from relume.serving.triton_transport import Transport

_log = logging.getLogger(__name__)

KEPT = 2
"""Regions that wait for the next image; more images at a time register and forget their own."""


class RegisteredTiles:
    """Regions that are registered with a server.

    To register one and to let it go again takes longer than a tile by `photo`, so up to `KEPT` of them are kept, until
    `close` or the end of this object.

    Args:
        transport: The connection to the server.
    """

    def __init__(self, transport: Transport):
        self._transport = transport
        self._waiting: list[tuple[tuple[int, int, int], SharedTiles]] = []
        self._lock = threading.Lock()
        weakref.finalize(self, _let_all_go, transport, self._waiting)

    @contextlib.contextmanager
    def lend(self, slots: int, size: int, answer: int) -> Iterator[SharedTiles]:
        """Lends a region to one image; after an error, when the server may still write to it, it is not kept.

        Args:
            slots: As of `SharedTiles`, like the arguments below.
            size: Bytes of the tiles of one request.
            answer: Bytes of what is restored of them.

        Raises:
            OSError: There is no room for a region.
            ServerRefusedError: The server does not take it.
            ServerUnreachableError: The server does not answer.
        """
        shape = slots, size, answer
        tiles = self._kept(shape) or self._registered(shape)
        try:
            yield tiles
        except BaseException:
            _let_go(self._transport, tiles)
            raise
        with self._lock:
            if keep := len(self._waiting) < KEPT:
                self._waiting.append((shape, tiles))
        if not keep:
            _let_go(self._transport, tiles)

    def close(self) -> None:
        """Makes the server forget the regions that are kept, and removes them."""
        _let_all_go(self._transport, self._waiting)

    def _kept(self, shape: tuple[int, int, int]) -> SharedTiles | None:
        """A region of this shape that waits; those of another, of a release before, make room for it."""
        with self._lock:
            others = [entry for entry in self._waiting if entry[0] != shape]
            same = [entry for entry in self._waiting if entry[0] == shape]
            self._waiting[:] = same[1:]
        for _, tiles in others:
            _let_go(self._transport, tiles)
        return same[0][1] if same else None

    def _registered(self, shape: tuple[int, int, int]) -> SharedTiles:
        tiles = SharedTiles(*shape)
        try:
            self._transport.register(tiles.name, f"/{tiles.name}", tiles.size)
        except BaseException:
            tiles.close()
            raise
        return tiles


def _let_all_go(transport: Transport, waiting: list[tuple[tuple[int, int, int], SharedTiles]]) -> None:
    while waiting:
        _let_go(transport, waiting.pop()[1])


def _let_go(transport: Transport, tiles: SharedTiles) -> None:
    """Makes the server forget a region, which it refuses until it has put its last request away; removes it."""
    deadline = time.monotonic() + 5
    try:
        while True:
            try:
                transport.unregister(tiles.name)
                return
            except ServerUnreachableError:
                return  # a server that is gone has forgotten it
            except ServerRefusedError as error:
                if time.monotonic() > deadline:
                    _log.warning("The Triton server did not release a region of shared memory: %s", error.why)
                    return
                time.sleep(0.01)
    finally:
        tiles.close()
