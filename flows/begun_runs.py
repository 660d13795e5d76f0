"""Flow runs that begin under an id of their own, before the API has entered them; their events wait for that.

Only the embedded server takes such ids (`blocks/prefect_begun.py`). It ties task runs to a run that it knows, so an
event that came before would be lost.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from concurrent.futures import Future
from contextvars import Context
from typing import Any
from uuid import UUID, uuid4

from prefect.client.schemas.actions import FlowRunCreate
from prefect.client.schemas.objects import FlowRun, FlowRunPolicy, State
from prefect.context import FlowRunContext
from prefect.events.schemas.events import Event
from prefect.events.worker import EventsWorker
from prefect.states import Running, to_state_create

from tta_dev_primitives.blocks.prefect_begun import begun_key

__all__ = ["begun_run", "entered", "hold_events"]

_PATIENCE_S = 90.0
_HELD: dict[UUID, Future[bool]] = {}
"""Run -> whether it was entered. A run that was stays here no longer; one that could not be stays."""


def begun_run(
    flow: Any, flow_id: UUID, *, name: str | None, parameters: Mapping[str, Any], tags: Any
) -> tuple[FlowRun, FlowRunCreate]:
    """A run that begins now, and what enters it in the embedded server, under the same id and moment."""
    began: State[Any] = Running()
    policy = FlowRunPolicy(retries=flow.retries, retry_delay=int(flow.retry_delay_seconds or 0))
    run_id = uuid4()
    told: dict[str, Any] = {
        "flow_id": flow_id,
        "flow_version": flow.version,
        "parameters": dict(parameters),
        "tags": list(tags or ()),
        "empirical_policy": policy,
        **({} if name is None else {"name": name}),
    }
    run = FlowRun(
        id=run_id,
        run_count=1,
        start_time=began.timestamp,
        state=began,
        state_type=began.type,
        state_name=began.name,
        **told,
    )
    # Written down now: the run goes on while it waits to be entered.
    entry = FlowRunCreate(
        state=to_state_create(began), idempotency_key=begun_key(run_id, began.timestamp), **told
    )
    return run, entry


def hold_events(run_id: UUID) -> None:
    """Let the events of a run wait until `entered` is called for it."""
    _HELD[run_id] = Future()


def entered(run_id: UUID, known: bool) -> None:
    """Send the events of a run that the API knows now; drop those of one that it will not know."""
    held = _HELD.get(run_id)
    if held is not None and not held.done():
        held.set_result(known)
    if known:
        _HELD.pop(run_id, None)


_handle = EventsWorker._handle


async def _after_entry(self: EventsWorker, event: Event) -> None:
    held = _held_of(self._context_cache.get(event.id))
    if held is not None:
        known = asyncio.wrap_future(held)
        await asyncio.wait([known], timeout=_PATIENCE_S)
        if not (known.done() and known.result()):
            self._context_cache.pop(event.id, None)
            return
    await _handle(self, event)


def _held_of(context: Context | None) -> Future[bool] | None:
    flow = context.get(FlowRunContext.__var__) if context is not None else None
    return _HELD.get(flow.flow_run.id) if flow is not None and flow.flow_run is not None else None


EventsWorker._handle = _after_entry  # type: ignore[method-assign]
