"""What a hold promises: money is set aside once, ends once, and never passes the limit."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from decimal import Decimal

import pytest
from ledger_tools import Clock

from tta_dev_primitives.blocks.ledger.database.protocol import Database, Tx
from tta_dev_primitives.blocks.ledger.ledger import Ledger
from tta_dev_primitives.blocks.ledger.shielded import uninterrupted
from tta_dev_primitives.blocks.ledger.types import CallInfo, Kept, Outcome
from tta_dev_primitives.config.errors import (
    BudgetExceededError,
    LedgerBusyError,
    LedgerError,
    QuarantinedError,
)

NewCall = Callable[..., CallInfo]
LIMIT = Decimal("1.00")


def usd(amount: object) -> Decimal:
    return Decimal(str(amount))


async def test_a_call_is_charged_what_it_cost_and_not_what_was_set_aside(
    ledger: Ledger, new_call: NewCall
) -> None:
    """0.30 is set aside, 0.10 was billed: 0.10 is spent and nothing stays held."""
    hold = await ledger.reserve(new_call(), usd("0.30"), LIMIT)
    assert (await ledger.balance()).held == usd("0.30")
    await ledger.settle(hold, usd("0.10"))
    balance = await ledger.balance()
    assert (balance.month, balance.spent, balance.held) == ("2026-11", usd("0.10"), usd(0))


async def test_the_limit_itself_can_be_spent_to_the_last_pico_dollar(
    ledger: Ledger, new_call: NewCall
) -> None:
    """0.999999999999 and then 0.000000000001 fit into 1.00; another 0.000000000001 does not."""
    await ledger.settle(await ledger.reserve(new_call(), usd("0.999999999999"), LIMIT), usd("0.999999999999"))
    await ledger.settle(await ledger.reserve(new_call(), usd("0.000000000001"), LIMIT), usd("0.000000000001"))
    with pytest.raises(BudgetExceededError) as refused:
        await ledger.reserve(new_call(), usd("0.000000000001"), LIMIT)
    assert (refused.value.reason, refused.value.spent) == ("exhausted", LIMIT)


async def test_exhausted_busy_and_too_big_are_told_apart(ledger: Ledger, new_call: NewCall) -> None:
    """Spent money is final, held money may come back, and a call above the limit never fits."""
    hold = await ledger.reserve(new_call(), usd("0.60"), LIMIT)
    with pytest.raises(LedgerBusyError, match="held by calls in flight"):
        await ledger.reserve(new_call(), usd("0.50"), LIMIT)
    with pytest.raises(BudgetExceededError, match="more than the whole limit of 1 ") as big:
        await ledger.reserve(new_call(), usd("1.01"), LIMIT)
    await ledger.settle(hold, usd("0.60"))
    with pytest.raises(BudgetExceededError, match=r"month 2026-11: spent 0\.6 of 1 USD, 0 held") as spent:
        await ledger.reserve(new_call(), usd("0.50"), LIMIT)
    assert (big.value.reason, spent.value.reason) == ("too_big", "exhausted")


async def test_a_busy_budget_is_waited_for(ledger: Ledger, new_call: NewCall) -> None:
    """A reservation that only calls in flight block goes through as soon as one of them ends."""
    first = await ledger.reserve(new_call(), usd("0.90"), LIMIT)
    second = asyncio.create_task(ledger.reserve(new_call(), usd("0.50"), LIMIT, wait_busy_s=20))
    await ledger.settle(first, usd("0.20"))
    assert (await second).bound == usd("0.50")


async def test_a_repeated_reservation_is_granted_once(ledger: Ledger, new_call: NewCall) -> None:
    """The same id again (a COMMIT whose reply was lost) holds the money once; another amount is refused."""
    call = new_call()
    holds = [await ledger.reserve(call, usd("0.40"), LIMIT) for _ in range(3)]
    assert len(set(holds)) == 1
    assert (await ledger.balance()).held == usd("0.40")
    with pytest.raises(LedgerError, match="already used"):
        await ledger.reserve(call, usd("0.30"), LIMIT)


async def test_a_call_ends_once(ledger: Ledger, new_call: NewCall) -> None:
    """After a settlement, neither a second one nor a release or presumption changes anything."""
    hold = await ledger.reserve(new_call(), usd("0.40"), LIMIT)
    await ledger.settle(hold, usd("0.10"))
    for late in (
        ledger.settle(hold, usd("0.35")),
        ledger.release(hold, "x"),
        ledger.charge_at_bound(hold, "x"),
    ):
        assert not (await late).changed
    balance = await ledger.balance()
    assert (balance.spent, balance.held) == (usd("0.10"), usd(0))


async def test_a_released_call_costs_nothing(ledger: Ledger, new_call: NewCall) -> None:
    """A request that never reached the model gives all its money back."""
    await ledger.release(await ledger.reserve(new_call(), usd("0.40"), LIMIT), "connect refused")
    balance = await ledger.balance()
    assert (balance.spent, balance.held) == (usd(0), usd(0))


async def test_an_unknown_outcome_costs_the_bound_until_the_truth_arrives(
    ledger: Ledger, new_call: NewCall
) -> None:
    """Presumed: 0.40 is spent; a late settlement with 0.15 corrects it."""
    hold = await ledger.reserve(new_call(), usd("0.40"), LIMIT)
    await ledger.charge_at_bound(hold, "reset after sending")
    balance = await ledger.balance()
    assert (balance.spent, balance.presumed, balance.held) == (usd("0.40"), usd("0.40"), usd(0))
    await ledger.settle(hold, usd("0.15"))
    balance = await ledger.balance()
    assert (balance.spent, balance.presumed) == (usd("0.15"), usd(0))
    assert await ledger.verify() == []


async def test_a_lease_that_ends_charges_and_never_frees(
    ledger: Ledger, new_call: NewCall, clock: Clock
) -> None:
    """Held money of a dead process is charged at its bound, 60 s after the call's deadline and not before."""
    # The month has begun: PostgreSQL then reserves in one statement.
    await ledger.release(await ledger.reserve(new_call(), usd("0.01"), LIMIT), "first of the month")
    await ledger.reserve(new_call(deadline_s=30.0), usd("0.40"), LIMIT)
    clock.now += 89
    assert await ledger.sweep() == 0
    clock.now += 2
    assert await ledger.sweep() == 1
    balance = await ledger.balance()
    assert (balance.spent, balance.held, balance.presumed) == (usd("0.40"), usd(0), usd("0.40"))


async def test_a_lapsed_hold_is_swept_before_anybody_is_told_to_wait(
    ledger: Ledger, new_call: NewCall, clock: Clock
) -> None:
    """Money of a dead process is charged first, so that `busy` becomes the final `exhausted`."""
    await ledger.reserve(new_call(), usd("0.90"), LIMIT)
    clock.now += 1000
    with pytest.raises(BudgetExceededError, match=r"spent 0\.9 of 1 USD, 0 held"):
        await ledger.reserve(new_call(), usd("0.50"), LIMIT)


async def test_the_limit_is_what_each_call_says(ledger: Ledger, new_call: NewCall) -> None:
    """A limit that is raised or lowered in the month acts at once; calls in flight keep their money."""
    hold = await ledger.reserve(new_call(), usd("0.90"), LIMIT)
    with pytest.raises(BudgetExceededError):
        await ledger.reserve(new_call(), usd("0.20"), usd("0.10"))
    await ledger.reserve(new_call(), usd("0.20"), usd("2.00"))
    await ledger.settle(hold, usd("0.90"))
    assert (await ledger.balance()).spent == usd("0.90")


async def test_an_approval_raises_one_month(ledger: Ledger, new_call: NewCall, clock: Clock) -> None:
    """What a person approves counts for that month only, and stands in the journal with name and reason."""
    await ledger.settle(await ledger.reserve(new_call(), LIMIT, LIMIT), LIMIT)
    assert await ledger.approve("2026-11", usd("0.50"), who="ann", reason="month end") == usd("0.50")
    assert (await ledger.balance()).limit(LIMIT) == usd("1.50")
    await ledger.reserve(new_call(), usd("0.50"), LIMIT)
    entry = next(e for e in await ledger.journal("2026-11") if e.what == "approve")
    assert (entry.approved, entry.who, entry.note) == (usd("0.50"), "ann", "month end")
    clock.now += 31 * 86_400
    with pytest.raises(BudgetExceededError):
        await ledger.reserve(new_call(), usd("1.20"), LIMIT)


async def test_money_is_not_approved_for_a_month_that_has_not_begun(
    ledger: Ledger, new_call: NewCall
) -> None:
    """Months never go back, so December would begin in November, with a whole limit of its own."""
    await ledger.settle(await ledger.reserve(new_call(), LIMIT, LIMIT), LIMIT)
    with pytest.raises(LedgerError, match="month 2026-12 has not begun"):
        await ledger.approve("2026-12", usd("0.50"), who="ann", reason="ahead of time")
    with pytest.raises(BudgetExceededError):
        await ledger.reserve(new_call(), usd("0.10"), LIMIT)


async def test_a_new_month_starts_at_zero_and_a_late_bill_stays_in_its_own(
    ledger: Ledger, new_call: NewCall, clock: Clock
) -> None:
    """A call reserved in November and settled in December is November's."""
    hold = await ledger.reserve(new_call(), usd("0.90"), LIMIT)
    clock.now += 30 * 86_400
    await ledger.reserve(new_call(), usd("0.90"), LIMIT)
    await ledger.settle(hold, usd("0.80"))
    november, december = await ledger.balance("2026-11"), await ledger.balance("2026-12")
    assert (november.spent, december.spent, december.held) == (usd("0.80"), usd(0), usd("0.90"))


async def test_months_follow_the_chosen_time_zone(ledger: Ledger, new_call: NewCall, clock: Clock) -> None:
    """At 2026-11-30 23:30 UTC it is already December in Berlin."""
    clock.now = 1_796_081_400.0
    berlin = Ledger(ledger.database, scope="berlin", timezone="Europe/Berlin", clock=clock)
    assert (await ledger.reserve(new_call(), usd("0.1"), LIMIT)).month == "2026-11"
    assert (await berlin.reserve(new_call(), usd("0.1"), LIMIT)).month == "2026-12"


async def test_scopes_do_not_share_a_budget(ledger: Ledger, new_call: NewCall, clock: Clock) -> None:
    """Two budgets in one database know nothing of each other."""
    other = Ledger(ledger.database, scope="other", clock=clock)
    await ledger.reserve(new_call(), LIMIT, LIMIT)
    await other.reserve(new_call(), LIMIT, LIMIT)
    assert (await other.balance()).held == LIMIT


async def test_alerts_are_raised_once_a_line_and_month(ledger: Ledger, new_call: NewCall) -> None:
    """Crossing 80 % raises one alert, being refused for lack of money another; both keep their event id."""
    await ledger.settle(await ledger.reserve(new_call(), usd("0.79"), LIMIT), usd("0.79"))
    assert await ledger.claim_alerts() == []
    for _ in range(2):
        await ledger.settle(await ledger.reserve(new_call(), usd("0.05"), LIMIT), usd("0.05"))
    for _ in range(2):
        with pytest.raises(BudgetExceededError):
            await ledger.reserve(new_call(), usd("0.50"), LIMIT)
    alerts = await ledger.claim_alerts()
    assert [(a.threshold_bp, a.spent, a.limit) for a in alerts] == [
        (8000, usd("0.84"), LIMIT),
        (10_000, usd("0.89"), LIMIT),
    ]
    assert await ledger.claim_alerts() == []


async def test_many_processes_raise_an_alert_once_together(
    database: Database, clock: Clock, new_call: NewCall
) -> None:
    """Each has crossed both lines by its own knowledge; the outbox knows better, also after an alert was sent."""
    ledgers = [Ledger(database, clock=clock) for _ in range(8)]
    first = await ledgers[0].reserve(new_call(), usd("0.85"), LIMIT)
    await ledgers[0].settle(first, usd("0.85"))
    sent: list[int] = []

    async def go_on(ledger: Ledger) -> None:
        await ledger.settle(await ledger.reserve(new_call(), usd("0.01"), LIMIT), usd("0.01"))
        with pytest.raises(BudgetExceededError):
            await ledger.reserve(new_call(), usd("0.50"), LIMIT)
        for alert in await ledger.claim_alerts():
            sent.append(alert.threshold_bp)
            await ledger.alert_sent(alert)

    await asyncio.gather(*map(go_on, ledgers))
    await asyncio.gather(*(go_on(Ledger(database, clock=clock)) for _ in range(4)))
    assert sorted(sent) == [8000, 10_000]


async def test_a_threshold_of_zero_alerts_at_the_first_spending(
    database: Database, clock: Clock, new_call: NewCall
) -> None:
    """0.0 is in the option's range, and any spending reaches it; free calls do not."""
    ledger = Ledger(database, clock=clock, alert_threshold=Decimal(0))
    await ledger.settle(await ledger.reserve(new_call(), usd("0.01"), LIMIT), usd("0"))
    assert await ledger.claim_alerts() == []
    await ledger.settle(await ledger.reserve(new_call(), usd("0.01"), LIMIT), usd("0.01"))
    assert [(a.threshold_bp, a.spent) for a in await ledger.claim_alerts()] == [(0, usd("0.01"))]


async def test_an_alert_whose_sender_died_is_sent_by_the_next(
    ledger: Ledger, new_call: NewCall, clock: Clock
) -> None:
    """A claim ends after its lease; the alert keeps the same event id, so that receivers see it once."""
    await ledger.settle(await ledger.reserve(new_call(), LIMIT, LIMIT), LIMIT)
    first = await ledger.claim_alerts(lease_s=60)
    clock.now += 61
    second = await ledger.claim_alerts(lease_s=60)
    assert [a.event_id for a in first] == [a.event_id for a in second] != []
    for alert in second:
        await ledger.alert_sent(alert)
    clock.now += 61
    assert await ledger.claim_alerts() == []


async def test_a_closed_model_gets_no_money_until_it_is_resolved(ledger: Ledger, new_call: NewCall) -> None:
    """A model that billed above its bound is refused, other models are not, and a person opens it again."""
    hold = await ledger.reserve(new_call(), usd("0.10"), LIMIT)
    await ledger.settle(hold, usd("0.20"), outcome=Outcome(flag="bound_broken", note="why"), close_key="p||m")
    assert (await ledger.balance()).spent == usd("0.20")
    with pytest.raises(QuarantinedError, match="tta ledger resolve"):
        await ledger.reserve(new_call(), usd("0.10"), LIMIT)
    await ledger.reserve(new_call(model_key="p||other"), usd("0.10"), LIMIT)
    assert [q.key for q in await ledger.quarantines()] == ["p||m"]
    await ledger.resolve("p||m", who="ann", reason="bill is right")
    await ledger.reserve(new_call(), usd("0.10"), LIMIT)
    with pytest.raises(LedgerError, match="not closed"):
        await ledger.resolve("p||m", who="ann", reason="again")


async def test_a_presumed_call_is_corrected_only_with_evidence(ledger: Ledger, new_call: NewCall) -> None:
    """`reconcile` puts in what the provider's page says, or nothing when it was not billed."""
    holds = [await ledger.reserve(new_call(), usd("0.30"), LIMIT) for _ in range(2)]
    with pytest.raises(LedgerError, match="only presumed calls"):
        await ledger.reconcile(holds[0].id, usd("0.10"), evidence="page")
    for hold in holds:
        await ledger.charge_at_bound(hold, "unknown")
    with pytest.raises(LedgerError, match="evidence"):
        await ledger.reconcile(holds[0].id, usd("0.10"), evidence=" ")
    assert await ledger.reconcile(holds[0].id, usd("0.10"), evidence="usage u1", who="ann") == usd("-0.20")
    assert await ledger.reconcile(holds[1].id, None, evidence="not on the bill") == usd("-0.30")
    assert (await ledger.balance()).spent == usd("0.10")
    assert await ledger.verify() == []


async def test_a_forged_month_is_found(ledger: Ledger, new_call: NewCall) -> None:
    """`verify` recomputes every month from its journal and its calls, and every answer from its checksum."""
    hold = await ledger.reserve(new_call(), usd("0.10"), LIMIT)
    await ledger.settle(hold, usd("0.05"), answer=("key", b"body"))
    assert await ledger.verify() == []

    async def forge(tx: Tx) -> None:
        await tx.execute("UPDATE ledger_month SET spent = spent - 10000000000")
        await tx.execute("UPDATE ledger_answer SET body = ?", b"another")

    await ledger.database.transact(forge)
    assert await ledger.verify() == [
        "month 2026-11: spent is 0.04 USD, by its journal it is 0.05 USD",
        "month 2026-11: spent is 0.04 USD, by its calls it is 0.05 USD",
        "answer key: its text does not match its checksum",
    ]
    assert await ledger.lookup("key") is None


async def test_a_cancelled_reservation_leaves_nothing_held(ledger: Ledger, new_call: NewCall) -> None:
    """Whoever is cancelled while money is being set aside gets it back: nothing was sent."""
    await ledger.balance()
    tasks = [asyncio.create_task(ledger.reserve(new_call(), usd("0.01"), LIMIT)) for _ in range(20)]
    for task in tasks[::2]:
        asyncio.get_running_loop().call_soon(task.cancel)
    done = await asyncio.gather(*tasks, return_exceptions=True)
    granted = [hold for hold in done if not isinstance(hold, BaseException)]
    assert len(granted) == 10
    assert (await ledger.balance()).held == usd("0.10")


@pytest.mark.parametrize("steps", range(4))
def test_an_entry_outlives_the_end_of_the_loop(steps: int) -> None:
    """`asyncio.run` cancels what is left when it ends: an entry that has begun, or is about to, is written."""
    written = []

    async def entry() -> None:
        await asyncio.sleep(0.01)
        written.append("entry")

    async def call() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            await uninterrupted(entry())

    async def main() -> None:
        task = asyncio.create_task(call())
        await asyncio.sleep(0)
        task.cancel()
        for _ in range(steps):
            await asyncio.sleep(0)

    asyncio.run(main())
    assert written == ["entry"]


async def test_a_swept_call_is_not_called_unbilled_while_its_process_may_come_back(
    ledger: Ledger, clock: Clock, new_call: NewCall
) -> None:
    """A laptop that slept ends its call after the sweep: freed too early, its money would be spent twice."""
    hold = await ledger.reserve(new_call(deadline_s=5), usd("0.4"), usd("0.5"))
    clock.now += 100
    assert await ledger.sweep() == 1
    for unbilled in (None, Decimal(0)):
        with pytest.raises(LedgerError, match=r"did not report its end.*wait until \d{4}-"):
            await ledger.reconcile(hold.id, unbilled, evidence="not on the usage page yet")
    with pytest.raises(BudgetExceededError):
        await ledger.reserve(new_call(), usd("0.45"), usd("0.5"))
    await ledger.settle(hold, usd("0.39"))
    assert (await ledger.balance()).spent == usd("0.39")
    lost = await ledger.reserve(new_call(deadline_s=5), usd("0.1"), usd("0.5"))
    clock.now += 100
    await ledger.sweep()
    clock.now += 86_400
    assert await ledger.reconcile(lost.id, None, evidence="not on the bill of the next day") == usd("-0.1")
    assert await ledger.verify() == []


async def test_stored_answers_are_listed_and_forgotten_by_age(
    ledger: Ledger, clock: Clock, new_call: NewCall
) -> None:
    """Newest first, with the call that brought them; one by its key, or all from before a moment."""
    first = clock.now
    for number, key in enumerate(("a", "b", "c")):
        clock.now = first + number
        await ledger.record_free(new_call(step_key=key), Outcome(), answer=(key, b"x" * (number + 1)))
    sums, kept = await ledger.kept_answers(math.inf, most=2)
    assert (sums.answers, sums.size, sums.oldest) == (3, 6, first)
    assert [(k.step_key, k.size, k.at, k.model, k.use_case) for k in kept] == [
        ("c", 3, first + 2, "m", "simple"),
        ("b", 2, first + 1, "m", "simple"),
    ]
    await ledger.forget_answer("b")
    assert (await ledger.lookup("b"), (await ledger.kept_answers(first + 2, most=9))[0].answers) == (
        None,
        1,
    )
    assert [await ledger.forget_answers(first + 2), await ledger.forget_answers(math.inf)] == [1, 1]
    assert (await ledger.kept_answers(math.inf, most=9)) == (Kept(0, 0, None), [])
