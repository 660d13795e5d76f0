"""One connection to the Prefect API for all runs of an event loop, which spares requests that have one answer.

Prefect opens a client for each flow run, asks for the flow's id each time and names the run in a request of its own.
A process that stays up need not: of nine requests a run two are left. It is created running, under its name, and what
the API then says of it is believed for its start; the second request sets its end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Self
from uuid import UUID

from prefect.client.orchestration import PrefectClient, SyncPrefectClient
from prefect.client.schemas.actions import FlowRunCreate
from prefect.client.schemas.objects import FlowRun, FlowRunPolicy, State
from prefect.client.schemas.responses import OrchestrationResult, SetStateStatus, StateAcceptDetails
from prefect.context import AsyncClientContext, SyncClientContext
from prefect.exceptions import PrefectHTTPStatusError
from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_KEY, PREFECT_API_URL
from prefect.states import Running, to_state_create

__all__ = ["RunClient", "open_client", "sharing"]

Namer = Callable[[Mapping[str, Any]], str]


class RunClient(PrefectClient):
    """Prefect's client, which creates the runs of a flow that it knows with one request, under their final name."""

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

    async def __aenter__(self) -> Self:
        """As Prefect's own."""
        self.sync.__enter__()
        return await super().__aenter__()

    async def __aexit__(self, *exc_info: Any) -> None:
        """As Prefect's own."""
        self.sync.__exit__(*exc_info)
        await super().__aexit__(*exc_info)

    async def create_flow_run(self, flow: Any, *args: Any, **given: Any) -> FlowRun:
        """As Prefect's own, which it calls for the first run of a flow and for one that the API no longer knows."""
        namer = self.namers.get(flow.name)
        if not args and namer is not None and given.get("name") is None:
            given["name"] = namer(given.get("parameters") or {})
        known = None if args else self._flows.get(flow.name)
        if known is not None:
            try:
                return await self._create(known, flow, **given)
            except PrefectHTTPStatusError:
                # Its database may be another one than a moment ago.
                del self._flows[flow.name]
        run = await super().create_flow_run(flow, *args, **given)
        self._flows[flow.name] = run.flow_id
        return run

    async def _create(
        self,
        flow_id: UUID,
        flow: Any,
        name: str | None,
        *,
        state: Any,
        parameters: Any,
        tags: Any,
        **rest: Any,
    ) -> FlowRun:
        # Pending is for runs that somebody else will start; this one has begun.
        begun = Running() if state.is_pending() and rest.get("parent_task_run_id") is None else state
        policy = FlowRunPolicy(retries=flow.retries, retry_delay=int(flow.retry_delay_seconds or 0))
        asked = FlowRunCreate(
            flow_id=flow_id,
            flow_version=flow.version,
            parameters=parameters,
            tags=list(tags or ()),
            **({} if name is None else {"name": name}),
            state=to_state_create(begun),
            empirical_policy=policy,
            **rest,
        )
        reply = await self.request(
            "POST", "/flow_runs/", json=asked.model_dump(mode="json", exclude_unset=True)
        )
        run = FlowRun.model_validate(reply.json())
        run.parameters = parameters
        if begun is not state and run.state is not None and run.state.is_running():
            self._begun[run.id] = run
        return run

    async def set_flow_run_state(
        self, flow_run_id: UUID | str, state: State[Any], force: bool = False
    ) -> OrchestrationResult[Any]:
        """As Prefect's own, except that a run that was created running is not set running again."""
        run = self._begun.get(UUID(str(flow_run_id)))
        if run is not None and state.is_running():
            accepted = StateAcceptDetails()
            return OrchestrationResult(state=run.state, status=SetStateStatus.ACCEPT, details=accepted)
        self._begun.pop(UUID(str(flow_run_id)), None)
        return await super().set_flow_run_state(flow_run_id, state, force)

    async def read_flow_run(self, flow_run_id: UUID) -> FlowRun:
        """As Prefect's own; the first look at a run that this client has created is at what the API answered."""
        return self._begun.pop(flow_run_id, None) or await super().read_flow_run(flow_run_id)


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
