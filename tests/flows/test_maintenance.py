"""The flows that run by themselves: model check, ledger sweep, spend report, and the restart of crashed runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import uuid4

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import FlowRun
from prefect.states import Crashed, Pending, Running
from sandbox_runs import CLAUDE, GEMINI, LLAMA, At, SandboxOf, executor

from tta_dev_primitives.blocks.ledger.ledger import Ledger
from tta_dev_primitives.blocks.ledger.types import CallInfo, Hold
from tta_dev_primitives.config.errors import BudgetExceededError, LedgerError
from tta_dev_primitives.flows.calling.runtime import active
from tta_dev_primitives.flows.maintenance import check_models, resumable, resume_crashed, sweep_ledger
from tta_dev_primitives.flows.prefect_support.events import listening
from tta_dev_primitives.flows.reporting.spend_report_flow import spend_report


@contextmanager
def heard() -> Iterator[list[tuple[str, Mapping[str, Any]]]]:
    """The events of this process while inside."""
    events: list[tuple[str, Mapping[str, Any]]] = []
    with listening(lambda name, payload: events.append((name, payload))):
        yield events


async def test_a_model_that_its_provider_no_longer_lists_is_told(at: At) -> None:
    """One line a model; a missing one raises `tta.model.retired`, one that cannot be asked is unknown, not gone."""
    everything = ["simple", "moderate"]
    executors = [
        executor(LLAMA, "groq", everything),
        executor("mixtral-8x7b-32768", "groq", everything),
        executor(GEMINI, "google-ai-studio", everything, base_url="http://127.0.0.1:9"),
    ]
    workflow = at(
        "models: {mixtral-8x7b-32768: {gone: true}}",
        executors=executors,
        fallback_strategy={"models": [LLAMA]},
    )
    with heard() as events, active(await workflow.ready()):
        lines = await check_models()
    assert {line["model"]: line["state"] for line in lines} == {
        CLAUDE: "served", LLAMA: "served", "mixtral-8x7b-32768": "gone", GEMINI: "unknown",
    }  # fmt: skip
    assert [(name, payload["model"]) for name, payload in events] == [
        ("tta.model.retired", "mixtral-8x7b-32768")
    ]


async def test_the_sweep_tells_of_a_new_month_and_of_new_money(
    at: At, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`tta.budget.renewed`: once when a month begins, once when a spent budget was raised; else silence."""
    runtime = await at(cost_tracking={"budget_limit_usd": 1.0}).ready()
    now = datetime(2026, 11, 30, tzinfo=UTC)
    monkeypatch.setattr(runtime.ledger, "_clock", lambda: now.timestamp())
    monkeypatch.setattr(runtime.ledger, "_machine", lambda: None)  # the machine's own clock would contradict

    async def sweep() -> list[str]:
        with heard() as events, active(runtime):
            await sweep_ledger()
        return [name for name, _ in events if name == "tta.budget.renewed"]

    assert await sweep() == []
    hold = await runtime.ledger.reserve(
        CallInfo(provider="p", model="m", role="execute"), Decimal(1), Decimal(1)
    )
    await runtime.ledger.settle(hold, Decimal(1))
    assert await sweep() == []
    await runtime.ledger.approve("2026-11", Decimal(1), who="Ada", reason="month end")
    assert await sweep() == ["tta.budget.renewed"]
    assert await sweep() == []
    now = datetime(2026, 12, 1, tzinfo=UTC)
    # A month begins with its first call or sweep; the ledger's own month follows the clock.
    assert await sweep() == ["tta.budget.renewed"]
    assert await sweep() == []


@pytest.mark.parametrize("swept_between", [True, False])
async def test_a_higher_limit_is_told_after_a_refused_call(
    swept_between: bool, sandbox_of: SandboxOf, at: At
) -> None:
    """A call that did not fit spends nothing and pauses the bulk job; a higher limit in the file resumes it."""
    sandbox = sandbox_of()
    runtime = await at(sandbox, cost_tracking={"budget_limit_usd": 1.0}).ready()

    def raise_limit_in_file() -> None:
        at(sandbox, cost_tracking={"budget_limit_usd": 5.0})

    async def sweep() -> list[str]:
        with heard() as events, active(runtime):
            await sweep_ledger()
        return [name for name, _ in events if name.startswith("tta.budget.")]

    ledger = runtime.ledger

    async def hold(bound: str) -> Hold:
        return await ledger.reserve(
            CallInfo(provider="p", model="m", role="execute"), Decimal(bound), Decimal(1)
        )

    await ledger.settle(await hold("0.7"), Decimal("0.7"))
    assert await sweep() == []
    with pytest.raises(BudgetExceededError):
        await hold("0.5")
    if swept_between:
        assert await sweep() == ["tta.budget.exhausted"]
        assert await sweep() == []
        raise_limit_in_file()
        assert await sweep() == ["tta.budget.renewed"]
    else:
        raise_limit_in_file()
        assert await sweep() == ["tta.budget.exhausted", "tta.budget.renewed"]
    assert await sweep() == []


async def test_a_ledger_that_does_not_add_up_fails_the_sweep(at: At) -> None:
    """The run fails with each difference, and an event tells of it."""
    runtime = await at().ready()
    hold = await runtime.ledger.reserve(
        CallInfo(provider="p", model="m", role="execute"), Decimal(1), Decimal(9)
    )
    await runtime.ledger.settle(hold, Decimal(1))

    async def forge(tx: Any) -> None:
        await tx.execute("UPDATE ledger_month SET spent = 0")

    await runtime.ledger.database.transact(forge)
    with heard() as events, active(runtime), pytest.raises(LedgerError, match="does not add up"):
        await sweep_ledger()
    assert "tta.ledger.broken" in [name for name, _ in events]


async def test_the_report_sends_alerts_and_writes_the_months_artifacts(at: At) -> None:
    """`spend_report` agrees with the ledger, sends what is due, and its chart stands among the artifacts."""
    runtime = await at(cost_tracking={"budget_limit_usd": 1.0}).ready()
    hold = await runtime.ledger.reserve(
        CallInfo(provider="p", model="m", role="execute"), Decimal(1), Decimal(1)
    )
    await runtime.ledger.settle(hold, Decimal("0.9"))
    with heard() as events, active(runtime):
        report = await spend_report(period="day")
    assert report["spent_usd"] == "0.9"
    assert [name for name, _ in events] == ["tta.budget.alert"]
    async with get_client() as client:
        keys = {artifact.key for artifact in await client.read_latest_artifacts()}
    month = report["month"]
    assert {f"tta-spend-{month}", f"tta-spend-{month}-models", f"tta-spend-{month}-chart"} <= keys


async def test_last_month_is_the_one_before_the_ledgers(at: At) -> None:
    """On the 1st the monthly schedule reports the month that ended."""
    workflow = at()
    runtime = await workflow.ready()
    current = (await Ledger.open(workflow.config.cost_tracking.ledger_url).balance()).month
    with active(runtime):
        report = await spend_report(month="last")
    assert report["month"] < current


def test_a_run_is_restarted_three_times_at_most() -> None:
    """Crashed runs of deployments go on; one that crashes every time is left to a person."""

    def run(starts: int, *, deployed: bool = True) -> FlowRun:
        return FlowRun(
            flow_id=uuid4(), run_count=starts, state=Crashed(), deployment_id=uuid4() if deployed else None
        )

    runs = [run(1), run(2), run(3), run(1, deployed=False)]
    assert resumable(runs, 3) == runs[:2]


async def test_a_run_that_was_taken_and_never_started_goes_back_on_the_schedule(
    prefect_server: object,
) -> None:
    """What the run is decides: one that has waited long enough is lost; one that was just taken is left alone."""
    async with get_client() as client:
        flow_id = await client.create_flow_from_name("stuck")
        deployment = await client.create_deployment(flow_id, "stuck", entrypoint="x:y", tags=["tta"])
        run = await client.create_flow_run_from_deployment(deployment, tags=["tta"])
        await client.set_flow_run_state(run.id, Pending(), force=True)
        await resume_crashed(silent_s=400)
        assert (await client.read_flow_run(run.id)).state_name == "Pending"
        await resume_crashed(silent_s=0)
        assert (await client.read_flow_run(run.id)).state_name == "AwaitingRetry"
        running = await client.create_flow_run_from_deployment(deployment, tags=["tta"])
        await client.set_flow_run_state(running.id, Running(), force=True)
        await resume_crashed(silent_s=0)
        # A worker that sends no heartbeats at all says nothing by their absence.
        assert (await client.read_flow_run(running.id)).state_name == "Running"
        await client.delete_deployment(deployment)


async def test_crashed_runs_go_back_on_the_schedule(prefect_server: object) -> None:
    """A crashed run of a deployment with our tag becomes scheduled again."""
    async with get_client() as client:
        flow_id = await client.create_flow_from_name("crashing")
        deployment = await client.create_deployment(flow_id, "crashing", entrypoint="x:y", tags=["tta"])
        run = await client.create_flow_run_from_deployment(deployment, tags=["tta"])
        await client.set_flow_run_state(run.id, Running(), force=True)
        await client.set_flow_run_state(run.id, Crashed(), force=True)
        assert await resume_crashed() >= 1
        state = (await client.read_flow_run(run.id)).state
        assert state is not None
        assert state.is_scheduled()
        await client.delete_deployment(deployment)
