"""Deferred work does not pile up, and nothing of it is lost."""

from __future__ import annotations

import asyncio

from tta_dev_primitives.flows.prefect_support.loop_connection import defer, defer_until_end


def test_work_deferred_faster_than_it_is_done_waits_for_room_and_is_all_done_at_the_end() -> None:
    """A hundred runs at a time ask for more artifacts a second than a server writes."""
    done: list[int] = []
    most = 0

    async def many() -> None:
        nonlocal most
        asked = 0
        door = asyncio.Event()

        async def ask(number: int) -> None:
            nonlocal asked

            async def slow() -> None:
                await door.wait()
                done.append(number)

            await defer(slow)
            asked += 1

        asking = asyncio.gather(*(ask(number) for number in range(500)))
        for _ in range(20):
            await asyncio.sleep(0)
        most = asked
        door.set()
        await asking

    asyncio.run(many())
    assert 0 < most <= 64
    assert sorted(done) == list(range(500))


def test_work_deferred_in_a_run_begins_after_it_and_is_done_before_the_loop_ends() -> None:
    """`asyncio.run` cancels what is left when its work is done; the artifacts are written all the same."""
    order: list[str] = []

    async def artifact() -> None:
        await asyncio.sleep(0)
        order.append("artifact")

    async def run() -> None:
        async with defer_until_end():
            await defer(artifact)
            for _ in range(5):
                await asyncio.sleep(0)
            order.append("end of the run")

    asyncio.run(run())
    assert order == ["end of the run", "artifact"]
