"""The embedded server's message broker: no message is dropped, and clients are slowed down while many wait."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest
from prefect.server.utilities import messaging
from prefect.server.utilities.messaging import Message, StopConsumer, memory

from tta_dev_primitives.blocks.prefect_server import asgi_guard
from tta_dev_primitives.blocks.prefect_server.asgi_guard import Activity, Guard
from tta_dev_primitives.blocks.prefect_server.message_broker import backlog, drop_no_message


@pytest.fixture(autouse=True)
def _queues(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "Subscription", memory.Subscription)  # put back afterwards
    drop_no_message()


async def test_more_messages_than_a_queue_of_prefect_holds_all_arrive_once() -> None:
    """12,000 published messages reach each of two consumers, the failed ones again, in spite of doubled ids."""
    seen: dict[str, Counter[bytes]] = {"one": Counter(), "other": Counter()}
    failed = Counter[bytes]()

    def handler(name: str) -> Any:
        async def handle(message: Message) -> None:
            assert isinstance(message.data, bytes)
            if name == "other" and message.data == b"7" and failed[b"7"] < 2:
                failed[b"7"] += 1
                raise ValueError("not now")
            seen[name][message.data] += 1
            if len(seen[name]) == 12_000:
                raise StopConsumer(ack=True)

        return handle

    consumers = {name: messaging.create_consumer("numbers", concurrency=1) for name in seen}
    async with messaging.create_publisher("numbers", deduplicate_by="id") as publisher:
        for number in range(12_000):
            for _ in range(2 if number < 500 else 1):
                await publisher.publish_data(str(number).encode(), {"id": str(number)})
    assert backlog() == 12_000
    await asyncio.gather(*(consumer.run(handler(name)) for name, consumer in consumers.items()))
    for consumer in consumers.values():
        await consumer.cleanup()
    assert all(set(counts.values()) == {1} and len(counts) == 12_000 for counts in seen.values())
    assert backlog() == 0


async def test_a_message_that_is_never_handled_is_kept_in_a_file(tmp_path: Any) -> None:
    subscription = memory.Topic.by_name("never").subscribe(dead_letter_queue_path=tmp_path / "dlq")
    consumer, tried = memory.Consumer("never", subscription, concurrency=1), 0

    async def fail(message: Message) -> None:
        nonlocal tried
        tried += 1
        raise ValueError("never")

    await subscription.deliver(memory.MemoryMessage(b"x", {"id": "x"}))
    running = asyncio.create_task(consumer.run(fail))
    while not list(tmp_path.glob("dlq/*")):  # noqa: ASYNC110 - a file gives no event
        await asyncio.sleep(0)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    await consumer.cleanup()
    assert tried == 4


@pytest.mark.parametrize(("path", "slowed"), [("/api/events/in", True), ("/api/runs/subscribe", False)])
async def test_events_are_taken_slowly_while_many_messages_wait(
    path: str, slowed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asgi_guard, "_PAUSE_S", 0)
    waiting, asked = [9000, 9000, 10, 10, 10], 0

    def count() -> int:
        nonlocal asked
        asked += 1
        return waiting.pop(0)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()

    async def receive() -> Any:
        return {"type": "websocket.receive"}

    guard = Guard(app, activity=Activity(), backlog=count)
    await guard({"type": "websocket", "path": path, "headers": []}, receive, receive)
    assert asked == (3 if slowed else 0)
