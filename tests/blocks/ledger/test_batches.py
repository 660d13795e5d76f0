"""Batches in the ledger: many holds at once, each content key open once, holds that last until the results are back."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from decimal import Decimal

import pytest
from ledger_tools import Clock

from tta_dev_primitives.blocks.ledger.batches import LEASE_S, BatchCall, NewBatch
from tta_dev_primitives.blocks.ledger.ledger import Ledger
from tta_dev_primitives.blocks.ledger.types import CallInfo

NewCall = Callable[..., CallInfo]
LIMIT = Decimal(10)


def batch(name: str) -> NewBatch:
    return NewBatch(id=name, provider="p", model="m", model_key="p||m", key_id="k", price="{}")


def calls(new_call: NewCall, keys: str, bound: str = "1") -> list[BatchCall]:
    return [BatchCall(new_call(step_key=key), Decimal(bound), key.encode()) for key in keys]


async def test_all_holds_and_the_batch_in_one_transaction(
    ledger: Ledger, new_call: NewCall, clock: Clock
) -> None:
    asked = calls(new_call, "abc")
    opened = await ledger.open_batch(batch("one"), asked, LIMIT)
    assert opened.held == {one.call.id for one in asked}
    assert (await ledger.balance()).held == 3
    [kept] = await ledger.batches()
    assert (kept.state, kept.lines, kept.open_lines, kept.held) == ("submitting", 3, 3, 3)
    lines = await ledger.open_lines("one")
    assert {line.request for line in lines} == {b"a", b"b", b"c"}
    rows = await ledger.database.fetch("SELECT min(lease_until) AS lease FROM ledger_call")
    assert rows[0]["lease"] == pytest.approx(clock() + LEASE_S)


async def test_opening_again_changes_nothing(ledger: Ledger, new_call: NewCall) -> None:
    """A COMMIT whose reply was lost is repeated."""
    asked = calls(new_call, "ab")
    await ledger.open_batch(batch("one"), asked, LIMIT)
    assert len((await ledger.open_batch(batch("one"), asked, LIMIT)).held) == 2
    assert (await ledger.balance()).held == 2


async def test_a_content_key_is_open_in_one_batch_only(ledger: Ledger, new_call: NewCall) -> None:
    await ledger.open_batch(batch("one"), calls(new_call, "ab"), LIMIT)
    opened = await ledger.open_batch(batch("two"), calls(new_call, "bc"), LIMIT)
    assert opened.elsewhere == {"b": "one"}
    assert len(opened.held) == 1
    for line in await ledger.open_lines("one"):
        await ledger.settle(
            line.hold, Decimal("0.1"), answer=(line.step_key, b"{}") if line.step_key == "b" else None
        )
    await ledger.end_batch("one", "ended")
    again = await ledger.open_batch(batch("three"), calls(new_call, "ab"), LIMIT)
    assert again.stored == {"b"}
    assert len(again.held) == 1
    assert await ledger.open_lines("one") == []


async def test_many_processes_with_the_same_keys(ledger: Ledger, new_call: NewCall) -> None:
    """Twelve at once: each key is held exactly once."""
    opened = await asyncio.gather(*(
        ledger.open_batch(batch(f"b{n}"), calls(new_call, "abcdef"), LIMIT) for n in range(12)
    ))  # fmt: skip
    assert sum(len(one.held) for one in opened) == 6
    assert (await ledger.balance()).held == 6


async def test_as_many_as_the_month_allows(ledger: Ledger, new_call: NewCall) -> None:
    opened = await ledger.open_batch(batch("one"), calls(new_call, "abcdef", "3"), LIMIT)
    assert len(opened.held) == 3
    assert {refused.reason for refused in opened.refused.values()} == {"busy"}
    assert (await ledger.balance()).held == 9
    # A lower limit revokes nothing, and lets nothing more through.
    lowered = await ledger.open_batch(batch("two"), calls(new_call, "x", "3"), Decimal(5))
    assert not lowered.held
    assert [b.id for b in await ledger.batches()] == ["one"]
    for line in await ledger.open_lines("one"):
        await ledger.settle(line.hold, Decimal(3))
    spent = await ledger.open_batch(batch("three"), calls(new_call, "y", "3"), LIMIT)
    assert [refused.reason for refused in spent.refused.values()] == ["exhausted"]


async def test_calls_beyond_the_savings_do_not_wait_for_the_batch(ledger: Ledger, new_call: NewCall) -> None:
    """What a batch holds comes back in hours: a call that savings cannot cover now goes another way at once."""
    asked = [
        BatchCall(new_call(step_key=k, extra="credit", credit=Decimal(2)), Decimal(1), b"") for k in "abc"
    ]
    opened = await ledger.open_batch(batch("one"), asked, LIMIT)
    assert opened.held == {one.call.id for one in asked[:2]}
    assert set(opened.short) == {asked[2].call.id}
    assert not opened.refused


async def test_results_after_the_month_changed(ledger: Ledger, new_call: NewCall, clock: Clock) -> None:
    """The month of the submission pays."""
    await ledger.open_batch(batch("one"), calls(new_call, "a"), LIMIT)
    month = (await ledger.balance()).month
    clock.now += 31 * 86_400
    await ledger.open_batch(batch("two"), calls(new_call, "b"), LIMIT)
    [line] = await ledger.open_lines("one")
    await ledger.settle(line.hold, Decimal("0.25"))
    await ledger.settle(line.hold, Decimal("0.25"))
    before = await ledger.balance(month)
    assert (before.spent, before.held) == (Decimal("0.25"), 0)
    assert (await ledger.balance()).spent == 0
    assert await ledger.verify() == []


async def test_a_batch_that_was_never_collected_is_charged(
    ledger: Ledger, new_call: NewCall, clock: Clock
) -> None:
    """After the lease the sweep charges the bounds; a late result puts in the true cost."""
    await ledger.open_batch(batch("one"), calls(new_call, "a"), LIMIT)
    clock.now += LEASE_S - 1
    assert await ledger.sweep() == 0
    clock.now += 2
    assert await ledger.sweep() == 1
    assert (await ledger.balance()).spent == 1
    [line] = await ledger.open_lines("one")
    await ledger.settle(line.hold, Decimal("0.25"))
    assert (await ledger.balance()).spent == Decimal("0.25")


async def test_the_record_of_a_submission(ledger: Ledger, new_call: NewCall) -> None:
    await ledger.open_batch(batch("one"), calls(new_call, "a"), LIMIT)
    assert await ledger.batch_submitted("one", "msgbatch_1")
    assert await ledger.batch_submitted("one", "msgbatch_1")
    [kept] = await ledger.batches()
    assert (kept.state, kept.provider_batch) == ("open", "msgbatch_1")
    await ledger.end_batch("one", "lost", "why")
    assert not await ledger.batch_submitted("one", "msgbatch_2")
    assert not any(one.open_lines for one in await ledger.batches())


async def test_old_batches_are_pruned_and_the_calls_of_the_others_stay(
    ledger: Ledger, new_call: NewCall, clock: Clock
) -> None:
    """What a batch has cost is read from its calls: they are deleted with it, not before."""

    async def ended(name: str, keys: str) -> None:
        await ledger.open_batch(batch(name), calls(new_call, keys), LIMIT)
        for line in await ledger.open_lines(name):
            await ledger.settle(line.hold, Decimal("0.1"))

    await ended("old", "ab")
    await ledger.end_batch("old", "ended")
    await ended("settled", "c")
    await ledger.open_batch(batch("open"), calls(new_call, "d"), LIMIT)
    clock.now += 86_400
    await ledger.end_batch("settled", "ended")
    pruned = await ledger.prune(clock() - 3600)
    assert (pruned["batches"], pruned["calls"]) == (1, 2)
    assert {one.id: one.charged for one in await ledger.batches()} == {"settled": Decimal("0.1"), "open": 0}
    assert (await ledger.verify(full=True), (await ledger.balance()).spent) == ([], Decimal("0.3"))
