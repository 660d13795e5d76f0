"""A process that stays up asks Prefect for little: what it knows of the last run it does not ask for again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from uuid import UUID, uuid4

import httpx
import pytest
from prefect.client.orchestration import get_client
from sandbox_runs import MakeWorkflow
from test_what_a_person_sees import task_runs

from tta_dev_primitives.deployments.sandbox import Sandbox
from tta_dev_primitives.flows.prefect_support.background_tasks import api_client, settled

StartSandbox = Callable[..., Sandbox]


async def test_a_second_run_needs_two_requests_and_writes_its_artifacts_after_its_end(
    sandbox_of: StartSandbox, make_workflow: MakeWorkflow
) -> None:
    """Created running under its name, completed; the same connection serves the artifacts behind it."""
    workflow = make_workflow(sandbox_of())
    await workflow.execute("Describe how a kettle works.", use_case="simple")
    await settled()
    asked: list[str] = []

    async def note(request: httpx.Request) -> None:
        asked.append(f"{request.method} {request.url.path}")

    connection = (await api_client())._client
    connection.event_hooks = {"request": [note]}
    try:
        result = await workflow.execute("Describe how a toaster works.", use_case="simple")
        await settled()
    finally:
        connection.event_hooks = {}
    made = await (await api_client()).read_flow_run(UUID(result.flow_run_id))
    assert (made.name, made.state_name, made.run_count) == ("Describe how a toaster works.", "Completed", 1)
    assert made.start_time is not None
    run = f"/api/flow_runs/{result.flow_run_id}"
    # Whether the tag of the task runs has a concurrency limit is asked every five seconds.
    told = [line for line in asked if "concurrency_limits" not in line]
    assert told == ["POST /api/flow_runs/", f"POST {run}/set_state", *["POST /api/artifacts/"] * 3]


async def test_a_flow_that_the_api_no_longer_knows_is_registered_again(
    sandbox_of: StartSandbox, make_workflow: MakeWorkflow
) -> None:
    """The server's database may have been replaced while this process went on."""
    workflow = make_workflow(sandbox_of())
    (await api_client())._flows["orchestrate"] = uuid4()
    result = await workflow.execute("Describe how a lamp works.", use_case="simple")
    await settled()
    run = await (await api_client()).read_flow_run(UUID(result.flow_run_id))
    assert (run.name, run.state_name) == ("Describe how a lamp works.", "Completed")


async def test_after_execute_the_flow_run_reads_as_completed(
    sandbox_of: StartSandbox, make_workflow: MakeWorkflow
) -> None:
    """Whoever asks next, over whatever connection, finds the run and its end; nobody waited for the server's reply."""
    workflow = make_workflow(sandbox_of())
    async with get_client() as client:
        for thing in ("bell", "drum", "bugle", "cymbal"):
            result = await workflow.execute(f"Describe how a {thing} works.", use_case="simple")
            run = await client.read_flow_run(UUID(result.flow_run_id))
            assert (run.name, run.state_name) == (f"Describe how a {thing} works.", "Completed")


async def test_a_server_that_hangs_keeps_no_answer_back(
    sandbox_of: StartSandbox, make_workflow: MakeWorkflow, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The end of the run cannot be sent: the answer, which is paid for, waits for some seconds, not for retries."""
    workflow = make_workflow(sandbox_of())
    await workflow.execute("Describe how a gavel works.", use_case="simple")
    await settled()
    client = await api_client()
    monkeypatch.setattr(client, "patience_s", 0.1)
    go_on = asyncio.Event()

    async def hangs(request: httpx.Request) -> None:
        await go_on.wait()

    client._client.event_hooks = {"request": [hangs]}
    try:
        result = await workflow.execute("Describe how a mallet works.", use_case="simple")
        assert UUID(result.flow_run_id) in client._telling
        go_on.set()
        await settled()
    finally:
        client._client.event_hooks = {}
    assert (await client.read_flow_run(UUID(result.flow_run_id))).state_name == "Completed"


async def test_the_answer_waits_for_the_end_on_a_server_that_is_not_ours(
    sandbox_of: StartSandbox, make_workflow: MakeWorkflow, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such a server lets others read while it sets a state, so `execute` returns when it has replied."""
    workflow = make_workflow(sandbox_of())
    await workflow.execute("Describe how an oboe works.", use_case="simple")
    await settled()
    client = await api_client()
    monkeypatch.setattr(client, "_embedded", lambda: False)
    result = await workflow.execute("Describe how a tuba works.", use_case="simple")
    assert UUID(result.flow_run_id) not in client._telling


async def test_a_run_asks_its_models_before_prefect_has_entered_it(
    sandbox_of: StartSandbox, make_workflow: MakeWorkflow
) -> None:
    """On the embedded server it has an id of its own; its task runs are told when the run is known, none is lost."""
    sandbox = sandbox_of()
    workflow = make_workflow(sandbox)
    await workflow.execute("Describe how a gong works.", use_case="simple")
    await settled()
    client = await api_client()
    before, entered_after = len(sandbox.calls), 0

    async def held_up(request: httpx.Request) -> None:
        nonlocal entered_after
        while request.url.path.endswith("/flow_runs/") and not entered_after:
            await asyncio.sleep(0.01)
            entered_after = len(sandbox.calls) - before

    client._client.event_hooks = {"request": [held_up]}
    try:
        result = await workflow.execute("Describe how a harp works.", use_case="simple")
        await settled()
    finally:
        client._client.event_hooks = {}
    assert entered_after
    run = await client.read_flow_run(UUID(result.flow_run_id))
    assert (run.name, run.state_name, run.run_count) == ("Describe how a harp works.", "Completed", 1)
    assert {"plan", "budget", "validate"} <= {
        one.name for one in await task_runs(client, run.id, {"validate"})
    }


async def test_a_run_that_prefect_cannot_enter_has_its_answer_and_a_warning(
    sandbox_of: StartSandbox, make_workflow: MakeWorkflow, caplog: pytest.LogCaptureFixture
) -> None:
    """The connection breaks as the run begins: what was paid for is handed over, the log says what is not shown."""
    workflow = make_workflow(sandbox_of())
    await workflow.execute("Describe how a viola works.", use_case="simple")
    await settled()
    client = await api_client()

    async def broken(request: httpx.Request) -> None:
        raise httpx.UnsupportedProtocol("the wire is cut")

    client._client.event_hooks = {"request": [broken]}
    try:
        result = await workflow.execute("Describe how a cello works.", use_case="simple")
        await settled()
    finally:
        client._client.event_hooks = {}
    assert result.accepted
    assert f"Prefect does not show flow run {result.flow_run_id}: the wire is cut" in caplog.text


def test_a_script_that_ends_with_its_answer_leaves_no_run_running(
    sandbox_of: StartSandbox, make_workflow: MakeWorkflow
) -> None:
    """`asyncio.run` cancels what is left when its work is done; the run's end is told all the same."""
    workflow = make_workflow(sandbox_of())
    result = asyncio.run(workflow.execute("Describe how a whistle works.", use_case="simple"))
    with get_client(sync_client=True) as client:
        assert client.read_flow_run(UUID(result.flow_run_id)).state_name == "Completed"


def test_after_run_the_flow_run_has_ended(sandbox_of: StartSandbox, make_workflow: MakeWorkflow) -> None:
    """Who waits for the answer with `run` may look at its flow run at once."""
    workflow = make_workflow(sandbox_of())
    result = workflow.run("Describe how a flute works.", use_case="simple")
    with get_client(sync_client=True) as client:
        assert client.read_flow_run(UUID(result.flow_run_id)).state_name == "Completed"
