"""What Prefect shows of a run: names, tags, the history of its attempts, its artifacts."""

from __future__ import annotations

import asyncio
import re
import time
from uuid import UUID

import pytest
from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.filters import ArtifactFilter, FlowRunFilter, LogFilter
from prefect.client.schemas.objects import State, TaskRun
from prefect.client.schemas.sorting import LogSort
from prefect_graph import edges, task_runs
from sandbox_runs import CLAUDE, GEMINI, LLAMA, At

from tta_dev_primitives.config.errors import AllModelsFailedError

pytestmark = pytest.mark.prefect

BUSY = f"rules: [{{match: {{model: {GEMINI}, prompt: solve}}, reply: {{error: overloaded}}}}]"


async def log_lines(client: PrefectClient, flow_run_id: UUID, at_least: int) -> list[str]:
    """Our own lines in the run's log."""
    only = LogFilter.model_validate({"flow_run_id": {"any_": [flow_run_id]}})
    end = time.monotonic() + 110
    while True:
        messages = [one.message for one in await client.read_logs(only, sort=LogSort.TIMESTAMP_ASC)]
        lines = [m for m in messages if re.match(r"(plan|fallback|answer|verdict|cost): ", m)]
        if len(lines) >= at_least:
            return lines
        assert time.monotonic() < end, messages
        await asyncio.sleep(0.1)


async def history(client: PrefectClient, run: TaskRun) -> list[State]:
    """The states that a task run went through."""
    states = await client.read_task_run_states(run.id)
    return sorted(states, key=lambda state: state.timestamp)


async def test_the_history_of_a_task_run_tells_each_attempt(at: At) -> None:
    """The execute task run shows which model failed, why, and that another one was tried."""
    workflow = at(BUSY, validation={"mode": "never"})
    result = await workflow.execute("Describe how a kettle works.", use_case="moderate")
    assert result.model == LLAMA
    async with get_client() as client:
        flow_run_id = UUID(result.flow_run_id)
        execute_name = f"execute[{LLAMA}] (retry 1: overloaded)"
        runs = await task_runs(client, flow_run_id, {"plan", "budget", execute_name, "validate"})
        (execute,) = [run for run in runs if run.name == execute_name]
        states = await history(client, execute)
        assert await edges(client, flow_run_id) == {
            ("plan", "budget"),
            ("budget", execute_name),
            (execute_name, "budget"),
            ("budget", "validate"),
        }
        lines = await log_lines(client, flow_run_id, 5)
    assert [line.split(":")[0] for line in lines] == ["plan", "fallback", "answer", "verdict", "cost"], lines
    assert f"{GEMINI}: overloaded" in lines[1]
    assert f"next: groq/{LLAMA}" in lines[1]
    assert [state.name for state in states[-4:]] == ["Running", "AwaitingRetry", "Retrying", "Completed"]
    message = states[-3].message or ""
    assert GEMINI in message
    assert "overloaded" in message
    assert execute.run_count == 2


async def test_a_task_run_of_which_no_model_answered_has_failed(at: At) -> None:
    """Its last state names the reason; the flow run goes on to the paid model, or fails with all of them."""
    workflow = at("rules: [{match: {prompt: solve}, reply: {error: overloaded}}]")
    with pytest.raises(AllModelsFailedError):
        await workflow.execute("Describe how a clock works.", use_case="moderate")
    async with get_client() as client:
        named = FlowRunFilter.model_validate({"name": {"any_": ["Describe how a clock works."]}})
        (flow_run,) = await client.read_flow_runs(flow_run_filter=named)
        last = f"execute[{CLAUDE}] (retry 2: overloaded)"
        runs = await task_runs(client, flow_run.id, {last})
    executes = [run for run in runs if run.name == last]
    assert {run.state_name for run in executes} == {"Failed"}
    assert "no model answered" in (executes[0].state.message or "")
    assert flow_run.state_name == "Failed"


@pytest.mark.parametrize("use_case", ["reasoning", None])
async def test_runs_are_tagged_with_their_use_case(use_case: str | None, at: At) -> None:
    """Named by the caller or found by the classifier: flow run and task runs carry `use_case:<u>`."""
    workflow = at()
    result = await workflow.execute("What is 17 * 23? Answer with the number only.", use_case=use_case)
    wanted = f"use_case:{result.use_case}"
    async with get_client() as client:
        run = await client.read_flow_run(UUID(result.flow_run_id))
        assert wanted in run.tags
        assert run.name == "What is 17 * 23? Answer with the number only."
        for task_run in await task_runs(client, run.id, {"plan", "validate"}):
            assert wanted in task_run.tags, task_run.name


async def test_artifacts_tell_the_answer_the_attempts_and_the_budget(at: At) -> None:
    """Three artifacts a run, tied to it: the answer with its evidence, every attempt, the month's money."""
    workflow = at(BUSY)
    result = await workflow.execute("Describe how a kettle works.", use_case="moderate")
    async with get_client() as client:
        run_id = UUID(result.flow_run_id)
        end = time.monotonic() + 110
        while True:
            only = ArtifactFilter.model_validate({"flow_run_id": {"any_": [run_id]}})
            found = {
                one.key: str(one.data) for one in await client.read_artifacts(artifact_filter=only) if one.key
            }
            if len(found) == 3:
                break
            assert time.monotonic() < end, found
            await asyncio.sleep(0.1)
    assert set(found) == {"tta-result", "tta-attempts", f"tta-spend-{result.budget.month}"}
    assert result.content[:40] in found["tta-result"]
    assert "overloaded" in found["tta-attempts"]
    assert "over capacity" in found["tta-result"] or "is overloaded" in found["tta-result"]
    assert "limit" in found[f"tta-spend-{result.budget.month}"]


async def test_every_run_of_a_process_is_named_after_its_task(at: At) -> None:
    """The first one and those that follow it."""
    workflow = at()
    tasks = ["Name a river in France.", "Name a river in Spain."]
    results = [await workflow.execute(task, use_case="simple") for task in tasks]
    async with get_client() as client:
        assert [(await client.read_flow_run(UUID(result.flow_run_id))).name for result in results] == tasks


async def test_the_progress_of_a_list_of_tasks_knows_its_length(at: At) -> None:
    """`2/2 done`: items that are no tasks do not count."""
    workflow = at()
    tasks = [{"id": str(n), "task": f"Describe thing {n}.", "use_case": "moderate"} for n in range(2)]
    results = await workflow.execute_bulk([*tasks, {"id": "3"}])
    only = ArtifactFilter.model_validate(
        {"flow_run_id": {"any_": [UUID(results[0].flow_run_id)]}, "key": {"any_": ["tta-bulk-progress"]}}
    )
    async with get_client() as client:
        (progress,) = await client.read_artifacts(artifact_filter=only)
    assert (progress.description or "").startswith("2/2 done")
