"""Work that is done at the same time ends together: no call goes on after its run has failed."""

from __future__ import annotations

import asyncio

import pytest

from tta_dev_primitives.flows.tasks.gather_all import gather_all


async def _takes(turns: int, ended: list[int]) -> int:
    try:
        for _ in range(turns):
            await asyncio.sleep(0)
    finally:
        ended.append(turns)
    return turns


async def _fails() -> int:
    raise ValueError("no")


async def test_results_come_in_the_order_of_the_work() -> None:
    """The slowest first: its result is the first."""
    assert await gather_all(_takes(turns, []) for turns in (5, 1, 3)) == [5, 1, 3]


async def test_an_error_waits_for_the_others() -> None:
    """The first error is raised when the last work has ended, not before."""
    ended: list[int] = []
    with pytest.raises(ValueError, match="no"):
        await gather_all([_fails(), _takes(5, ended), _fails(), _takes(9, ended)])
    assert ended == [5, 9]


async def test_a_cancelled_caller_waits_until_all_have_closed() -> None:
    """Each work gets to its `finally` before the cancellation goes on."""
    ended: list[int] = []
    whole = asyncio.create_task(gather_all([_takes(10**6, ended), _takes(10**6 + 1, ended)]))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    whole.cancel()
    with pytest.raises(asyncio.CancelledError):
        await whole
    assert len(ended) == 2
