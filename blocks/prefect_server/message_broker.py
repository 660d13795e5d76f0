"""The message broker of the embedded server: Prefect's own in memory, with queues that never drop a message.

Prefect's queues hold 10,000 messages and drop what comes then. These have no limit; in exchange the server takes
events from its clients more slowly while many wait (`asgi_guard`). Prefect loads this module by its setting
`PREFECT_SERVER_EVENTS_MESSAGING_BROKER`, which names what it must export.
"""

from __future__ import annotations

import asyncio
import copy
from collections import defaultdict
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from prefect.server.utilities.messaging import memory
from prefect.server.utilities.messaging.memory import break_topic as break_topic
from typing_extensions import override

_subscriptions: defaultdict[str, list[Subscription]] = defaultdict(list)


def backlog() -> int:
    """Messages that wait in the longest queue."""
    return max((one.messages.qsize() for of in _subscriptions.values() for one in of), default=0)


class Subscription(memory.Subscription):
    """One consumer's queue. A message whose handling failed goes to its end, three times at most."""

    def __init__(self, topic: str) -> None:
        super().__init__(memory.Topic.by_name(topic))
        self.messages: asyncio.Queue[memory.MemoryMessage] = asyncio.Queue()
        _subscriptions[topic].append(self)

    @override
    async def deliver(self, message: memory.MemoryMessage) -> None:
        """Queue a message."""
        self.messages.put_nowait(message)

    @override
    async def retry(self, message: memory.MemoryMessage) -> None:
        """Queue a message again."""
        message.retry_count += 1
        if message.retry_count > self.max_retries:
            await self.send_to_dead_letter_queue(message)
        else:
            self.messages.put_nowait(message)

    @override
    async def get(self) -> memory.MemoryMessage:
        """The next message."""
        return await self.messages.get()

    def end(self) -> None:
        """Take no more messages."""
        _subscriptions[self.topic.name].remove(self)


class Publisher(memory.Publisher):
    """Gives each subscription its own copy of a message."""

    def __init__(self, topic: str, cache: memory.Cache, deduplicate_by: str | None = None) -> None:
        super().__init__(topic, cache, deduplicate_by)
        self.cache = cache

    @override
    async def publish_data(self, data: bytes, attributes: Mapping[str, str]) -> None:
        """Queue one message for every consumer of the topic."""
        message = memory.MemoryMessage(data, attributes)
        if self.deduplicate_by and not await self.cache.without_duplicates(self.deduplicate_by, [message]):
            return
        for subscription in _subscriptions[self.topic.name]:
            await subscription.deliver(copy.copy(message))


class Consumer(memory.Consumer):
    """Reads one subscription."""

    def __init__(
        self, topic: str, subscription: Subscription | None = None, concurrency: int = 2, **_: Any
    ) -> None:
        super().__init__(topic, subscription or Subscription(topic), concurrency)

    @override
    async def cleanup(self) -> None:
        """End the subscription."""
        assert isinstance(self.subscription, Subscription)
        self.subscription.end()


@asynccontextmanager
async def ephemeral_subscription(topic: str) -> AsyncGenerator[Mapping[str, Any]]:
    """A subscription for the body of `async with`."""
    subscription = Subscription(topic)
    try:
        yield {"topic": topic, "subscription": subscription}
    finally:
        subscription.end()
