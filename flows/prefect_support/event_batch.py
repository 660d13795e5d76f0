"""Events of a bulk job, sent to Prefect many at a time.

One by one, each event costs a validated model, two thread hand-overs and a message of its own: as much CPU as one of
the calls that it reports. A job hands a second's events over in one request instead; each stays an event of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import uuid
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from contextvars import Context, ContextVar, copy_context
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from prefect.client.orchestration import PrefectClient, get_client
from prefect.context import TaskRunContext
from prefect.events.related import related_resources_from_run_context
from prefect.settings import get_current_settings

from tta_dev_primitives.blocks.redaction import redact

_LOG = logging.getLogger("tta_dev_primitives.events")
_EVERY_S = 1.0
_AT_ONCE = 200
_MOST_WAITING = 20_000
"""Kept while Prefect's API is down; an event is a notice, and a job must not grow with its length."""
_LAST_S = 10.0


@dataclass(slots=True)
class EventBatch:
    """Events that wait to be sent, in their order."""

    _waiting: list[tuple[dict[str, Any], str]] = field(default_factory=list)
    _contexts: dict[str, Context] = field(default_factory=dict)
    """For each task run that had an event: the context with what the event is related to."""
    _related: dict[str, list[dict[str, str]]] = field(default_factory=dict)
    _lost: int = 0

    def __len__(self) -> int:
        """How many wait."""
        return len(self._waiting)

    def add(
        self,
        name: str,
        resource: Mapping[str, str],
        related: list[dict[str, str]],
        payload: Mapping[str, Any],
    ) -> None:
        """Take one event; it is sent within about a second."""
        if len(self._waiting) >= _MOST_WAITING:
            self._lost += 1
            return
        run = TaskRunContext.get()
        key = str(run.task_run.id) if run is not None else ""
        if key not in self._contexts and key not in self._related:
            self._contexts[key] = copy_context()
        event = {
            "id": str(uuid.uuid4()),
            "occurred": datetime.now(UTC).isoformat(),
            "event": name,
            "resource": dict(resource),
            "related": related,
            "payload": dict(payload),
        }
        self._waiting.append((event, key))

    async def send(self) -> None:
        """Send what waits; what Prefect does not take is dropped and said once."""
        while self._waiting:
            taken = self._waiting[:_AT_ONCE]
            try:
                async with get_client() as client:
                    events = [await self._complete(client, event, key) for event, key in taken]
                    await client.request("POST", "/events", json=events)
            except Exception as error:  # an event is a notice: the work it reports is already in the ledger
                self._lost += len(taken)
                _LOG.debug("%d events were not sent: %s", len(taken), redact(str(error)))
            # Not before: a sending that is cancelled is done again, and Prefect skips the ids that it knows.
            del self._waiting[: len(taken)]

    async def _complete(self, client: PrefectClient, event: dict[str, Any], key: str) -> dict[str, Any]:
        """Add what Prefect itself relates events of a run to: task run, flow, deployment, tags."""
        if key not in self._related:
            if len(self._related) >= _AT_ONCE:
                self._related.clear()
            found = related_resources_from_run_context(client=client)
            context = self._contexts.pop(key, None)
            resources = await asyncio.create_task(found, context=context)
            self._related[key] = [resource.model_dump() for resource in resources]
        named = {resource["prefect.resource.id"] for resource in event["related"]}
        extra = [one for one in self._related[key] if one["prefect.resource.id"] not in named]
        return {**event, "related": [*event["related"], *extra]}

    async def run(self) -> None:
        """Send once a second until cancelled."""
        while True:
            await asyncio.sleep(_EVERY_S)
            await self.send()

    async def close(self) -> None:
        """Send what is left, within ten seconds."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LAST_S):
                await self.send()
        self._lost += len(self._waiting)
        self._waiting.clear()
        if self._lost:
            _LOG.warning("%d events were not sent: Prefect's API did not take them", self._lost)


_BATCH: ContextVar[EventBatch | None] = ContextVar("tta_event_batch", default=None)


def current_batch() -> EventBatch | None:
    """The batch of the job that this code runs in, if there is one."""
    return _BATCH.get()


@asynccontextmanager
async def in_batches() -> AsyncIterator[None]:
    """Within it, events that need no fixed id are sent in batches; without a Prefect server of our own they are not.

    Prefect Cloud and the server inside a test or script take events by Prefect's own worker only.
    """
    settings = get_current_settings()
    if settings.api.url is None or settings.api.url.startswith(settings.cloud.api_url):
        yield
        return
    batch = EventBatch()
    token = _BATCH.set(batch)
    sending = asyncio.create_task(batch.run())
    try:
        yield
    finally:
        _BATCH.reset(token)
        sending.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await sending
        await batch.close()
