"""A run that begins while the Prefect server is still coming up: the first of a process that had to start one.

Its provider calls need the ledger, not Prefect. So the run begins under an id of its own and is entered as soon as the
server answers, with the time at which it began; everything else that it asks of the API, and its events, wait for that.
Should the server not come up, the run sends nothing more; what has been answered is kept like any other answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterable
from concurrent.futures import Future
from contextlib import asynccontextmanager
from copy import copy
from typing import Any
from uuid import uuid4

import httpx
from prefect._internal.concurrency.services import _active_services
from prefect.client.schemas.actions import FlowRunCreate
from prefect.client.schemas.objects import FlowRun
from prefect.concurrency import services as limits
from prefect.context import FlowRunContext
from prefect.events.schemas.events import Event
from prefect.events.worker import EventsWorker
from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL

from tta_dev_primitives.blocks.prefect_begun import may_begin
from tta_dev_primitives.blocks.prefect_server.manager import ServerInfo
from tta_dev_primitives.blocks.redaction import redact
from tta_dev_primitives.config.errors import PrefectServerError
from tta_dev_primitives.config.options import USE_CASES
from tta_dev_primitives.flows.begun_runs import begun_run
from tta_dev_primitives.flows.calling.runtime import Runtime
from tta_dev_primitives.flows.prefect_support.api_connection import Coming
from tta_dev_primitives.flows.prefect_support.background_tasks import api_client
from tta_dev_primitives.flows.prefect_support.run_client import RunClient

__all__ = ["EarlyClient", "begin_early"]

_BELIEVED_S = limits._no_limits_cache.ttl
"""How long Prefect believes that a tag has no limit."""
_PATIENCE_S = 90.0
"""Longer than a server may take to come up; a process whose event loop is gone must be able to end."""


async def begin_early(coming: Coming, runtime: Runtime) -> Runtime:
    """Prepare this process for a run before the API answers; where that may not be, wait until it does.

    Returns:
        The runtime to run with.

    Raises:
        PrefectServerError: The API did not come up.
    """
    if coming.answers.done() or not may_begin(coming.info) or not _is_first(coming.info):
        await asyncio.wrap_future(coming.answers)
        return runtime
    client = EarlyClient(coming.answers, PREFECT_API_URL.value(), auth_string=PREFECT_API_AUTH_STRING.value())
    if await api_client(lambda: client) is not client:
        await asyncio.wrap_future(coming.answers)
        return runtime
    _hold_events(client.entered)
    return _stopping_with(client, runtime)


def _is_first(info: ServerInfo) -> bool:
    """Nothing of Prefect has run here yet: no flow around us, and no event that could overtake the run."""
    unused = FlowRunContext.get() is None and not any(isinstance(s, EventsWorker) for s in _active_services)
    return unused and info.url == PREFECT_API_URL.value()


class EarlyClient(RunClient):
    """A connection whose first run begins before the API answers.

    Args:
        answers: Comes true when it does.
    """

    patience_s = 30.0

    def __init__(self, answers: Future[ServerInfo], *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._answers = answers
        self._entry: asyncio.Task[None] | None = None
        self.entered: Future[None] = Future()
        """Comes true when the run is entered; for other event loops and threads."""
        self._said = False
        """Whether it has been told why the run cannot be entered."""
        self._client.event_hooks = {"request": [self._after_entry]}

    async def create_flow_run(self, flow: Any, *args: Any, **given: Any) -> FlowRun:
        """Begin the run; the API hears of it when it answers."""
        if self._entry is not None:
            return await super().create_flow_run(flow, *args, **given)
        run, entry = begun_run(
            flow,
            uuid4(),  # until the API tells
            name=self.namers[flow.name](given["parameters"]),
            parameters=given["parameters"],
            tags=given["tags"],
        )
        self._begun[run.id] = run
        self._own.add(run.id)
        _know_no_limits(run.tags)
        self._entry = asyncio.get_running_loop().create_task(self._enter_first(flow, run, entry))
        return run

    async def _enter_first(self, flow: Any, run: FlowRun, entry: FlowRunCreate) -> None:
        reason = "its event loop ended."
        try:
            answers = asyncio.wrap_future(self._answers)
            while not answers.done():
                _know_no_limits(entry.tags)
                await asyncio.wait([answers], timeout=_BELIEVED_S / 2)
            await answers
            run.flow_id = entry.flow_id = self._flows[flow.name] = await self.create_flow(flow)
            if (known_as := (await self._enter(entry))["id"]) != str(run.id):
                raise PrefectServerError(f"the server calls it {known_as}, not {run.id}.")
            self._takes_ids = True
            self.entered.set_result(None)
        except Exception as problem:
            reason = str(problem) if isinstance(problem, PrefectServerError) else redact(repr(problem))
        finally:
            if not self.entered.done():
                self.entered.set_exception(
                    PrefectServerError(f"The run began, but it cannot be entered in Prefect: {reason}")
                )

    async def _after_entry(self, request: httpx.Request) -> None:
        if self._entry is None or asyncio.current_task() is self._entry:
            return
        await asyncio.wait([self._entry])
        if self._said:
            raise PrefectServerError("Prefect does not know the run.")
        self._said = self.entered.exception() is not None
        self.entered.result()


def _hold_events(entered: Future[None]) -> None:
    """Let this process send its first event when the run is entered: the server ties task runs to a run it knows."""
    lifespan = EventsWorker._lifespan

    @asynccontextmanager
    async def after_entry(self: EventsWorker) -> AsyncGenerator[None]:
        known = asyncio.wrap_future(entered)
        await asyncio.wait([known], timeout=_PATIENCE_S)
        if not known.done() or known.exception() is not None:
            # There is nobody to send them to; the run has said so.
            self._handle = _drop  # type: ignore[method-assign]
            yield
            return
        async with lifespan(self):
            yield

    EventsWorker._lifespan = after_entry  # type: ignore[method-assign]


async def _drop(event: Event) -> None:
    """Of a run that Prefect does not know."""


def _know_no_limits(tags: Iterable[str]) -> None:
    """Tell Prefect what `may_begin` saw in the database: no tag of a run with `tags` limits how many tasks run."""
    with limits._cache_lock:
        for use_case in (None, *USE_CASES):
            these = {*tags} | ({f"use_case:{use_case}"} if use_case else set())
            limits._no_limits_cache[frozenset(f"tag:{tag}" for tag in these)] = True


def _stopping_with(client: EarlyClient, runtime: Runtime) -> Runtime:
    """`runtime` for the run of `client`: once that cannot be entered any more, it sends nothing."""

    def may_send() -> None:
        if client.entered.done():
            client.entered.result()

    run = copy(runtime)
    run.may_send = may_send
    return run
