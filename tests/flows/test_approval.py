"""`on_exhausted: ask`: a run waits for a person, in the process or suspended, and pays for no answer twice."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import yaml
from fixtures_prefect import own_server
from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateName,
    LogFilter,
    LogFilterFlowRunId,
)
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.client.schemas.responses import SetStateStatus
from prefect.states import Failed
from sandbox_runs import CLAUDE, KEY, KEY_VALUE, At, SandboxOf, sandbox_config

from tta_dev_primitives.blocks.ledger.ledger import Ledger
from tta_dev_primitives.blocks.prefect_server.manager import ServerInfo
from tta_dev_primitives.deployments.sandbox import Sandbox
from tta_dev_primitives.flows.approval import suggested_amount
from tta_dev_primitives.flows.budget import BudgetState
from tta_dev_primitives.flows.maintenance import sweep_ledger
from tta_dev_primitives.orchestration import BudgetExceededError, MultiModelWorkflow

TASK = "Describe how a kettle works."
NO_MONEY = {"budget_limit_usd": 0.0, "on_exhausted": "ask"}
FORM = {"amount_usd": 2.5, "reason": "month end", "approved_by": "Ada"}
ASKED = ("ask", "0", None, "needs a paid call")
# The free judge rejects what the free model wrote, so that a paid answer is needed.
REJECTED = 'rules: [{match: {prompt: verdict}, reply: {json: {score: 0.1, reason: "wrong"}}}]'


def no_request_twice(sandbox: Sandbox) -> bool:
    """True when no two requests were the same: what was answered came from the store."""
    sent = [(call.model, json.dumps(call.body, sort_keys=True)) for call in sandbox.calls]
    return len(sent) == len(set(sent))


async def waiting_run(client: PrefectClient, name: str, since: set[UUID]) -> FlowRun:
    """The flow run that waits for a person; the test's own timeout is the only clock."""
    while True:
        for run in await client.read_flow_runs(flow_run_filter=_in_state(name), limit=200):
            if run.id not in since and TASK.startswith(run.name[:20]):
                return run
        await asyncio.sleep(0.2)


async def resume(client: PrefectClient, run_id: UUID, form: dict[str, Any]) -> SetStateStatus:
    """Answer a waiting run, as soon as it has its form: Prefect shows it as waiting a moment before."""
    while True:
        told = await client.resume_flow_run(run_id, run_input=form)
        early = told.status is SetStateStatus.ABORT or "schema not found" in str(told.details)
        if not early:
            return told.status
        await asyncio.sleep(0.2)


async def known_runs(client: PrefectClient) -> set[UUID]:
    """The flow runs that wait for a person already."""
    waiting = _in_state("Paused", "Suspended")
    return {run.id for run in await client.read_flow_runs(flow_run_filter=waiting, limit=200)}


def _in_state(*names: str) -> FlowRunFilter:
    return FlowRunFilter(state=FlowRunFilterState(name=FlowRunFilterStateName(any_=list(names))))


async def answer(workflow: MultiModelWorkflow, form: dict[str, Any]) -> Any:
    """Run the task, answer its question with `form` through the API, and wait for its end."""
    async with get_client() as client:
        before = await known_runs(client)
        running = asyncio.create_task(workflow.execute(TASK, use_case="moderate"))
        run = await waiting_run(client, "Paused", before)
        assert run.state is not None
        assert f"/flow-run/{run.id}" in (run.state.message or "")
        assert await resume(client, run.id, form) is SetStateStatus.ACCEPT
        return await running


async def journal_of(workflow: MultiModelWorkflow) -> list[tuple[str, str, str | None, str]]:
    """What was asked and decided in the month: what, amount, who and why; the run that each note names is cut off."""
    ledger = Ledger.open(workflow.config.cost_tracking.ledger_url)
    entries = await ledger.journal((await ledger.balance()).month)
    decided = [e for e in entries if e.what in ("ask", "approve", "decline", "unanswered")]
    assert await ledger.verify() == []
    assert all(abs(time.time() - e.at) < 600 for e in decided)
    return [(e.what, f"{e.approved:f}", e.who, (e.note or "").rpartition(" (flow run ")[0]) for e in decided]


async def test_an_approval_lets_the_run_pay_and_stands_in_the_journal(at: At) -> None:
    """Resumed with an amount, the run goes on to the paid model; free answers are not asked for again."""
    workflow = at(REJECTED, cost_tracking=NO_MONEY)
    result = await answer(workflow, FORM)
    assert result.accepted
    assert result.model == CLAUDE
    assert await journal_of(workflow) == [
        ASKED,
        ("approve", "2.5", "Ada (as typed, not verified)", "month end"),
    ]
    assert workflow.sandbox.calls[-1].prompt == "solve"
    assert no_request_twice(workflow.sandbox)


async def test_a_refusal_ends_the_run_with_a_budget_error(at: At) -> None:
    """Declined: error and journal say by whom and why; nothing paid was called, nothing approved."""
    workflow = at(REJECTED, cost_tracking=NO_MONEY)
    with pytest.raises(
        BudgetExceededError, match=r"Ada \(as typed, not verified\) declined to raise it: month end"
    ):
        await answer(workflow, {**FORM, "decision": "decline"})
    assert await journal_of(workflow) == [
        ASKED,
        ("decline", "0", "Ada (as typed, not verified)", "month end"),
    ]
    assert all(call.provider != "anthropic" for call in workflow.sandbox.calls)


async def test_nobody_answering_is_a_refusal(at: At) -> None:
    """After `approval_timeout_s` the run fails with a budget error, and the journal says that nobody answered."""
    workflow = at(REJECTED, cost_tracking={**NO_MONEY, "approval_timeout_s": 1})
    with pytest.raises(BudgetExceededError, match="no person approved more within 1 s"):
        await workflow.execute(TASK, use_case="moderate")
    assert await journal_of(workflow) == [
        ASKED,
        ("unanswered", "0", None, "no person approved more within 1 s"),
    ]


async def test_nobody_is_asked_for_what_free_models_can_do(at: At) -> None:
    """Without money, a task that needs none is delivered without a question."""
    cost = {**NO_MONEY, "approval_timeout_s": 1}
    workflow = at(cost_tracking=cost, validation={"mode": "never"})
    assert (await workflow.execute(TASK, use_case="moderate")).accepted


async def test_the_form_refuses_what_is_no_decision(at: At) -> None:
    """A wrong field is refused by the API, and the run goes on waiting."""
    wrong: list[dict[str, Any]] = [
        {"amount_usd": 0},
        {"amount_usd": -1},
        {"amount_usd": "much"},
        {"reason": ""},
        {"decision": "maybe"},
    ]
    workflow = at(REJECTED, cost_tracking=NO_MONEY)
    async with get_client() as client:
        before = await known_runs(client)
        running = asyncio.create_task(workflow.execute(TASK, use_case="moderate"))
        run = await waiting_run(client, "Paused", before)
        for change in wrong:
            assert await resume(client, run.id, {**FORM, **change}) is SetStateStatus.REJECT, change
        assert await resume(client, run.id, {**FORM, "decision": "decline"}) is SetStateStatus.ACCEPT
        with pytest.raises(BudgetExceededError):
            await running


@pytest.fixture
def quiet_server(tmp_path: Path) -> Iterator[ServerInfo]:
    """A server of this test's own: elsewhere other tests deploy the same flows to work pools without workers."""
    with own_server(tmp_path / "prefect-server") as server:
        yield server


@pytest.fixture
def served(
    quiet_server: ServerInfo, sandbox_of: SandboxOf, tmp_path: Path
) -> Iterator[tuple[Sandbox, Path, MultiModelWorkflow]]:
    """All deployments served by a process of their own, as `python -m ...deployments.serve` does it."""
    sandbox = sandbox_of(REJECTED)
    path = tmp_path / "orchestration-config.yaml"
    config = sandbox_config(sandbox, tmp_path, cost_tracking=NO_MONEY)
    path.write_text(yaml.safe_dump({"orchestration": config}), encoding="utf-8")
    environment = {**os.environ, KEY: KEY_VALUE, "PREFECT_RUNNER_POLL_FREQUENCY": "1"}
    command = [sys.executable, "-m", "tta_dev_primitives.deployments.serve", str(path)]
    with (tmp_path / "serve.log").open("w") as log:
        process = subprocess.Popen(command, env=environment, cwd=tmp_path, stdout=log, stderr=log)
        try:
            yield sandbox, path, MultiModelWorkflow(path, use_env_overrides=False)
        finally:
            process.terminate()
            process.wait(110)


@pytest.mark.server
async def test_a_deployed_run_is_suspended_and_goes_on_when_it_is_approved(
    served: tuple[Sandbox, Path, MultiModelWorkflow],
) -> None:
    """No process waits for the person; the resumed run starts from the top and sends nothing a second time."""
    sandbox, _, workflow = served
    async with get_client() as client:
        run = await _suspended(client)
        assert "use_case:moderate" in run.tags
        asked = len(sandbox.calls)
        assert await resume(client, run.id, FORM) is SetStateStatus.ACCEPT
        assert await end_of(client, run.id) == StateType.COMPLETED
    assert [call.provider for call in sandbox.calls[asked:]] == ["anthropic"]
    assert no_request_twice(sandbox)
    # Asked once, though the run started twice.
    assert await journal_of(workflow) == [
        ASKED,
        ("approve", "2.5", "Ada (as typed, not verified)", "month end"),
    ]


@pytest.mark.server
@pytest.mark.proof
async def test_a_suspended_run_that_is_never_answered_or_is_declined_is_journalled(
    served: tuple[Sandbox, Path, MultiModelWorkflow],
) -> None:
    """The next sweep notes a run without an answer, once; a declined one stays so though there is money by then."""
    sandbox, path, workflow = served
    async with get_client() as client:
        run = await _suspended(client)
        await sweep_ledger(str(path))
        assert await journal_of(workflow) == [ASKED]  # questions that are still open are left
        # As Prefect's service for expired pauses does it.
        await client.set_flow_run_state(run.id, Failed(message="never resumed"), force=True)
        await sweep_ledger(str(path))
        await sweep_ledger(str(path))
        unanswered = ("unanswered", "0", None, "the run ended as Failed without an answer")
        assert await journal_of(workflow) == [ASKED, unanswered]
        run = await _suspended(client)
        assert run.state is not None
        assert f"/flow-run/{run.id}" in (run.state.message or "")
        ledger = Ledger.open(workflow.config.cost_tracking.ledger_url)
        month = (await ledger.balance()).month
        await ledger.approve(month, Decimal(5), who="Bob", reason="elsewhere")
        assert await resume(client, run.id, {**FORM, "decision": "decline"}) is SetStateStatus.ACCEPT
        assert await end_of(client, run.id) == StateType.FAILED
        logs = await client.read_logs(LogFilter(flow_run_id=LogFilterFlowRunId(any_=[run.id])))
        assert any(f"/flow-run/{run.id}" in log.message for log in logs)
    assert all(call.provider != "anthropic" for call in sandbox.calls)
    assert [entry[0] for entry in await journal_of(workflow)][2:] == ["ask", "approve", "decline"]


async def _suspended(client: PrefectClient) -> FlowRun:
    """A deployed run of the task, as soon as it waits for a person."""
    before = await known_runs(client)
    run = await client.create_flow_run_from_deployment(
        await _deployment(client), parameters={"task": TASK, "use_case": "moderate"}
    )
    waiting = await waiting_run(client, "Suspended", before)
    assert waiting.id == run.id
    return waiting


@pytest.mark.parametrize(
    ("limit", "spent", "needed", "wanted"),
    [
        ("0", "0", "0", "0.01"),
        ("1", "1.5", "0.104", "0.61"),
        ("1", "0.95", "0.2", "0.15"),
        ("10", "10", "0", "1.00"),
    ],
)
def test_the_suggested_amount_covers_the_deficit_and_the_call(
    limit: str, spent: str, needed: str, wanted: str
) -> None:
    """What is overspent, and what the refused call or a tenth of the limit needs; rounded up to a cent."""
    budget = BudgetState("2026-11", Decimal(limit), Decimal(spent), Decimal(0))
    assert suggested_amount(budget, Decimal(needed)) == Decimal(wanted)


async def end_of(client: PrefectClient, run_id: UUID) -> StateType:
    """The state in which the run ends."""
    while True:
        state = (await client.read_flow_run(run_id)).state
        if state is not None and state.is_final():
            return state.type
        await asyncio.sleep(0.2)


async def _deployment(client: PrefectClient) -> UUID:
    while True:
        for one in await client.read_deployments():
            if one.name == "on-demand":
                return one.id
        await asyncio.sleep(0.2)
