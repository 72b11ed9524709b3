"""Work in threads: in order, bounded, and errors at their place."""

import threading
import time

import pytest

from relume import parallel
from relume.parallel import Budget, map_in_order


def test_results_come_in_order_and_items_are_taken_as_needed(monkeypatch):
    """Slow early items do not change the order, and no more than two items a core are taken ahead."""
    monkeypatch.setattr(parallel, "cores", lambda: 3)
    taken = []

    def items():
        for number in range(20):
            taken.append(number)
            yield number

    def work(number):
        time.sleep(0.02 if number % 3 == 0 else 0)
        return number * number

    for expected, result in enumerate(map_in_order(work, items())):
        assert result == expected**2
        assert len(taken) <= expected + 6


def test_an_error_comes_out_at_its_place():
    """Results before the failing item are given first, then its exception."""
    results = map_in_order(lambda number: 1 // number, [1, 1, 0, 1])
    assert [next(results), next(results)] == [1, 1]
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_a_budget_is_never_exceeded_and_what_is_too_large_runs_alone():
    """However many threads ask, the held amounts stay within the total; an amount above it waits for all others."""
    budget, held, most, lock = Budget(10), [0], [0], threading.Lock()

    def work(amount):
        with budget.take(amount):
            with lock:
                held[0] += min(amount, 10)
                most[0] = max(most[0], held[0])
            time.sleep(0.002)
            with lock:
                held[0] -= min(amount, 10)

    threads = [threading.Thread(target=work, args=(amount,)) for amount in (3, 4, 25, 5, 10, 1, 2, 7) * 5]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
    assert most[0] <= 10
    assert held[0] == 0
