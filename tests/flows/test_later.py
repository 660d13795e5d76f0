"""What is put off does not pile up, and nothing of it is lost."""

from __future__ import annotations

import asyncio

from tta_dev_primitives.flows.prefect_support.background_tasks import later


def test_what_is_put_off_faster_than_it_is_done_waits_for_room_and_is_all_done_at_the_end() -> None:
    """A hundred runs at a time ask for more pictures a second than a server writes."""
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

            await later(slow)
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
