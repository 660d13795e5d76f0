"""The month's savings: extras are paid from them alone, in the transaction of their money, on both databases."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import pytest
from ledger_tools import Clock

from tta_dev_primitives.blocks.ledger.database.protocol import Database
from tta_dev_primitives.blocks.ledger.ledger import Ledger
from tta_dev_primitives.blocks.ledger.savings_account import Pair
from tta_dev_primitives.blocks.ledger.task_records import (
    TaskDecision,
    TaskRecord,
    record_results,
    stored_decisions,
)
from tta_dev_primitives.blocks.ledger.types import CallInfo
from tta_dev_primitives.config.errors import SavingsShortError

MakeCall = Callable[..., CallInfo]
LIMIT = Decimal(100)
WORKER = Path(__file__).parents[2] / "support" / "savings_worker.py"


def ended(item_id: str, *, baseline: str, cost: str = "0", earned: str | None = None) -> TaskRecord:
    return TaskRecord(
        flow_run_id="f", item_id=item_id, use_case="simple", cost=Decimal(cost), baseline=Decimal(baseline),
        earned=Decimal(baseline) - Decimal(cost) if earned is None else Decimal(earned),
    )  # fmt: skip


async def earn(ledger: Ledger, *records: TaskRecord) -> None:
    await record_results(ledger, (await ledger.balance()).month, records)


async def test_a_fresh_month_pays_for_no_extra(ledger: Ledger, new_call: MakeCall) -> None:
    """Nothing is saved yet: refused, and neither the call nor its money is left behind."""
    with pytest.raises(SavingsShortError) as refused:
        await ledger.reserve(new_call(extra="savings"), Decimal("0.01"), LIMIT)
    assert (refused.value.left, refused.value.needed) == (0, Decimal("0.01"))
    assert "0.01" in str(refused.value)
    balance = await ledger.balance()
    assert (balance.spent, balance.held) == (0, 0)
    assert await ledger.verify() == []
    await ledger.reserve(new_call(), Decimal("0.01"), LIMIT)  # the orchestrator's own answer is no extra


async def test_an_extra_is_held_at_its_bound_and_charged_at_its_cost(
    ledger: Ledger, new_call: MakeCall
) -> None:
    """0.05 saved: 0.04 held leave 0.01; its cost of 0.03 leaves 0.02."""
    await earn(ledger, ended("1", baseline="0.05"))
    hold = await ledger.reserve(new_call(extra="savings"), Decimal("0.04"), LIMIT)
    assert (await ledger.savings()).left == Decimal("0.01")
    with pytest.raises(SavingsShortError):
        await ledger.reserve(new_call(extra="savings"), Decimal("0.02"), LIMIT)
    await ledger.settle(hold, Decimal("0.03"))
    await ledger.settle(hold, Decimal("0.03"))
    account = await ledger.savings()
    assert (account.earned, account.extra, account.held) == (Decimal("0.05"), Decimal("0.03"), 0)
    assert await ledger.verify() == []


async def test_what_was_not_sent_is_given_back_and_what_may_have_been_billed_is_not(
    ledger: Ledger, clock: Clock, new_call: MakeCall
) -> None:
    """Released, presumed, trued up by a later settlement, swept after its process died, reconciled by a person."""
    await earn(ledger, ended("1", baseline="0.1"))
    released = await ledger.reserve(new_call(extra="savings"), Decimal("0.02"), LIMIT)
    await ledger.release(released, "no connection")
    assert (await ledger.savings()).left == Decimal("0.1")
    presumed = await ledger.reserve(new_call(extra="savings"), Decimal("0.02"), LIMIT)
    await ledger.charge_at_bound(presumed, "timeout")
    assert (await ledger.savings()).left == Decimal("0.08")
    await ledger.settle(presumed, Decimal("0.005"))
    assert (await ledger.savings()).left == Decimal("0.095")
    lost = await ledger.reserve(new_call(extra="savings"), Decimal("0.02"), LIMIT)
    clock.now += 1000
    assert await ledger.sweep() == 1
    clock.now += 100_000
    assert (await ledger.savings()).left == Decimal("0.075")
    await ledger.reconcile(lost.id, None, evidence="the provider's bill does not show it")
    assert (await ledger.savings()).left == Decimal("0.095")
    assert await ledger.verify() == []


async def test_the_learning_credit_is_for_paid_executors_and_refilled_by_savings_only(
    ledger: Ledger, new_call: MakeCall
) -> None:
    """0.1 of credit: two answers of 0.04 fit, a third only once 0.05 are saved. Verdicts wait for savings."""
    credit = {"extra": "credit", "credit": Decimal("0.1")}
    for _ in range(2):
        hold = await ledger.reserve(new_call(**credit), Decimal("0.04"), LIMIT)
        await ledger.settle(hold, Decimal("0.04"))
    with pytest.raises(SavingsShortError):
        await ledger.reserve(new_call(**credit), Decimal("0.04"), LIMIT)
    await earn(ledger, ended("1", baseline="0.05"))
    await ledger.reserve(new_call(**credit), Decimal("0.04"), LIMIT)
    with pytest.raises(SavingsShortError):
        await ledger.reserve(new_call(extra="savings"), Decimal("0.000001"), LIMIT)


async def test_what_the_user_chose_needs_no_savings(ledger: Ledger, new_call: MakeCall) -> None:
    """`planning: always` and `validation.mode: always` are asked for at any price; the account stays as it is."""
    hold = await ledger.reserve(new_call(extra="choice"), Decimal("0.01"), LIMIT)
    await ledger.settle(hold, Decimal("0.01"))
    assert (await ledger.savings()).left == 0
    assert (await ledger.balance()).spent == Decimal("0.01")


async def test_each_month_has_savings_of_its_own(ledger: Ledger, clock: Clock, new_call: MakeCall) -> None:
    """What one month saved pays for nothing in the next; a call that straddles midnight settles in its own month."""
    await earn(ledger, ended("1", baseline="0.05"))
    straddles = await ledger.reserve(new_call(extra="savings"), Decimal("0.02"), LIMIT)
    before = straddles.month
    clock.now += 31 * 86_400
    with pytest.raises(SavingsShortError):
        await ledger.reserve(new_call(extra="savings"), Decimal("0.01"), LIMIT)
    await ledger.settle(straddles, Decimal("0.01"))
    assert (await ledger.savings(before)).left == Decimal("0.04")
    assert (await ledger.savings()).left == 0
    assert await ledger.verify() == []


async def test_a_month_with_losses_pays_for_extras_only_after_they_are_made_up(
    ledger: Ledger, new_call: MakeCall
) -> None:
    """A free model that billed all the same: -0.02, then 0.03 saved leave 0.01."""
    await earn(ledger, ended("1", baseline="0", cost="0.02"))
    assert (await ledger.savings()).left == Decimal("-0.02")
    await earn(ledger, ended("2", baseline="0.03"))
    with pytest.raises(SavingsShortError):
        await ledger.reserve(new_call(extra="savings"), Decimal("0.02"), LIMIT)
    await ledger.reserve(new_call(extra="savings"), Decimal("0.01"), LIMIT)


async def test_the_same_attempt_again_is_the_same_extra(ledger: Ledger, new_call: MakeCall) -> None:
    """A reservation whose reply was lost is repeated with its id, and held once."""
    await earn(ledger, ended("1", baseline="0.05"))
    call = new_call(extra="savings")
    for _ in range(2):
        await ledger.reserve(call, Decimal("0.03"), LIMIT)
    assert (await ledger.savings()).held == Decimal("0.03")
    with pytest.raises(SavingsShortError):
        await ledger.reserve(replace(call, id="another"), Decimal("0.03"), LIMIT)


async def test_many_at_once_never_hold_more_than_was_saved(
    ledger: Ledger, new_call: MakeCall, database: Database
) -> None:
    """40 calls of 0.01 for savings of 0.125: twelve are granted."""
    await earn(ledger, ended("1", baseline="0.125"))

    async def one() -> bool:
        try:
            await ledger.reserve(new_call(extra="savings"), Decimal("0.01"), LIMIT)
        except SavingsShortError:
            return False
        return True

    granted = await asyncio.gather(*(one() for _ in range(40)))
    assert sum(granted) == 12
    assert await ledger.verify() == []


async def test_paired_lengths_are_kept_by_class_and_orchestrator(ledger: Ledger) -> None:
    """Number of pairs, sum and sum of squares of their ratios."""
    month = (await ledger.balance()).month
    pairs = [Pair("claude", 1, 0.5), Pair("claude", 1, 1.0), Pair("claude", 2, 2.0), Pair("opus", 1, 1.0)]
    await record_results(ledger, month, [], pairs=pairs)
    assert await ledger.answer_lengths("claude") == {1: (2, 1.5, 1.25), 2: (1, 2.0, 4.0)}
    assert await ledger.answer_lengths("other") == {}


async def test_a_decision_lasts_as_long_as_its_answer(ledger: Ledger, new_call: MakeCall) -> None:
    """The same task again finds the reply that was delivered; with the answers, decisions are deleted."""
    call = new_call(step_key="s1")
    hold = await ledger.reserve(call, Decimal("0.01"), LIMIT)
    await ledger.settle(hold, Decimal("0.01"), answer=("s1", b"the reply"))
    kept = [
        TaskDecision("t1", call.id, "how"),
        TaskDecision("t2", None, "plan"),
        TaskDecision("t3", "lost", "how"),
    ]
    await record_results(ledger, hold.month, [], decisions=kept)
    found = await stored_decisions(ledger, ["t1", "t2", "t3", "t4"])
    assert set(found) == {"t1", "t2"}
    assert found["t1"].body == "how"
    assert found["t1"].answer is not None
    assert found["t1"].answer.body == b"the reply"
    assert found["t2"].answer is None
    await ledger.forget_answers(9e12)
    assert await stored_decisions(ledger, ["t1", "t2"]) == {}


@pytest.mark.server
def test_many_processes_keep_the_promise_together(ledger_url: str) -> None:
    """Four processes end tasks, buy extras and are killed: at every end of a task, cost <= baseline + credit."""
    workers = [
        subprocess.Popen(
            [sys.executable, str(WORKER), ledger_url, str(seed)],
            stdout=subprocess.PIPE, text=True,
        )
        for seed in range(4)
    ]  # fmt: skip
    reports = [json.loads(worker.communicate(timeout=110)[0] or "{}") for worker in workers]
    done = [report for report in reports if report]
    assert done
    assert sum(report["granted"] for report in done) > 0
    assert sum(report["refused"] for report in done) > 0

    async def check() -> None:
        ledger = Ledger.open(ledger_url, clock=lambda: 4e9)
        await ledger.sweep()
        assert await ledger.verify() == []
        for month in await ledger.months():
            account = await ledger.savings(month)
            assert account.held == 0
            assert account.left >= -Decimal("0.02")
            assert account.cost <= account.baseline + Decimal("0.02")
        await ledger.database.aclose()

    asyncio.run(check())
