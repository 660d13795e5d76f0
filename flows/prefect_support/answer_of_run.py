"""The answer of a run that another process, or another machine, has carried out."""

from __future__ import annotations

import asyncio
import json
from typing import Any
from uuid import UUID

import httpx
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.actions import ArtifactCreate
from prefect.client.schemas.filters import ArtifactFilter
from prefect.client.schemas.objects import FlowRun, State
from prefect.context import AsyncClientContext, FlowRunContext
from prefect.exceptions import ObjectNotFound
from pydantic import ValidationError

from tta_dev_primitives.blocks.redaction import redact
from tta_dev_primitives.config.errors import ConfigError, OrchestrationError
from tta_dev_primitives.flows.prefect_support.api_connection import still_there, use_server
from tta_dev_primitives.flows.prefect_support.loop_connection import api_connection
from tta_dev_primitives.flows.prefect_support.result_storage import users_storage
from tta_dev_primitives.flows.tasks.result import OrchestrationResult

ANSWER = "tta-answer"
"""Key of the artifact that holds the whole result of a deployed run, for machines that its storage cannot reach."""


def answer_artifact(result: OrchestrationResult) -> ArtifactCreate | None:
    """The result as an artifact; None for a run without deployment, or with storage that others reach."""
    context = FlowRunContext.get()
    run = context.flow_run if context is not None else None
    if run is None or run.deployment_id is None or users_storage() == "block":
        return None
    data = json.dumps(_redacted(result.to_json()))
    return ArtifactCreate(
        type="json", key=ANSWER, data=data, description="The result for other machines", flow_run_id=run.id
    )


def _redacted(value: Any) -> Any:
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, list):
        return [_redacted(one) for one in value]
    if isinstance(value, dict):
        return {name: _redacted(one) for name, one in value.items()}
    return value


async def answer_of_run(flow_run: FlowRun | UUID | str) -> OrchestrationResult:
    """Read what a run of `orchestrate` gave back; see `OrchestrationResult.from_flow_run`."""
    run_id = _id_of(flow_run)
    if not still_there():
        await asyncio.to_thread(use_server)
    client = (await api_connection()).client
    try:
        run = await client.read_flow_run(run_id)
    except ObjectNotFound:
        raise ConfigError(
            f"flow run {run_id}: the Prefect API at {client.api_url} has no such run."
        ) from None
    state = run.state
    if state is None or not state.is_final():
        name = "not scheduled" if state is None else state.name
        raise OrchestrationError(
            f"flow run {run.name!r} ({run_id}) has not ended: it is {name}. Wait for its end."
        )
    with AsyncClientContext.model_construct(
        client=client
    ):  # for Prefect's reading, which leaves one of its own open
        found = await _stored(state)
    if isinstance(found, OrchestrationError):
        raise found
    if not state.is_completed():
        raise OrchestrationError(
            f"flow run {run.name!r} ({run_id}) ended as {state.name}: {redact(state.message or '')}"
        )
    answer = _as_result(found) or await _from_artifact(client, run_id)
    if answer is not None:
        return answer
    if found is not None:
        raise ConfigError(
            f"flow run {run.name!r} ({run_id}) is no run of `orchestrate`: it gave {type(found).__name__}."
        )
    raise OrchestrationError(
        f"flow run {run.name!r} ({run_id}): its result cannot be read from here. To fix: set "
        "PREFECT_DEFAULT_RESULT_STORAGE_BLOCK on the workers to storage that this machine reaches, too."
    )


def _id_of(flow_run: FlowRun | UUID | str) -> UUID:
    if isinstance(flow_run, FlowRun):
        return flow_run.id
    try:
        return flow_run if isinstance(flow_run, UUID) else UUID(flow_run)
    except ValueError:
        raise ConfigError(f"{flow_run!r} is no id of a flow run.") from None


async def _stored(state: State[Any]) -> Any:
    """The run's value or exception from its storage; None when that cannot be read here."""
    try:
        reading: Any = state.result(raise_on_failure=False, retry_result_failure=False)
        return await reading if hasattr(reading, "__await__") else reading
    except (httpx.HTTPError, OrchestrationError):
        raise
    except Exception:
        # Each kind of storage has errors of its own for what is not there; the artifact is asked next.
        return None


def _as_result(found: Any) -> OrchestrationResult | None:
    if isinstance(found, OrchestrationResult):
        return found
    try:
        return OrchestrationResult.model_validate(found) if isinstance(found, dict) else None
    except ValidationError:
        return None


async def _from_artifact(client: PrefectClient, run_id: UUID) -> OrchestrationResult | None:
    wanted = ArtifactFilter.model_validate(
        {"flow_run_id": {"any_": [str(run_id)]}, "key": {"any_": [ANSWER]}}
    )
    found = await client.read_artifacts(artifact_filter=wanted, limit=1)
    if not found or not isinstance(found[0].data, str):
        return None
    return OrchestrationResult.model_validate_json(found[0].data)
