"""Work spread over the machine's cores or a Dask cluster's, with results in order and memory bounded."""

import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

from relume.errors import ServiceError, UserError

CLUSTER = "DASK_SCHEDULER_ADDRESS"  # Dask's own variable: such as tcp://10.0.0.1:8786
SECONDS_TO_CONNECT = 30

T = TypeVar("T")
R = TypeVar("R")


def cores() -> int:
    """The number of cores that this process may use."""
    return len(os.sched_getaffinity(0))


def map_in_order(function: Callable[[T], R], items: Iterable[T], *, on_cluster: bool = False) -> Iterator[R]:
    """Applies a function in threads and gives the results in the order of the items.

    Threads, because decoders and filters let go of Python's lock. At most two items a core are
    under way or waiting to be taken, so a slow consumer bounds the memory.

    Args:
        function: Called in several threads at once.
        items: Taken as they are needed.
        on_cluster: Use the Dask cluster of CLUSTER, if that is set: function, items and results go over the network,
            and files that they name are read there.

    Yields:
        The result for each item. An exception of `function` comes out at its item's place.

    Raises:
        ServiceError: The cluster does not answer, or has no workers.
        UserError: Dask is not installed.
    """
    pending: deque[Future[R]] = deque()
    with _pool(on_cluster) as (pool, at_once):
        for item in items:
            pending.append(pool.submit(function, item))
            if len(pending) >= 2 * at_once:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()


@contextmanager
def _pool(on_cluster: bool) -> Iterator[tuple[Executor, int]]:
    """What runs the calls, and how many at once."""
    address = os.environ.get(CLUSTER) if on_cluster else None
    if address is None:
        pool = ThreadPoolExecutor(cores())
        try:
            yield pool, cores()
        finally:
            pool.shutdown(cancel_futures=True)
        return
    try:
        from distributed import Client
    except ModuleNotFoundError:
        raise UserError(
            "A Dask cluster needs a package that is not installed",
            where=f"{CLUSTER}={address}",
            next_step=f"pip install --constraint constraints.txt 'relume[dask]', or unset {CLUSTER}",
        ) from None
    try:
        client = Client(address, timeout=SECONDS_TO_CONNECT)
    except (OSError, ValueError) as error:
        raise ServiceError(
            "The Dask cluster does not answer",
            where=f"{CLUSTER}={address}",
            why=error,
            next_step=f"start it, or unset {CLUSTER}",
        ) from None
    with client:
        threads = sum(client.nthreads().values())
        if not threads:
            raise ServiceError(
                "The Dask cluster has no workers", where=f"{CLUSTER}={address}", next_step=f"dask worker {address}"
            )
        yield client.get_executor(pure=False), threads


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
