"""Bulk jobs with --batch: paid calls go out together at half the price; whatever happens, nothing is paid twice."""

from __future__ import annotations

import asyncio
import functools
import json
from collections import Counter
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from sandbox_runs import CLAUDE, At, BulkJob, executor

from tta_dev_primitives.blocks.ledger.ledger import Ledger
from tta_dev_primitives.deployments.sandbox import Sandbox
from tta_dev_primitives.flows.bulk.batch_lifecycle import BatchTiming
from tta_dev_primitives.flows.bulk.job_report import BulkReport
from tta_dev_primitives.flows.bulk.runner import JobOptions
from tta_dev_primitives.flows.workflow import MultiModelWorkflow

TIMING = BatchTiming(quiet_s=0.3, first_s=0.1, longest_s=0.2, horizon_s=0.5)
ALL = ["simple", "moderate"]


def paid(**changes: Any) -> dict[str, Any]:
    """Claude answers everything."""
    only = {
        "executors": [executor(CLAUDE, "anthropic", ALL)],
        "fallback_strategy": {"models": [CLAUDE]},
    }
    return {**only, "validation": {"mode": "never"}, **changes}


class Job(BulkJob):
    """A batch job with short times."""

    async def run(
        self,
        timing: BatchTiming = TIMING,
        wait_s: float | None = 60.0,
        in_process_s: float = 120.0,
        **more: Any,
    ) -> BulkReport:
        local = JobOptions(batch_timing=timing, batch_wait_s=wait_s, in_process_s=in_process_s)
        report: BulkReport = await super().run(local, **{"batch": True, **more})
        return report


async def spent(workflow: MultiModelWorkflow) -> tuple[Decimal, Decimal]:
    """What the ledger counts as spent and held; it proves itself."""
    ledger: Ledger = (await workflow.ready()).ledger
    assert await ledger.verify() == []
    balance = await ledger.balance()
    return balance.spent, balance.held


def bodies(sandbox: Sandbox) -> Counter[str]:
    """How often each request was billed."""
    return Counter(json.dumps(call.body["messages"]) for call in sandbox.calls if call.billed)


async def test_half_the_price_and_both_baselines(at: At, tmp_path: Path) -> None:
    job = Job(at("batches: {delay: 0.3}", **paid()), tmp_path, 8)
    sandbox = job.workflow.sandbox
    report = await job.run()
    assert (report.state, report.done, report.cost_usd) == ("complete", 8, sandbox.billed())
    assert await spent(job.workflow) == (sandbox.billed(), 0)
    assert all(call.batch for call in sandbox.calls if call.billed)
    assert set(bodies(sandbox).values()) == {1}
    assert len([b for b in await (await job.workflow.ready()).ledger.batches() if b.lines == 8]) == 1
    attempts = [attempt for line in job.lines() for attempt in line["attempts"]]
    assert all(attempt["batch"] for attempt in attempts)
    # The discount is no merit of ours: against the paid model in batches nothing was saved.
    assert report.savings_ratio == 0
    assert report.baseline_one_by_one_usd == 2 * report.baseline_cost_usd == 2 * sandbox.billed()


async def test_free_calls_one_by_one_and_verdicts_in_a_batch(at: At, tmp_path: Path) -> None:
    """Free models answer as usual; every verdict of the round goes out in one batch."""
    job = Job(at(validation={"mode": "always"}), tmp_path, 6)
    sandbox = job.workflow.sandbox
    report = await job.run()
    assert (report.done, report.accepted) == (6, 6)
    by_kind = Counter((call.prompt, call.batch) for call in sandbox.calls if call.endpoint == "chat")
    assert by_kind == {("solve", False): 6, ("verdict", True): 6}
    [batch] = await (await job.workflow.ready()).ledger.batches()
    assert (batch.lines, batch.state) == (6, "ended")
    assert report.cost_usd == sandbox.billed("anthropic") > 0


@pytest.mark.parametrize(
    ("script", "done", "billed"),
    [
        ("expire_after: 4", 4, 4),
        ("repeat: 3", 6, 6),
        ("lose: 2", 4, 6),
    ],
)
async def test_lines_that_expire_repeat_or_are_lost(
    script: str, done: int, billed: int, at: At, tmp_path: Path
) -> None:
    """Expired: released, and asked by the next run. Repeated: counted once. Lost: charged at the bound, once."""
    job = Job(at(f"batches: {{{script}}}", **paid()), tmp_path, 6)
    sandbox = job.workflow.sandbox
    report = await job.run()
    assert (report.done, len([c for c in sandbox.calls if c.billed])) == (done, billed)
    money, held = await spent(job.workflow)
    assert held == 0
    assert money >= sandbox.billed() if "lose" in script else money == sandbox.billed()
    sandbox.use(None)
    again = await job.run()
    assert (again.done, again.state) == (6, "complete")
    assert set(bodies(sandbox).values()) <= ({1, 2} if "lose" in script else {1})


@pytest.mark.parametrize("delay", [0, 3])
async def test_a_submission_whose_reply_was_lost_is_found(delay: int, at: At, tmp_path: Path) -> None:
    """The gateway timed out after the batch was created: it is found in the provider's list, not sent again.

    While a batch runs that may be it, it is not given up, however long that takes.
    """
    job = Job(at(f"batches: {{lose_reply_of_first: 1, delay: {delay}}}", **paid()), tmp_path, 5)
    sandbox = job.workflow.sandbox
    report = await job.run()
    assert (report.state, report.done) == ("complete", 5)
    assert set(bodies(sandbox).values()) == {1}
    assert await spent(job.workflow) == (sandbox.billed(), 0)


async def test_a_submission_that_never_arrived_is_released(at: At, tmp_path: Path) -> None:
    job = Job(at("batches: {refuse: timeout, refuse_first: 1}", **paid()), tmp_path, 3)
    sandbox = job.workflow.sandbox
    first = await job.run()
    assert (first.left, await spent(job.workflow)) == (3, (0, 0))
    sandbox.use(None)
    assert (await job.run()).done == 3
    assert await spent(job.workflow) == (sandbox.billed(), 0)


async def test_a_run_that_stops_waiting_and_the_next_that_collects(at: At, tmp_path: Path) -> None:
    """Patience and deadline: what is not back is left at the provider, and never submitted again."""
    job = Job(at("batches: {delay: 3}", **paid()), tmp_path, 4)
    sandbox = job.workflow.sandbox
    first = await job.run(wait_s=0.0)
    assert (first.state, first.left, first.cost_usd) == ("waiting", 4, 0)
    assert first.resume_at is not None
    second = await job.run(until=datetime.now(UTC) + timedelta(seconds=1))
    assert (second.state, second.left) == ("incomplete", 4)
    third = await job.run()
    assert (third.state, third.done, third.cost_usd) == ("complete", 4, sandbox.billed())
    assert len(await (await job.workflow.ready()).ledger.batches()) == 1
    assert set(bodies(sandbox).values()) == {1}


@pytest.mark.parametrize(
    ("options", "state", "why"),
    [
        ({"patience_s": 1.0}, "incomplete", "the patience for what is at the provider is used up"),
        ({"until": 3.0}, "incomplete", "the deadline has passed"),
        ({"until": 100.0}, "waiting", "waits for 1 batch(es) at the provider"),
        ({}, "waiting", "waits for 1 batch(es) at the provider"),
    ],
)
async def test_a_deployed_run_waits_as_long_as_it_may(
    options: dict[str, Any],
    state: str,
    why: str,
    at: At,
    tmp_path: Path,
) -> None:
    """It suspends for the next look, at the latest a minute before its deadline; then the batch is left there."""
    job = Job(at("batches: {delay: 3600}", **paid()), tmp_path, 2)
    now = datetime.now(UTC)
    if "until" in options:
        options["until"] = now + timedelta(seconds=options["until"])
    in_process = {"waiting": 0.0, "incomplete": 5.0}[state]
    report = await job.run(BatchTiming(quiet_s=0.3), wait_s=None, in_process_s=in_process, **options)
    assert (report.state, report.left, report.reason) == (state, 2, why)
    if "until" in options and state == "waiting":
        assert report.resume_at is not None
        assert now < report.resume_at <= now + timedelta(seconds=40)
    [batch] = await (await job.workflow.ready()).ledger.batches()
    assert (batch.state, batch.lines) == ("open", 2)


async def test_two_jobs_with_the_same_tasks_share_one_batch(at: At, tmp_path: Path) -> None:
    workflow = at("batches: {delay: 1}", **paid())
    jobs = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        jobs.append(Job(workflow, tmp_path / name, 5))
    reports = await asyncio.gather(*(job.run() for job in jobs))
    assert [report.done for report in reports] == [5, 5]
    assert set(bodies(workflow.sandbox).values()) == {1}
    assert await spent(workflow) == (workflow.sandbox.billed(), 0)
    assert sum((report.cost_usd for report in reports), Decimal(0)) == workflow.sandbox.billed()


async def test_a_budget_that_holds_only_some_at_once(at: At, tmp_path: Path) -> None:
    """Holds are larger than costs: what does not fit waits for the first batch, and nothing goes beyond the limit."""
    workflow = at("batches: {delay: 0.2}", **paid(cost_tracking={"budget_limit_usd": 0.06}))
    job = Job(workflow, tmp_path, 6)
    report = await job.run()
    batches = await (await workflow.ready()).ledger.batches()
    assert report.done == 6
    assert len(batches) > 1
    assert await spent(workflow) == (workflow.sandbox.billed(), 0)


async def test_a_job_ceiling_refuses_what_it_cannot_pay(at: At, tmp_path: Path) -> None:
    job = Job(at(**paid()), tmp_path, 6)
    sandbox = job.workflow.sandbox
    report = await job.run(max_cost=Decimal("0.017"))
    assert 0 < report.done < 6
    assert report.errors == {"budget": 6 - report.done}
    assert sandbox.billed() == report.cost_usd <= Decimal("0.017")


async def test_an_address_without_batches_is_asked_one_by_one(at: At, tmp_path: Path) -> None:
    """A gateway that knows only chat calls: the job goes on at the usual price, and says so."""
    job = Job(at("batches: {refuse: model_gone}", **paid()), tmp_path, 3)
    sandbox = job.workflow.sandbox
    report = await job.run()
    assert report.done == 3
    assert not any(call.batch for call in sandbox.calls)
    assert await spent(job.workflow) == (sandbox.billed(), 0)
    assert any("one by one" in warning for line in job.lines() for warning in line["warnings"])


async def test_interactive_runs_never_wait_for_a_batch(at: At) -> None:
    workflow = at("batches: {delay: 3600}", **paid())
    result = await workflow.execute("Summarize a note.", use_case="moderate")
    assert result.accepted
    assert not any(call.batch for call in workflow.sandbox.calls)


async def test_jobs_in_memory(at: At, monkeypatch: Any) -> None:
    monkeypatch.setattr(
        BatchTiming.__init__, "__kwdefaults__", {**BatchTiming.__init__.__kwdefaults__, "first_s": 0.1}
    )
    workflow = at(**paid())
    results = await workflow.execute_bulk(
        [{"id": "a", "task": "Summarize a note.", "use_case": "moderate"}], batch=True
    )
    assert [attempt.batch for attempt in results[0].attempts] == [True]
    assert results[0].cost_usd == workflow.sandbox.billed()


async def test_a_deployed_job_suspends_and_finishes_by_itself(
    at: At, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It holds no worker while the batch runs: it ends as scheduled for the next look, and that run collects."""
    job = Job(at("batches: {delay: 3}", **paid()), tmp_path, 3)
    sandbox = job.workflow.sandbox
    runtime = await job.workflow.ready()
    from prefect.client.orchestration import get_client
    from prefect.exceptions import Pause
    from prefect.flow_engine import run_flow_async
    from prefect.states import Pending

    from tta_dev_primitives.flows.bulk import bulk_flow
    from tta_dev_primitives.flows.calling.runtime import active

    quick = functools.partial(
        JobOptions, in_process_s=0.0, batch_timing=BatchTiming(quiet_s=0.3, first_s=1.0)
    )
    monkeypatch.setattr(bulk_flow, "JobOptions", quick)
    parameters = {"input_path": str(job.source), "output_path": str(job.target), "batch": True}
    async with get_client() as client:
        flow_id = await client.create_flow(bulk_flow.orchestrate_bulk)
        deployment = await client.create_deployment(flow_id, "nightly-batch", parameters=parameters)
        flow_run = await client.create_flow_run_from_deployment(deployment)
        with active(runtime), pytest.raises(Pause):
            await run_flow_async(bulk_flow.orchestrate_bulk, flow_run=flow_run, parameters=parameters)
        waiting = (await client.read_flow_run(flow_run.id)).state
        assert waiting is not None
        assert (waiting.type.value, waiting.name) == ("SCHEDULED", "AwaitingRetry")
        assert "batch" in (waiting.message or "")
        monkeypatch.setattr(bulk_flow, "JobOptions", functools.partial(quick, in_process_s=60.0))
        # What a worker does when the moment has come.
        await client.set_flow_run_state(flow_run.id, Pending(), force=True)
        again = await client.read_flow_run(flow_run.id)
        with active(runtime):
            await run_flow_async(bulk_flow.orchestrate_bulk, flow_run=again, parameters=parameters)
        ended = (await client.read_flow_run(flow_run.id)).state
    assert ended is not None
    assert ended.is_completed()
    assert len(job.lines()) == 3
    assert await spent(job.workflow) == (sandbox.billed(), 0)
    assert set(bodies(sandbox).values()) == {1}


async def test_a_budget_that_is_lowered_while_a_batch_runs(at: At, tmp_path: Path) -> None:
    """What is at the provider is collected; nothing beyond the new limit is submitted."""
    rich = Job(at("batches: {delay: 2}", **paid()), tmp_path, 4)
    sandbox = rich.workflow.sandbox
    assert (await rich.run(wait_s=0.0)).state == "waiting"
    poor = at(sandbox, **paid(cost_tracking={"budget_limit_usd": 0.01}))
    report = await Job(poor, tmp_path, 8).run()
    assert (report.done, report.errors) == (4, {"budget": 4})
    assert await spent(poor) == (sandbox.billed(), 0)
    assert sandbox.billed() <= Decimal("0.01")
