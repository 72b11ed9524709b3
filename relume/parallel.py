"""Work spread over the machine's cores, with results in order and memory bounded."""

import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def cores() -> int:
    """The number of cores that this process may use."""
    return len(os.sched_getaffinity(0))


def map_in_order(function: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
    """Applies a function in threads and gives the results in the order of the items.

    Threads, because decoders and filters let go of Python's lock. At most two items a core are
    under way or waiting to be taken, so a slow consumer bounds the memory.

    Args:
        function: Called in several threads at once.
        items: Taken as they are needed.

    Yields:
        The result for each item. An exception of `function` comes out at its item's place.
    """
    pending: deque[Future[R]] = deque()
    pool = ThreadPoolExecutor(cores())
    try:
        for item in items:
            pending.append(pool.submit(function, item))
            if len(pending) >= 2 * cores():
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


class Budget:
    """An amount that threads share; who wants more than is left waits.

    Args:
        total: The amount, in any unit.
    """

    def __init__(self, total: float):
        self._total = self._left = total
        self._changed = threading.Condition()

    @contextmanager
    def take(self, amount: float) -> Iterator[None]:
        """Holds an amount; more than the total counts as the total, so that it runs alone."""
        amount = min(amount, self._total)
        with self._changed:
            self._changed.wait_for(lambda: self._left >= amount)
            self._left -= amount
        try:
            yield
        finally:
            with self._changed:
                self._left += amount
                self._changed.notify_all()
