"""A process that stays up asks Prefect for little: a run costs two requests before its answer, and is all there."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from uuid import UUID, uuid4

import httpx
import pytest
from prefect import flow
from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.filters import FlowRunFilter
from sandbox_runs import At
from test_what_a_person_sees import task_runs

from tta_dev_primitives.flows.prefect_support.loop_connection import api_connection, background_done
from tta_dev_primitives.orchestration import AllModelsFailedError

pytestmark = pytest.mark.prefect

Hook = Callable[[str, str], None]


def named(name: str) -> FlowRunFilter:
    """The runs of a name: the server of all tests holds more runs than one page."""
    return FlowRunFilter.model_validate({"name": {"any_": [name]}})


@pytest.fixture
def on_request(monkeypatch: pytest.MonkeyPatch) -> list[Hook]:
    """Hooks that see method and path of each request of any Prefect client; what they raise breaks the request."""
    hooks: list[Hook] = []
    ask = PrefectClient.request

    async def request(self: PrefectClient, method: str, path: str, *args: object, **given: object) -> object:
        for hook in hooks:
            hook(method, path)
        return await ask(self, method, path, *args, **given)  # type: ignore[arg-type]

    monkeypatch.setattr(PrefectClient, "request", request)
    return hooks


async def test_a_run_needs_two_requests_and_its_artifacts_follow_its_end(
    at: At, on_request: list[Hook]
) -> None:
    """Created running under its name, completed; the same connection writes the artifacts behind it."""
    workflow = at()
    await workflow.execute("Describe how a kettle works.", use_case="simple")
    await background_done()
    asked: list[str] = []
    on_request.append(lambda method, path: asked.append(f"{method} {path}"))
    result = await workflow.execute("Describe how a toaster works.", use_case="simple")
    # By the clock: whether the tag of the task runs has a limit, whether the run was ended, and its log.
    by_clock = ("concurrency_limits", "flow_runs/filter", "logs", "artifacts")
    before_the_answer = [line for line in asked if not any(word in line for word in by_clock)]
    assert before_the_answer == ["POST /flow_runs/", "POST /flow_runs/{id}/set_state"]
    await background_done()
    assert asked.count("POST /artifacts/") == 3
    run = await (await api_connection()).client.read_flow_run(UUID(result.flow_run_id))
    assert (run.name, run.state_name, run.run_count) == ("Describe how a toaster works.", "Completed", 1)
    assert run.tags == ["use_case:simple"]
    assert run.parameters["task"] == "Describe how a toaster works."
    assert run.start_time is not None


async def test_a_run_has_its_task_runs_and_its_result(at: At) -> None:
    """Whoever asks the API for the run's result gets the same answer."""
    result = await at().execute("Describe how a gong works.", use_case="simple")
    async with get_client() as client:
        run = await client.read_flow_run(UUID(result.flow_run_id))
        assert run.state is not None
        assert result.content in str(await run.state.aresult())
        names = {one.name for one in await task_runs(client, run.id, {"validate"})}
    assert {"plan", "budget", "validate"} <= names


async def test_a_flow_that_the_api_no_longer_knows_is_registered_again(at: At) -> None:
    """The server's database may have been replaced while this process went on."""
    workflow = at()
    (await api_connection()).flow_ids["orchestrate"] = uuid4()
    result = await workflow.execute("Describe how a lamp works.", use_case="simple")
    run = await (await api_connection()).client.read_flow_run(UUID(result.flow_run_id))
    assert (run.name, run.state_name) == ("Describe how a lamp works.", "Completed")


async def test_after_execute_the_flow_run_reads_as_completed(at: At) -> None:
    """Whoever asks next, over whatever connection, finds the run and its end."""
    workflow = at()
    async with get_client() as client:
        for thing in ("bell", "drum", "bugle"):
            result = await workflow.execute(f"Describe how a {thing} works.", use_case="simple")
            run = await client.read_flow_run(UUID(result.flow_run_id))
            assert (run.name, run.state_name) == (f"Describe how a {thing} works.", "Completed")


async def test_an_end_that_prefect_does_not_take_keeps_no_answer_back(
    at: At,
    on_request: list[Hook],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The connection breaks as the run ends: what was paid for is handed over, the log says what is not shown."""
    workflow = at()

    def broken(method: str, path: str) -> None:
        if path.endswith("/set_state"):
            raise httpx.ConnectError("the wire is cut")

    on_request.append(broken)
    result = await workflow.execute("Describe how a cello works.", use_case="simple")
    assert result.accepted
    assert f"flow run {result.flow_run_id} to Completed: the wire is cut" in caplog.text


async def test_a_failed_run_reads_as_failed_with_its_reason(at: At) -> None:
    """Every model fails: the run's state names the error, and no task run is left running."""
    workflow = at("rules: [{match: {}, reply: {error: overloaded}}]")
    with pytest.raises(AllModelsFailedError):
        await workflow.execute("Describe how a broken bell works.", use_case="simple")
    async with get_client() as client:
        (run,) = await client.read_flow_runs(flow_run_filter=named("Describe how a broken bell works."))
    assert run.state is not None
    assert run.state_name == "Failed"
    assert "AllModelsFailedError" in (run.state.message or "")


async def test_a_cancelled_caller_leaves_no_run_running(at: At) -> None:
    """A task that is cancelled in the middle of a call ends its flow run."""
    workflow = at("defaults: {latency: 60}")
    running = asyncio.create_task(workflow.execute("Describe how a slow bell works.", use_case="simple"))
    while not workflow.sandbox.calls:  # noqa: ASYNC110 - the sandbox offers no event
        await asyncio.sleep(0.02)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    async with get_client() as client:
        (run,) = await client.read_flow_runs(flow_run_filter=named("Describe how a slow bell works."))
    assert run.state_name == "Cancelled"


async def test_inside_a_flow_it_is_a_subflow(at: At) -> None:
    """A user's own flow sees the run as its child."""
    workflow = at()

    @flow
    async def around() -> str | None:
        return (await workflow.execute("Describe how a nested bell works.", use_case="simple")).flow_run_id

    run_id = await around()
    async with get_client() as client:
        run = await client.read_flow_run(UUID(str(run_id)))
    assert run.parent_task_run_id is not None
    assert run.state_name == "Completed"


def test_a_script_that_ends_with_its_answer_leaves_no_run_running(at: At) -> None:
    """`asyncio.run` cancels what is left when its work is done; the run and its artifacts are there."""
    workflow = at()
    result = asyncio.run(workflow.execute("Describe how a whistle works.", use_case="simple"))
    with get_client(sync_client=True) as client:
        assert client.read_flow_run(UUID(result.flow_run_id)).state_name == "Completed"
        wanted = {"artifacts": {"flow_run_id": {"any_": [result.flow_run_id]}}}
        assert client.request("POST", "/artifacts/filter", json=wanted).json()


def test_after_run_the_flow_run_has_ended(at: At) -> None:
    """Who waits for the answer with `run` may look at its flow run at once."""
    workflow = at()
    result = workflow.run("Describe how a flute works.", use_case="simple")
    with get_client(sync_client=True) as client:
        assert client.read_flow_run(UUID(result.flow_run_id)).state_name == "Completed"
