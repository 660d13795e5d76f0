"""Runs of `orchestrate` in a process that stays up: what is the same for every run is done once."""

from __future__ import annotations

from typing import cast
from uuid import UUID

from prefect import tags
from prefect.context import FlowRunContext

from tta_dev_primitives.flows.calling.runtime import Runtime, active
from tta_dev_primitives.flows.orchestrate_flow import orchestrate, run_name
from tta_dev_primitives.flows.plan import known_use_case
from tta_dev_primitives.flows.prefect_support.background_tasks import api_client, held_back
from tta_dev_primitives.flows.prefect_support.result_storage import RESULTS, ResultFolder
from tta_dev_primitives.flows.prefect_support.run_client import sharing
from tta_dev_primitives.flows.tasks.request import UseCase
from tta_dev_primitives.flows.tasks.result import OrchestrationResult

__all__ = ["run_resident"]

# Its arguments are checked by `check_task` and its runs named as they are created: Prefect would build a pydantic
# model for the one (8 ms) and send a request for the other.
_orchestrate = orchestrate.with_options(validate_parameters=False)
_orchestrate.flow_run_name = None
# They are text or nothing. Prefect would import FastAPI to make JSON of them (0.2 s).
_orchestrate.serialize_parameters = dict  # type: ignore[assignment]
_orchestrate.result_storage = ResultFolder(basepath=str(RESULTS))


async def run_resident(
    runtime: Runtime, task: str, use_case: str | None, system: str | None, config_path: str | None
) -> OrchestrationResult:
    """One flow run of checked arguments with a runtime that is ready; see `MultiModelWorkflow.run` for errors."""
    known = known_use_case(runtime, task, use_case)
    kind = cast("UseCase | None", use_case)
    # Tags of a run that is about to be made cost nothing; added later they cost a request.
    with active(runtime), tags(*([f"use_case:{known}"] if known else [])):
        if FlowRunContext.get() is not None:
            # Inside a flow of the caller's it is a subflow, with that flow's connection.
            return await orchestrate(task, kind, system, config_path)
        client = await api_client()
        client.namers[orchestrate.name] = run_name
        async with held_back():
            with sharing(client):
                result = await _orchestrate(task, kind, system, config_path)
            if result.flow_run_id is not None:
                await client.shown(UUID(result.flow_run_id))
            return result
