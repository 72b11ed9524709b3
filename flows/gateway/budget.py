"""Memory that requests share: each takes what its image needs, waits while others have it, or is turned away."""

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator


class BusyError(Exception):
    """There is no room within the time that a request may wait."""


class Budget:
    """An amount that is taken and given back, first come, first served.

    Args:
        size: The whole, in bytes.
        wait: Seconds that one may wait for its share.
    """

    def __init__(self, size: int, *, wait: float):
        self.size, self._wait = size, wait
        self._free = size
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    @contextlib.asynccontextmanager
    async def share(self, amount: int) -> AsyncIterator[None]:
        """Holds an amount, of the whole at most.

        Raises:
            BusyError: It did not become free in time.
        """
        assert amount <= self.size, "it would wait for ever"
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append((amount, turn))
        self._admit()
        try:
            try:
                await asyncio.wait_for(asyncio.shield(turn), self._wait)
            except TimeoutError:
                raise BusyError from None
            yield
        finally:
            if turn.done():
                self._free += amount
            else:
                self._waiting.remove((amount, turn))
            self._admit()

    def _admit(self) -> None:
        while self._waiting and self._waiting[0][0] <= self._free:
            amount, turn = self._waiting.popleft()
            self._free -= amount
            turn.set_result(None)
