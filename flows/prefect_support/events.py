"""Prefect events of a run, under the names that automations rely on. Payloads hold no prompt, answer or key."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any
from uuid import UUID

from prefect.context import FlowRunContext
from prefect.events import emit_event
from prefect.events.worker import EventsWorker, should_emit_events

from tta_dev_primitives.blocks.redaction import redact
from tta_dev_primitives.flows.prefect_support.event_batch import current_batch

_LOG = logging.getLogger("tta_dev_primitives.events")

Listener = Callable[[str, Mapping[str, Any]], None]
_LISTENERS: list[Listener] = []


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Let `listener(name, payload)` hear every event of this process, for a live view."""
    _LISTENERS.append(listener)
    try:
        yield
    finally:
        _LISTENERS.remove(listener)


def emit(name: str, payload: Mapping[str, Any], *, resource: str, event_id: UUID | None = None) -> None:
    """Send one event; losing one (Prefect's API is down) never fails a run.

    Args:
        name: For example `tta.fallback`.
        payload: JSON-able values; strings are redacted.
        resource: What it is about, for example `tta.model.groq/llama-3.3-70b-versatile`.
        event_id: A fixed id makes a repeated delivery count once.
    """
    clean = {k: redact(v) if isinstance(v, str) else v for k, v in payload.items()}
    for listener in tuple(_LISTENERS):
        listener(name, clean)
    context = FlowRunContext.get()
    related: list[dict[str, str]] = []
    if context is not None and context.flow_run is not None:
        run_id = str(context.flow_run.id)
        clean.setdefault("flow_run_id", run_id)
        related.append(
            {"prefect.resource.id": f"prefect.flow-run.{run_id}", "prefect.resource.role": "flow-run"}
        )
    about = {"prefect.resource.id": resource, "prefect.resource.name": resource}
    batch = current_batch()
    if batch is not None and event_id is None:
        batch.add(name, about, related, clean)
        return
    try:
        emit_event(
            event=name,
            resource=about,
            related=related,
            payload=clean,
            id=event_id,
        )
    except Exception as error:  # an event is a notice: the work it reports is already in the ledger
        _LOG.warning("event %s was not sent: %s", name, redact(str(error)))


def events_worker() -> EventsWorker | None:
    """What carries this process's events to Prefect; take it before they are emitted. None: Prefect takes none."""
    return EventsWorker.instance() if should_emit_events() else None


async def delivered(worker: EventsWorker | None, within_s: float) -> bool:
    """Wait until Prefect has every event that `worker` was given; False when it has not, in that time."""
    if worker is None:
        return True
    loop, done = asyncio.get_running_loop(), asyncio.Event()

    def wait() -> None:
        worker.wait_until_empty()
        with suppress(RuntimeError):  # the loop is closed: no caller waits any more
            loop.call_soon_threadsafe(done.set)

    # A daemon: with Prefect's API down the wait has no end, and must not keep the process from ending.
    threading.Thread(target=wait, name="tta-events", daemon=True).start()
    with suppress(TimeoutError):
        await asyncio.wait_for(done.wait(), within_s)
    # A worker that cannot connect ends, and the next one knows nothing of its events.
    return done.is_set() and EventsWorker.instance() is worker
