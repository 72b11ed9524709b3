"""The gateway's budget: never exceeded, in order, and given back whatever becomes of a request."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flows.gateway.budget import Budget, BusyError


@given(
    st.lists(
        st.tuples(st.integers(1, 10), st.integers(0, 3), st.sampled_from(["ends", "fails", "leaves"])), max_size=20
    )
)
def test_it_is_never_exceeded_and_all_comes_back(requests):
    """Whatever requests take, and however they end, the sum stays within the size and is zero in the end."""

    async def run():
        budget, held, most = Budget(10, wait=30), 0, 0

        async def one(amount, turns, end):
            nonlocal held, most
            async with budget.share(amount):
                held += amount
                most = max(most, held)
                try:
                    for _ in range(turns):
                        await asyncio.sleep(0)
                    if end == "fails":
                        raise ValueError
                finally:
                    held -= amount

        tasks = [asyncio.create_task(one(*request)) for request in requests]
        await asyncio.sleep(0)
        for task, (_, _, end) in zip(tasks, requests, strict=True):
            if end == "leaves":
                task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert most <= 10
        async with budget.share(10):  # all of it is there again
            pass

    asyncio.run(run())


def test_one_waits_its_time_and_no_longer():
    """A request that finds no room is turned away after its time, and those behind it are not held up by it."""

    async def run():
        budget = Budget(10, wait=0.05)
        async with budget.share(8):
            with pytest.raises(BusyError):
                async with budget.share(5):
                    pass
            async with budget.share(2):
                pass

    asyncio.run(run())


def test_first_come_first_served():
    """A small request does not overtake a large one, which would wait for ever among small ones."""
    order = []

    async def one(budget, name, amount):
        async with budget.share(amount):
            order.append(name)

    async def run():
        budget = Budget(10, wait=5)
        async with budget.share(6):
            tasks = [asyncio.create_task(one(budget, *each)) for each in (("large", 10), ("small", 1))]
            await asyncio.sleep(0.01)
            assert order == []
        await asyncio.gather(*tasks)

    asyncio.run(run())
    assert order == ["large", "small"]
