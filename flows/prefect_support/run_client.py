"""One connection to the Prefect API for all runs of an event loop, which spares requests that have one answer.

Prefect opens a client for each flow run, asks for the flow's id each time and names the run in a request of its own.
A process that stays up need not: of nine requests a run two are left. It is created running, under its name, and what
the API then says of it is believed for its start; the second request sets its end. The embedded server lets a run
choose its id, so there the run does not wait for the first request. Nor does the caller wait for the reply to the
second, when the run ended well: everything that was paid for is in the ledger by then, and whoever asks this server
for runs is answered once the ends that were on their way are written (`blocks/prefect_server/asgi_guard.py`).
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import Context, ContextVar
from typing import Any, Self
from uuid import UUID

import httpx
from prefect.client.orchestration import PrefectClient, SyncPrefectClient
from prefect.client.schemas.actions import FlowRunCreate
from prefect.client.schemas.objects import FlowRun, State
from prefect.client.schemas.responses import (
    OrchestrationResult,
    SetStateStatus,
    StateAcceptDetails,
    StateWaitDetails,
)
from prefect.context import AsyncClientContext, SyncClientContext
from prefect.exceptions import PrefectHTTPStatusError
from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_KEY, PREFECT_API_URL
from prefect.states import to_state_create

from tta_dev_primitives.blocks.prefect_server.server_settings import EMBEDDED_MARK
from tta_dev_primitives.blocks.redaction import redact
from tta_dev_primitives.flows.begun_runs import begun_run, entered, hold_events

__all__ = ["RunClient", "open_client", "sharing"]

_LOG = logging.getLogger("tta_dev_primitives.runs")
Namer = Callable[[Mapping[str, Any]], str]
_SENT: ContextVar[asyncio.Event | None] = ContextVar("tta_request_sent", default=None)
"""Set when the next request is on its way: all of it is written to the socket."""


class RunClient(PrefectClient):
    """Prefect's client, which creates the runs of a flow that it knows with one request, under their final name."""

    patience_s = 5.0
    """How long an answer waits for a server that hangs or has ended; Prefect hears of its run later then."""

    def __init__(self, *args: Any, **options: Any) -> None:
        """As Prefect's own."""
        super().__init__(*args, **options)
        # Prefect makes one to look at a result storage, even at one that needs none.
        self.sync = SyncPrefectClient(*args, **options)
        self.namers: dict[str, Namer] = {}
        """Flow -> how its runs are called, from their parameters."""
        self._flows: dict[str, UUID] = {}
        self._begun: dict[UUID, FlowRun] = {}
        """Runs that were created running, until their start has been asked for and read."""
        self._own: set[UUID] = set()
        """Runs that were created running and have not ended."""
        self._untold: dict[UUID, State[Any]] = {}
        """Good ends that the API may not know of."""
        self._telling: dict[UUID, asyncio.Task[None]] = {}
        self._sent: dict[UUID, asyncio.Event] = {}
        """Runs whose good end is being told, and whether the request for it is on its way."""
        self._entered = 0
        self._takes_ids = False
        """Whether the server has been seen to enter a run under the id that it came with."""
        self._unentered: dict[UUID, tuple[Any, FlowRunCreate]] = {}
        """Runs that have begun and that the API may not know of: their flow, and what enters them."""
        self._entering: dict[UUID, asyncio.Task[None]] = {}

    async def __aenter__(self) -> Self:
        """As Prefect's own."""
        # Prefect enters the client that it shares once more for each task run.
        self._entered += 1
        if self._entered == 1:
            self.sync.__enter__()
        return await super().__aenter__()

    async def __aexit__(self, *exc_info: Any) -> None:
        """As Prefect's own, once every run's end has been told."""
        self._entered -= 1
        if self._entered == 0:
            await self._tell_ends()
            self.sync.__exit__(*exc_info)
        await super().__aexit__(*exc_info)

    async def create_flow_run(self, flow: Any, *args: Any, **given: Any) -> FlowRun:
        """As Prefect's own, which it calls for the first run of a flow and for one that the API no longer knows."""
        namer = self.namers.get(flow.name)
        if not args and namer is not None and given.get("name") is None:
            given["name"] = namer(given.get("parameters") or {})
        known = None if args else self._flows.get(flow.name)
        if known is not None and self._takes_ids and given.get("parent_task_run_id") is None:
            return self._begin(flow, known, **given)
        if known is not None:
            try:
                return await self._create(known, flow, **given)
            except PrefectHTTPStatusError:
                # Its database may be another one than a moment ago.
                del self._flows[flow.name]
        if args or not self._embedded():
            run = await super().create_flow_run(flow, *args, **given)
            self._flows[flow.name] = run.flow_id
            return run
        self._flows[flow.name] = await self.create_flow(flow)
        return await self._create(self._flows[flow.name], flow, **given)

    def _embedded(self) -> bool:
        api = os.environ.get(EMBEDDED_MARK)
        return api is not None and str(self.api_url).rstrip("/") == api.rstrip("/")

    async def _create(
        self,
        flow_id: UUID,
        flow: Any,
        name: str | None = None,
        *,
        state: Any,
        parameters: Any,
        tags: Any,
        parent_task_run_id: UUID | None = None,
        **rest: Any,
    ) -> FlowRun:
        begun, asked = begun_run(flow, flow_id, name=name, parameters=parameters, tags=tags)
        if parent_task_run_id is not None:
            # Pending is for runs that somebody else will start.
            asked.state, asked.parent_task_run_id = to_state_create(state), parent_task_run_id
        if parent_task_run_id is not None or not self._embedded():
            asked.idempotency_key = None
        reply = await self._enter(asked.model_copy(update=rest))
        run = FlowRun.model_validate(reply)
        run.parameters = parameters
        if asked.idempotency_key is not None:
            self._takes_ids = run.id == begun.id
        if parent_task_run_id is None and run.state is not None and run.state.is_running():
            self._begun[run.id] = run
            self._own.add(run.id)
        return run

    async def _enter(self, asked: FlowRunCreate) -> Any:
        body = asked.model_dump(mode="json", exclude_unset=True)
        return (await self.request("POST", "/flow_runs/", json=body)).json()

    def _begin(
        self, flow: Any, flow_id: UUID, name: str | None = None, *, parameters: Any, tags: Any, **_: Any
    ) -> FlowRun:
        run, asked = begun_run(flow, flow_id, name=name, parameters=parameters, tags=tags)
        self._begun[run.id] = run
        self._own.add(run.id)
        self._unentered[run.id] = (flow, asked)
        hold_events(run.id)
        task = asyncio.get_running_loop().create_task(self._enter_begun(run.id), context=Context())
        self._entering[run.id] = task
        task.add_done_callback(lambda _: self._entering.pop(run.id, None))
        return run

    async def _enter_begun(self, run_id: UUID) -> None:
        """Let the API know a run that has begun; without that, Prefect shows nothing of it.

        A cancellation leaves it unentered, as with the end; asking twice is harmless, the key sees to that.
        """
        flow, asked = self._unentered[run_id]
        known = False
        try:
            try:
                reply = await self._enter(asked)
            except PrefectHTTPStatusError:
                # Its database may be another one than a moment ago.
                asked.flow_id = self._flows[flow.name] = await self.create_flow(flow)
                reply = await self._enter(asked)
            known = self._takes_ids = reply["id"] == str(run_id)
            if not known:
                _LOG.warning("Prefect shows flow run %s as %s, without its task runs", run_id, reply["id"])
        except Exception as problem:
            _LOG.warning("Prefect does not show flow run %s: %s", run_id, redact(str(problem)))
        entered(run_id, known)
        del self._unentered[run_id]

    async def _known(self, run_id: UUID) -> None:
        """Wait until the API knows a run that this client has begun."""
        task = self._entering.get(run_id)
        if task is not None and task is not asyncio.current_task():
            await asyncio.wait([task])

    async def set_flow_run_state(
        self, flow_run_id: UUID | str, state: State[Any], force: bool = False
    ) -> OrchestrationResult[Any]:
        """As Prefect's own, except for runs that this client has created.

        They are not set running again, and their good end is accepted at once and sent behind the caller's back.
        """
        run_id = UUID(str(flow_run_id))
        run = self._begun.get(run_id)
        if run is not None and state.is_running():
            return _accepted(run.state)
        self._begun.pop(run_id, None)
        if run_id not in self._own or not state.is_final():
            await self._known(run_id)
            return await super().set_flow_run_state(run_id, state, force)
        self._own.discard(run_id)
        if force or not state.is_completed():
            await self._known(run_id)
            return await super().set_flow_run_state(run_id, state, force)
        self._untold[run_id] = state
        # A context of its own: the run that asked for it will have ended.
        self._sent[run_id] = asyncio.Event()
        task = asyncio.get_running_loop().create_task(self._tell_end(run_id), context=Context())
        self._telling[run_id] = task
        task.add_done_callback(lambda _: self._told(run_id))
        return _accepted(state)

    def _told(self, run_id: UUID) -> None:
        self._telling.pop(run_id, None)
        self._sent.pop(run_id).set()

    async def request(
        self,
        method: Any,
        path: Any,
        params: dict[str, Any] | None = None,
        path_params: dict[str, Any] | None = None,
        **options: Any,
    ) -> httpx.Response:
        """As Prefect's own; tells who waits for it that the request is on its way."""
        if (sent := _SENT.get()) is not None:

            async def trace(event: str, _: Any) -> None:
                # A server that takes no connection is asked by nobody either.
                if event.endswith(("send_request_body.complete", ".failed")):
                    sent.set()

            options["extensions"] = {"trace": trace}
        return await super().request(method, path, params, path_params, **options)

    async def _tell_end(self, run_id: UUID) -> None:
        """Send a good end until the API has taken or refused it; a refusal costs the picture, not the answer.

        A cancellation leaves it untold: `asyncio.run` cancels what is left before it closes this client.
        """
        state = self._untold[run_id]
        try:
            await self._known(run_id)
            _SENT.set(self._sent.get(run_id))
            while True:
                answer = await super().set_flow_run_state(run_id, state)
                if not isinstance(answer.details, StateWaitDetails):
                    break
                await asyncio.sleep(answer.details.delay_seconds)
            if answer.status is not SetStateStatus.ACCEPT:
                reason = getattr(answer.details, "reason", None) or answer.status.value
                _LOG.warning("Prefect shows no good end of flow run %s: %s", run_id, redact(str(reason)))
        except Exception as problem:
            _LOG.warning("Prefect was not told that flow run %s has ended: %s", run_id, redact(str(problem)))
        del self._untold[run_id]

    async def shown(self, run_id: UUID) -> None:
        """Wait until whoever asks the API for a run of this client is told how it has ended, if the API is there."""
        if not self._embedded():
            await self.ended(run_id)
        elif (sent := self._sent.get(run_id)) is not None:
            with suppress(TimeoutError):
                async with asyncio.timeout(self.patience_s):
                    await sent.wait()

    async def ended(self, run_id: UUID) -> None:
        """Wait until the API knows how a run of this client has ended."""
        task = self._telling.get(run_id)
        if task is not None:
            await asyncio.wait([task])

    async def all_ended(self) -> None:
        """Wait until the API knows how the runs of this client have ended."""
        await asyncio.gather(*self._telling.values(), return_exceptions=True)

    async def _tell_ends(self) -> None:
        """Send the ends that are left; one whose sending was cut off may have arrived."""
        await self.all_ended()
        for run_id in tuple(self._unentered):
            await self._known(run_id)
            if run_id in self._unentered:
                await self._enter_begun(run_id)
        for run_id in tuple(self._untold):
            try:
                known = (await super().read_flow_run(run_id)).state
            except Exception:
                known = None
            if known is not None and known.is_final():
                del self._untold[run_id]
            else:
                await self._tell_end(run_id)

    async def read_flow_run(self, flow_run_id: UUID) -> FlowRun:
        """As Prefect's own; the first look at a run that this client has created is at what the API answered."""
        begun = self._begun.pop(flow_run_id, None)
        if begun is not None:
            return begun
        await self._known(flow_run_id)
        return await super().read_flow_run(flow_run_id)

    async def update_flow_run(self, flow_run_id: UUID, *args: Any, **given: Any) -> Any:
        """As Prefect's own."""
        await self._known(flow_run_id)
        return await super().update_flow_run(flow_run_id, *args, **given)


def _accepted(state: State[Any] | None) -> OrchestrationResult[Any]:
    return OrchestrationResult(state=state, status=SetStateStatus.ACCEPT, details=StateAcceptDetails())


def open_client() -> RunClient:
    """A client for the API of the settings, not yet entered."""
    return RunClient(
        PREFECT_API_URL.value(),
        auth_string=PREFECT_API_AUTH_STRING.value(),
        api_key=PREFECT_API_KEY.value(),
    )


@contextmanager
def sharing(client: RunClient) -> Iterator[None]:
    """Let Prefect use `client` inside, instead of opening one for each run."""
    token = AsyncClientContext.__var__.set(AsyncClientContext.model_construct(client=client))
    sync_token = SyncClientContext.__var__.set(SyncClientContext.model_construct(client=client.sync))
    try:
        yield
    finally:
        SyncClientContext.__var__.reset(sync_token)
        AsyncClientContext.__var__.reset(token)
