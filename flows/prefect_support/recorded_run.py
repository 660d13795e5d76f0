"""A run of `orchestrate` in a process that stays up: two requests to Prefect, one that creates it and one that ends it.

Prefect's engine needs seven for the same run: it registers the flow, creates the run, names it, sets it running, reads
it, and ends it. Here the run is created running, under its name, on a connection that stays open.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import Any, cast
from uuid import UUID, uuid4

import anyio
import httpx
from prefect import tags
from prefect.client.schemas.actions import FlowRunCreate
from prefect.client.schemas.objects import FlowRun, FlowRunPolicy, State
from prefect.client.schemas.responses import SetStateStatus, StateWaitDetails
from prefect.context import AsyncClientContext, FlowRunContext, TagsContext
from prefect.exceptions import PrefectHTTPStatusError
from prefect.filesystems import NullFileSystem
from prefect.flows import Flow
from prefect.logging.loggers import flow_run_logger
from prefect.results import ResultStore
from prefect.serializers import JSONSerializer
from prefect.states import (
    Running,
    exception_to_crashed_state,
    exception_to_failed_state,
    return_value_to_state,
    to_state_create,
)

from tta_dev_primitives.blocks.redaction import redact
from tta_dev_primitives.config.errors import PrefectServerError
from tta_dev_primitives.flows.calling.runtime import Runtime, active
from tta_dev_primitives.flows.orchestrate_flow import orchestrate, run_name
from tta_dev_primitives.flows.plan import known_use_case
from tta_dev_primitives.flows.prefect_support.loop_connection import (
    Connection,
    api_connection,
    defer_until_end,
    needing_api,
)
from tta_dev_primitives.flows.prefect_support.result_storage import look_for_users_storage, storage_of
from tta_dev_primitives.flows.prefect_support.stopping import ending
from tta_dev_primitives.flows.tasks.result import OrchestrationResult

_LOG = logging.getLogger("tta_dev_primitives.runs")
_ONCE_S = 5.0
"""For the end of a run whose API has gone: Prefect's client would wait for it a second time."""
_FAILED = "Flow run encountered an exception:"


async def run_recorded(
    runtime: Runtime,
    task: str,
    use_case: str | None,
    system: str | None,
    config_path: str | None,
    fresh: bool = False,
    output_schema: dict[str, Any] | None = None,
) -> OrchestrationResult[Any]:
    """One flow run of checked arguments with a runtime that is ready; see `MultiModelWorkflow.run` for errors."""
    known = known_use_case(runtime, task, use_case)
    # Tags of a run that is about to be made cost nothing; added later they cost a request.
    given: dict[str, Any] = {
        "task": task,
        "use_case": use_case,
        "system": system,
        "config_path": config_path,
        "fresh": fresh,
        "output_schema": output_schema,
    }
    with active(runtime), tags(*([f"use_case:{known}"] if known else [])):
        if FlowRunContext.get() is not None:
            # Inside a flow of the caller's it is a subflow, with that flow's connection.
            result: OrchestrationResult[Any] = await orchestrate(**given)
            return result
        connection = await api_connection()
        with needing_api():
            run = await _create_run(connection, orchestrate, given)
        async with defer_until_end():
            return await _carry_out(connection, orchestrate, run, given)


async def _create_run(connection: Connection, flow: Flow[..., Any], given: Mapping[str, Any]) -> FlowRun:
    """Create a run that is running, under its name; the flow is registered for the first one."""
    known = flow.name in connection.flow_ids
    if not known:
        connection.flow_ids[flow.name] = await connection.client.create_flow(flow)
    asked = FlowRunCreate(
        flow_id=connection.flow_ids[flow.name],
        flow_version=flow.version,
        name=run_name(given),
        parameters=dict(given),
        tags=sorted(TagsContext.get().current_tags),
        state=to_state_create(Running()),
        # Prefect's client repeats a request that had no reply.
        idempotency_key=str(uuid4()),
        empirical_policy=FlowRunPolicy(
            retries=flow.retries, retry_delay=int(cast(float, flow.retry_delay_seconds) or 0)
        ),
    )
    try:
        body = asked.model_dump(mode="json", exclude_unset=True)
        reply = await connection.client.request("POST", "/flow_runs/", json=body)
    except PrefectHTTPStatusError:
        # The server's database may be another one than a moment ago.
        del connection.flow_ids[flow.name]
        if not known:
            raise
        return await _create_run(connection, flow, given)
    return FlowRun.model_validate(reply.json())


async def _carry_out(
    connection: Connection, flow: Flow[..., Any], run: FlowRun, given: dict[str, Any]
) -> OrchestrationResult:
    """Run the flow's function as `run`, and set how it ended before returning."""
    await look_for_users_storage()
    store = ResultStore(
        result_storage=await storage_of(flow.result_storage),
        metadata_storage=NullFileSystem(),
        serializer=JSONSerializer(),
    )
    with (
        AsyncClientContext.model_construct(client=connection.client),
        flow.task_runner.duplicate() as task_runner,
        FlowRunContext(
            flow=flow,
            flow_run=run,
            parameters=given,
            client=connection.client,
            task_runner=task_runner,
            result_store=store,
            persist_result=True,
        ),
        ending() as end,
    ):
        log = flow_run_logger(run, flow)
        try:
            result: OrchestrationResult = await flow.fn(**given)
        except Exception as error:
            log.exception("Encountered exception during execution: %r", error)
            failed = await exception_to_failed_state(
                error, message=_FAILED, result_store=store, write_result=True
            )
            with anyio.move_on_after(_ONCE_S if isinstance(error, PrefectServerError) else None) as waited:
                await _end(connection, run, failed)
            if waited.cancelled_caught:
                _warn(run.id, failed, "its API does not answer")
            raise
        except BaseException as error:
            with anyio.CancelScope(shield=True):
                await _end(connection, run, await exception_to_crashed_state(error), force=True)
            raise
        await _end(connection, run, await return_value_to_state(result, store, write_result=True))
    end.raise_for(run.name)
    return result


async def _end(connection: Connection, run: FlowRun, state: State[Any], *, force: bool = False) -> None:
    """Set the end of a run. An API that does not take it is a warning: what was paid for is in the ledger."""
    try:
        while True:
            answer = await connection.client.set_flow_run_state(run.id, state, force=force)
            if not isinstance(answer.details, StateWaitDetails):
                break
            await asyncio.sleep(answer.details.delay_seconds)
    except httpx.HTTPError as problem:
        _warn(run.id, state, str(problem) or type(problem).__name__)
        return
    except ExceptionGroup as problem:
        if problem.subgroup(PrefectServerError) is None:
            raise
        _warn(run.id, state, "the embedded server ended")
        return
    if answer.status is not SetStateStatus.ACCEPT:
        _warn(run.id, state, getattr(answer.details, "reason", None) or answer.status.value)


def _warn(run_id: UUID, state: State[Any], reason: str) -> None:
    _LOG.warning("Prefect did not set flow run %s to %s: %s", run_id, state.name, redact(reason))
