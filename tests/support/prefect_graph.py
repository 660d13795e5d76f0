"""What Prefect's server has recorded of a run: its task runs, and the graph that the UI draws."""

from __future__ import annotations

import asyncio
import time
from uuid import UUID

from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.filters import FlowRunFilter
from prefect.client.schemas.objects import TaskRun


async def task_runs(client: PrefectClient, flow_run_id: UUID, names: set[str]) -> list[TaskRun]:
    """The task runs of a flow run, once the server has recorded those names and their ends."""
    end = time.monotonic() + 110
    while True:
        only = FlowRunFilter.model_validate({"id": {"any_": [flow_run_id]}})
        found = await client.read_task_runs(flow_run_filter=only)
        if names <= {run.name for run in found} and all(r.state and r.state.is_final() for r in found):
            return found
        assert time.monotonic() < end, [(r.name, r.state_name) for r in found]
        await asyncio.sleep(0.1)


async def edges(client: PrefectClient, flow_run_id: UUID) -> set[tuple[str, str]]:
    """The edges of the run's graph as the UI gets it, by the names of their ends."""
    graph = (await client.request("GET", f"/flow_runs/{flow_run_id}/graph-v2")).json()
    nodes = dict(graph["nodes"])
    return {(nodes[p["id"]]["label"], node["label"]) for node in nodes.values() for p in node["parents"]}
