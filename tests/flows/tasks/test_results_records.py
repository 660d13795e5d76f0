"""Every ended task leaves one record, from which the saving of a month is summed."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from decimal import Decimal
from functools import partial

import pytest
from sandbox_runs import GEMINI, LONG_ANSWERS, At, SandboxOf

from tta_dev_primitives.blocks.ledger.database.protocol import database_for
from tta_dev_primitives.blocks.ledger.ledger import Ledger
from tta_dev_primitives.blocks.ledger.task_records import ResultLine, TaskRecord, record_results, result_lines
from tta_dev_primitives.flows.calling import services
from tta_dev_primitives.orchestration import AllModelsFailedError, MultiModelWorkflow


async def lines_of(workflow: MultiModelWorkflow) -> list[ResultLine]:
    """The records of the current month, summed."""
    ledger = Ledger.open(workflow.config.cost_tracking.ledger_url)
    return await result_lines(ledger, (await ledger.balance()).month)


async def test_a_run_records_what_it_cost_and_what_it_saved(at: At) -> None:
    """The record holds the result's own figures."""
    workflow = at(LONG_ANSWERS, saved="1")
    result = await workflow.execute("Describe how a kettle works.", use_case="moderate")
    (line,) = await lines_of(workflow)
    assert (line.tasks, line.model, line.use_case) == (1, GEMINI, "moderate")
    assert (line.cost, line.baseline) == (result.cost_usd, result.baseline_cost_usd)
    assert line.accepted
    assert not line.reused


async def test_a_task_answered_from_the_store_saves_nothing_again(at: At) -> None:
    """The same task a second time is recorded as reused."""
    workflow = at()
    for _ in range(2):
        await workflow.execute("Describe how a kettle works.", use_case="moderate")
    assert sorted(line.reused for line in await lines_of(workflow)) == [False, True]


async def test_a_call_over_the_end_of_a_month_is_of_the_month_it_began_in(
    sandbox_of: SandboxOf, at: At, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reserved in November, settled in December: money, task and baseline are November's, December has nothing."""
    sandbox = sandbox_of()

    def clock() -> float:
        return datetime(
            2026, 12 if sandbox.calls else 11, 1 if sandbox.calls else 30, 0, 1, tzinfo=UTC
        ).timestamp()

    monkeypatch.setattr(services, "Ledger", partial(Ledger, clock=clock))
    workflow = at(sandbox, enabled=False, validation={"mode": "never"})
    result = await workflow.execute("Describe how a kettle works.", use_case="moderate")
    assert result.cost_usd > 0
    ledger = Ledger.open(workflow.config.cost_tracking.ledger_url, clock=clock)
    assert (await ledger.balance()).month == "2026-12"
    for month, tasks, usd in (("2026-11", 1, result.cost_usd), ("2026-12", 0, Decimal(0))):
        balance, account = await ledger.balance(month), await ledger.savings(month)
        assert (balance.spent, balance.held) == (usd, 0), month
        assert (account.tasks, account.cost, account.baseline) == (tasks, usd, usd), month
        assert [(line.tasks, line.cost, line.baseline) for line in await result_lines(ledger, month)] == [
            (1, usd, usd)
        ] * tasks
    assert await ledger.verify() == []


async def test_a_failed_task_is_recorded_with_its_error(at: At) -> None:
    """A task without an answer counts as a task, with the class of its error and no baseline."""
    workflow = at("rules: [{reply: {error: bad_key}}]")
    with pytest.raises(AllModelsFailedError):
        await workflow.execute("Name a colour.", use_case="simple")
    (line,) = await lines_of(workflow)
    assert (line.outcome, line.accepted, line.baseline) == ("AllModelsFailedError", False, Decimal(0))


@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_a_task_that_ends_twice_in_a_run_is_one_record_with_both_costs(
    database: str, tmp_path: object, request: pytest.FixtureRequest
) -> None:
    """A retried flow run adds to its records, on both databases."""
    sqlite = f"sqlite:///{tmp_path}/ledger.db"
    url = sqlite if database == "sqlite" else request.getfixturevalue("postgres_url")
    ledger = Ledger(database_for(url))
    first = TaskRecord(flow_run_id="r", item_id="1", use_case="simple", cost=Decimal("0.5"), outcome="Error")
    again = TaskRecord(
        flow_run_id="r", item_id="1", use_case="simple", cost=Decimal("0.25"), baseline=Decimal(2),
        model="m", evidence="judge", accepted=True, quality=0.75, reused=True,
    )  # fmt: skip

    async def lines() -> list[ResultLine]:
        await record_results(ledger, "2026-11", [first])
        await record_results(ledger, "2026-11", [again])
        found = await result_lines(ledger, "2026-11")
        await ledger.database.aclose()
        return found

    assert asyncio.run(lines()) == [
        ResultLine("simple", "m", "judge", "ok", True, False, 1, Decimal("0.75"), Decimal(2), 0.75)
    ]
