"""Queues of the embedded server's messages that never drop one.

Prefect's queues in memory hold 10,000 messages and drop what comes then. These have no limit; in exchange the server
takes events from its clients more slowly while many wait (`asgi_guard`).
"""

from __future__ import annotations

import asyncio
import weakref
from typing import Any

from prefect.server.utilities.messaging import memory
from typing_extensions import override

_subscriptions: weakref.WeakSet[Subscription] = weakref.WeakSet()


def backlog() -> int:
    """Messages that wait in the longest queue."""
    return max((one.messages.qsize() for one in _subscriptions), default=0)


def drop_no_message() -> None:
    """Let Prefect's topics of this process use these queues."""
    memory.Subscription = Subscription  # type: ignore[misc]


class Subscription(memory.Subscription):
    """One consumer's queue. A message whose handling failed goes to its end, three times at most."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.messages: asyncio.Queue[memory.MemoryMessage] = asyncio.Queue()
        _subscriptions.add(self)

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
