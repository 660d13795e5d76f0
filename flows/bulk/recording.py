"""What Prefect must know of a job besides its own run: that earlier runs of it have ended, and every task run.

A server keeps the messages that it has not recorded yet in a queue, and Prefect's own drops them when that is full. A
job that shows a task run for each item therefore lets the server catch up before it takes more items.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from uuid import UUID

import httpx
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from prefect.client.schemas.objects import StateType
from prefect.exceptions import ObjectNotFound, PrefectHTTPStatusError
from prefect.states import Crashed

from tta_dev_primitives.blocks.redaction import redact
from tta_dev_primitives.flows.bulk.reader import Record
from tta_dev_primitives.flows.prefect_support.task_history import last_shown

_LOG = logging.getLogger("tta_dev_primitives.bulk")
_LOOKED_AT = 20
"""Earlier runs that are looked at: each run of a job closes those before it."""
_AT_ONCE = 100
"""Items between two marks. At most twice as many are not recorded yet: some 4,000 of the 10,000 messages of a queue."""
_POLL_S = 0.2
_PATIENCE_S = 60.0
"""A Prefect API that is down delays a job for so long, once; its calls do not need it."""

Recorded = Callable[[UUID], Awaitable[bool]]


async def close_dead_runs(earlier: Sequence[str], own: str | None) -> int:
    """Set earlier runs of a job `Crashed` that are still `Running`; returns how many.

    Only the holder of the job's output may call it: no other process runs the job then.
    """
    ids = [UUID(one) for one in earlier[-_LOOKED_AT:] if one != own]
    if not ids:
        return 0
    closed = 0
    try:
        async with get_client() as client:
            runs = await client.read_flow_runs(flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=ids)))
            for run in runs:
                if run.state_type in (StateType.RUNNING, StateType.CANCELLING):
                    message = (
                        "The process of this run ended without saying so; a later run of the job goes on."
                    )
                    await client.set_flow_run_state(run.id, Crashed(message=message), force=True)
                    closed += 1
    except (httpx.HTTPError, PrefectHTTPStatusError) as error:
        _LOG.warning("Prefect still shows a killed run of this job as running: %s", redact(str(error)))
    return closed


async def paced(records: AsyncIterator[Record], recorded: Recorded | None = None) -> AsyncIterator[Record]:
    """The records, no faster than Prefect records the task runs of those before.

    Args:
        recorded: Whether a task run is known to Prefect; default: its API is asked.
    """
    mark: UUID | None = None
    waits, taken = True, 0
    async for record in records:
        if taken and taken % _AT_ONCE == 0:
            if mark is not None and waits:
                waits = await _wait_for(mark, recorded or _is_recorded)
            mark = last_shown()
        taken += 1
        yield record


async def _wait_for(mark: UUID, recorded: Recorded) -> bool:
    until = time.monotonic() + _PATIENCE_S
    while not await recorded(mark):
        if time.monotonic() > until:
            _LOG.warning(
                "Prefect has not recorded this job's task runs for %.0f s; some may be missing in its UI",
                _PATIENCE_S,
            )
            return False
        await asyncio.sleep(_POLL_S)
    return True


async def _is_recorded(task_run_id: UUID) -> bool:
    try:
        async with get_client() as client:
            await client.read_task_run(task_run_id)
    except (ObjectNotFound, httpx.HTTPError, PrefectHTTPStatusError):
        return False
    return True
