"""Runs that are stopped from outside: in Prefect, or by a signal. Nothing new is sent, and nothing stays held."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from fixtures_prefect import temporary_environment
from prefect import flow, get_client
from prefect.client.schemas.filters import FlowRunFilter
from prefect.client.schemas.objects import FlowRun
from prefect.context import FlowRunContext
from prefect.states import Cancelling, Failed, State
from sandbox_runs import At, SandboxOf

from tta_dev_primitives.blocks.ledger.ledger import Ledger
from tta_dev_primitives.deployments.sandbox import Sandbox
from tta_dev_primitives.flows.bulk.bulk_flow import run_file
from tta_dev_primitives.flows.bulk.call_order import BulkAdmission
from tta_dev_primitives.flows.bulk.runner import JobOptions
from tta_dev_primitives.flows.calling.runtime import active
from tta_dev_primitives.flows.prefect_support import stopping
from tta_dev_primitives.orchestration import MultiModelWorkflow, RunCancelledError

pytestmark = [pytest.mark.prefect]

SLOW = "defaults: {latency: 600}"
QUICK = "defaults: {latency: 1.5}"
PAID_ONLY = {"enabled": False, "validation": {"mode": "never"}}


async def set_state(
    sandbox: Sandbox, task: asyncio.Future[Any], state: State[Any], wanted: str | MultiModelWorkflow
) -> FlowRun:
    """Set the state of the run with a name, or of the one that the ledger knows, once its first call is open."""
    while not sandbox.calls:
        assert not task.done(), task
        await asyncio.sleep(0.05)
    by_name = {"name": {"any_": [wanted]}, "state": {"type": {"any_": ["RUNNING"]}}}
    chosen = by_name if isinstance(wanted, str) else {"id": {"any_": await run_ids(wanted)}}
    async with get_client() as client:
        (run,) = await client.read_flow_runs(flow_run_filter=FlowRunFilter.model_validate(chosen))
        await client.set_flow_run_state(run.id, state)
    return run


async def run_ids(workflow: MultiModelWorkflow) -> list[str]:
    """The flow runs whose calls stand in the ledger."""
    ledger = Ledger.open(workflow.config.cost_tracking.ledger_url)
    rows = await ledger.database.read(lambda tx: tx.fetch("SELECT DISTINCT flow_run_id FROM ledger_call"))
    return [row["flow_run_id"] for row in rows]


async def state_of(run: FlowRun) -> State[Any]:
    """The run's state now."""
    async with get_client() as client:
        found = (await client.read_flow_run(run.id)).state
    assert found is not None
    return found


async def balance(workflow: MultiModelWorkflow) -> Any:
    """The month's money, of a ledger that adds up."""
    ledger = Ledger.open(workflow.config.cost_tracking.ledger_url)
    assert await ledger.verify() == []
    return await ledger.balance()


@pytest.mark.parametrize(("given", "wanted"), [(Cancelling, "Cancelled"), (Failed, "Failed")])
async def test_a_run_that_is_ended_in_prefect_stops(
    given: Callable[..., State[Any]], wanted: str, at: At
) -> None:
    """`execute`: the open call is charged at its bound within five seconds, and the run has the state it was given."""
    workflow = at(SLOW, **PAID_ONLY)
    running = asyncio.create_task(workflow.execute(f"End me as {wanted}", use_case="simple"))
    run = await set_state(workflow.sandbox, running, given(), f"End me as {wanted}")
    with pytest.raises(RunCancelledError, match="in Prefect"):
        await running
    assert (await state_of(run)).name == wanted
    money = await balance(workflow)
    assert (money.held, money.spent == money.presumed > 0, len(workflow.sandbox.calls)) == (0, True, 1)


async def test_a_run_inside_a_flow_that_is_cancelled_stops(at: At) -> None:
    """The caller's own flow is cancelled: what it has called stops."""
    workflow = at(SLOW, **PAID_ONLY)

    @flow(name="outer", flow_run_name="outer of a cancelled run")
    async def outer() -> None:
        assert FlowRunContext.get() is not None
        await workflow.execute("Inner of a cancelled run", use_case="simple")

    running = asyncio.create_task(outer())
    await set_state(workflow.sandbox, running, Cancelling(), "outer of a cancelled run")
    with pytest.raises(RunCancelledError):
        await running
    assert (await balance(workflow)).held == 0


@pytest.mark.parametrize("kind", ["memory", "file"])
async def test_a_job_that_is_cancelled_lets_its_open_calls_end(
    kind: str, at: At, sandbox_of: SandboxOf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`execute_bulk` and `tta bulk`: two of twenty calls are open; they end and are settled, and no other is sent."""
    heard = threading.Event()
    close = BulkAdmission.close

    def closes(admission: BulkAdmission, reason: str, **more: Any) -> None:
        close(admission, reason, **more)
        heard.set()

    async def until_heard(_: float) -> None:
        await asyncio.to_thread(heard.wait)

    monkeypatch.setattr(BulkAdmission, "close", closes)
    workflow = at(sandbox_of("defaults: {latency: 1}", sleep=until_heard), **PAID_ONLY)
    answered: list[str] = []
    (tmp_path / "in.jsonl").write_text(
        "".join(f'{{"id": "{n}", "task": "Word {n}", "use_case": "simple"}}\n' for n in range(20))
    )

    async def memory() -> None:
        items = [{"id": str(n), "task": f"Word {n}", "use_case": "simple"} for n in range(20)]
        with pytest.raises(RunCancelledError):
            await workflow.execute_bulk(
                items, concurrency=2, on_result=lambda r: answered.append(r.content) if r.content else None
            )

    async def file() -> None:
        names = {"input_path": str(tmp_path / "in.jsonl"), "output_path": str(tmp_path / "out.jsonl")}
        with active(await workflow.ready()):
            report = await run_file(JobOptions(), concurrency=2, config_path=None, **names)
        assert (report.state, report.reason, report.left) == ("interrupted", "cancelled in Prefect", 18)
        answered.extend(["", ""])

    job: Awaitable[None] = memory() if kind == "memory" else file()
    running = asyncio.ensure_future(job)
    run = await set_state(workflow.sandbox, running, Cancelling(), workflow)
    await running
    assert (await state_of(run)).name == "Cancelled"
    money = await balance(workflow)
    assert (money.held, money.presumed, len(workflow.sandbox.calls), len(answered)) == (0, 0, 2, 2)


_RUN = """
import sys
from tta_dev_primitives.orchestration import MultiModelWorkflow
MultiModelWorkflow(sys.argv[1]).run("Stop me by a signal", use_case="simple")
"""
_EXECUTE = """
import asyncio, sys
from tta_dev_primitives.orchestration import MultiModelWorkflow
asyncio.run(MultiModelWorkflow(sys.argv[1]).execute("Stop me by a signal", use_case="simple"))
"""
_BULK = """
import asyncio, sys
from tta_dev_primitives.orchestration import MultiModelWorkflow
items = [{"id": str(n), "task": f"Stop me {n}", "use_case": "simple"} for n in range(20)]
asyncio.run(MultiModelWorkflow(sys.argv[1]).execute_bulk(items, concurrency=2))
"""
_TTA = "import sys; from tta_dev_primitives.cli import main; main(['run', 'Stop me', '-c', sys.argv[1]])"


@pytest.mark.parametrize(
    ("script", "signum", "scenario"),
    [
        (_RUN, signal.SIGINT, SLOW),
        (_RUN, signal.SIGHUP, SLOW),
        (_EXECUTE, signal.SIGTERM, SLOW),
        (_TTA, signal.SIGINT, SLOW),
        (_BULK, signal.SIGINT, QUICK),
    ],
    ids=["run-int", "run-hup", "execute-term", "tta-int", "bulk-int"],
)
async def test_a_signal_ends_a_script_with_one_line(
    script: str,
    signum: int,
    scenario: str,
    at: At,
) -> None:
    """Ctrl-C, SIGTERM, SIGHUP: one line, no traceback, a run that reads Cancelled, and a ledger without holds."""
    workflow = at(scenario, **PAID_ONLY)
    process = await asyncio.to_thread(
        subprocess.Popen,
        [sys.executable, "-c", script, str(workflow.config.source)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={n: v for n, v in os.environ.items() if not n.startswith("PREFECT_LOGGING_")},
    )
    while not workflow.sandbox.calls:
        assert process.poll() is None, process.communicate()
        await asyncio.sleep(0.05)
    process.send_signal(signum)
    out, err = await asyncio.to_thread(process.communicate, timeout=110)
    assert process.returncode == 128 + signum, err
    lines = [line for line in err.splitlines() if line.strip()]
    assert len(lines) == 1, err
    assert "nterrupted" in lines[0]
    assert out == ""
    money = await balance(workflow)
    assert money.held == 0
    assert (money.presumed > 0) is (scenario == SLOW)
    (run_id,) = await run_ids(workflow)
    async with get_client() as client:
        state = (await client.read_flow_run(run_id)).state
    assert state is not None
    assert state.name == "Cancelled"


class Three(stopping._Watch):
    """Asks three times."""

    asked = 0

    async def ask(self) -> None:
        """The fourth ends it."""
        self.asked += 1
        if self.asked > 3:
            raise asyncio.CancelledError
        await super().ask()


async def test_a_run_says_once_that_prefect_does_not_answer(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It waits for minutes in all: the reason stands on stderr, and so does the way out."""
    monkeypatch.setattr(stopping, "_EVERY_S", 0.0)
    away = {"PREFECT_API_URL": "http://127.0.0.1:9/api", "PREFECT_CLIENT_MAX_RETRIES": "0"}
    with temporary_environment(away), pytest.raises(asyncio.CancelledError):
        await Three().run()
    said = [record.message for record in caplog.records if record.name == "tta_dev_primitives.runs"]
    assert len(said) == 1
    assert said[0].startswith("Prefect's API does not answer (")
