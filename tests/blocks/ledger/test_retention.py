"""Old rows go, what they cost stays: sums, reports and the proof are the same before and after."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from decimal import Decimal
from pathlib import Path

import pytest
from ledger_tools import Clock

from tta_dev_primitives.blocks.ledger.database.protocol import Tx
from tta_dev_primitives.blocks.ledger.ledger import Ledger
from tta_dev_primitives.blocks.ledger.report import spend_by_day
from tta_dev_primitives.blocks.ledger.task_records import TaskRecord, record_results, result_lines
from tta_dev_primitives.blocks.ledger.types import CallInfo, Outcome
from tta_dev_primitives.commands.ledger import prune
from tta_dev_primitives.config.errors import ConfigError
from tta_dev_primitives.flows.prefect_support import result_storage

NewCall = Callable[..., CallInfo]
CENT, LIMIT, MONTH = Decimal("0.01"), Decimal(10), "2026-11"
EVERYTHING = float("inf")


async def used(ledger: Ledger, new_call: NewCall) -> dict[str, str]:
    """A ledger in which every kind of end occurred; the ids of its calls by their end."""
    ids = {}
    for end in ("settled", "released", "presumed", "held", "extra", "answered"):
        call = new_call(step_key=end, extra="credit" if end == "extra" else None, credit=Decimal(1))
        ids[end] = call.id
        hold = await ledger.reserve(call, CENT, LIMIT)
        if end in ("settled", "extra", "answered"):
            answer = ("answered", b"body") if end == "answered" else None
            await ledger.settle(hold, CENT / 2, outcome=Outcome(list_value=CENT), answer=answer)
        elif end == "released":
            await ledger.release(hold, "refused")
        elif end == "presumed":
            await ledger.charge_at_bound(hold, "no reply")
    await ledger.record_free(new_call(model="free", use_case=None), Outcome(list_value=CENT))
    await ledger.approve(MONTH, Decimal(1), who="ann", reason="more")
    record = TaskRecord(flow_run_id="r", item_id="a", use_case="simple", cost=CENT, quality=0.5)
    again = TaskRecord(flow_run_id="r", item_id="b", use_case="simple", cost=CENT, accepted=True)
    await record_results(ledger, MONTH, [record, again])
    return ids


async def seen(ledger: Ledger) -> tuple[object, ...]:
    return (
        await ledger.report_rows(MONTH),
        await ledger.balance(MONTH),
        await spend_by_day(ledger, MONTH),
        await result_lines(ledger, MONTH),
        await ledger.months(),
        await ledger.verify(),
        await ledger.verify(full=True),
    )


async def count(ledger: Ledger, table: str) -> int:
    async def work(tx: Tx) -> int:
        return int((await tx.fetch(f"SELECT count(*) AS n FROM {table}"))[0]["n"])

    return await ledger.database.read(work)


async def test_summed_and_deleted_rows_report_as_before(ledger: Ledger, new_call: NewCall) -> None:
    await used(ledger, new_call)
    before = await seen(ledger)
    assert before[-2:] == ([], [])
    await ledger.sum_up()
    assert await seen(ledger) == before
    pruned = await ledger.prune(EVERYTHING)
    assert (pruned["calls"], pruned["results"], pruned["entries"]) == (4, 2, 11)
    assert await seen(ledger) == before
    # Open and presumed calls, the one whose answer is stored, and the approval are kept.
    kept = [await count(ledger, table) for table in ("ledger_call", "task_result", "ledger_event")]
    assert kept == [3, 0, 1]
    assert await ledger.lookup("answered") is not None
    assert await ledger.forget_answers(EVERYTHING) == 1
    assert (await ledger.prune(EVERYTHING))["calls"] == 1
    assert await seen(ledger) == before


async def test_only_what_is_old_is_deleted(ledger: Ledger, new_call: NewCall, clock: Clock) -> None:
    first = await ledger.reserve(new_call(), CENT, LIMIT)
    await ledger.settle(first, CENT)
    clock.now += 10 * 86_400
    await ledger.settle(await ledger.reserve(new_call(), CENT, LIMIT), CENT)
    pruned = await ledger.prune(clock.now - 5 * 86_400)
    assert (pruned["calls"], pruned["entries"]) == (1, 2)
    kept = [row["id"] for row in await ledger.database.fetch("SELECT id FROM ledger_call")]
    assert (len(kept), first.id in kept, await ledger.verify(full=True)) == (1, False, [])


async def test_a_summed_call_may_still_change(ledger: Ledger, new_call: NewCall) -> None:
    """A released call that was billed after all, a presumed one that was reconciled: the sums follow."""
    ids = await used(ledger, new_call)
    await ledger.sum_up()
    await ledger.settle(ids["released"], CENT)
    await ledger.reconcile(ids["presumed"], CENT / 4, evidence="bill")
    await record_results(
        ledger, MONTH, [TaskRecord(flow_run_id="r", item_id="a", use_case="simple", cost=CENT)]
    )
    changed = await seen(ledger)
    assert changed[-2:] == ([], [])
    assert sum(row.charged for row in await ledger.report_rows(MONTH)) == CENT * Decimal("2.75")
    assert sum(line.cost for line in await result_lines(ledger, MONTH)) == 3 * CENT
    await ledger.sum_up()
    assert await seen(ledger) == changed


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ("UPDATE ledger_event SET d_spent = d_spent + 1 WHERE what = 'settle'", "journal"),
        (
            "UPDATE ledger_call SET charged = charged + 1 WHERE state = 'settled' AND billing = 'paid'",
            "calls",
        ),
        ("UPDATE ledger_call_sum SET charged = charged + 1 WHERE billing = 'paid'", "calls"),
        ("UPDATE ledger_event_sum SET d_held = d_held + 1", "journal"),
        ("UPDATE ledger_month SET spent = spent + 1", "journal"),
    ],
)
async def test_a_changed_row_is_found_after_it_was_summed(
    ledger: Ledger, new_call: NewCall, change: str, found: str
) -> None:
    await used(ledger, new_call)
    await ledger.sum_up()

    async def work(tx: Tx) -> None:
        await tx.execute(change)

    await ledger.database.transact(work)
    assert any(found in problem for problem in await ledger.verify())


async def test_entries_of_an_open_transaction_are_not_passed_over(ledger: Ledger, new_call: NewCall) -> None:
    """Sums and calls at the same time: no entry is counted twice or never."""
    import asyncio

    async def call() -> None:
        for _ in range(15):
            await ledger.settle(await ledger.reserve(new_call(), CENT / 100, LIMIT), CENT / 100)

    async def sums() -> None:
        for _ in range(10):
            await ledger.sum_up()

    await asyncio.gather(call(), call(), sums(), call(), sums())
    await ledger.sum_up()
    assert (await ledger.verify(), await ledger.verify(full=True)) == ([], [])
    assert sum(row.calls for row in await ledger.report_rows(MONTH)) == 45


async def test_the_month_that_a_wrong_clock_began_takes_its_sums_along(
    new_call: NewCall, tmp_path: Path
) -> None:
    clock = Clock()
    ledger = Ledger.open(f"sqlite:///{tmp_path / 'ledger.db'}", clock=clock)
    now, clock.now = clock.now, clock.now + 40 * 86_400
    for _ in range(2):
        await ledger.settle(await ledger.reserve(new_call(), CENT, LIMIT), CENT)
        await ledger.prune(EVERYTHING)
    await ledger.settle(await ledger.reserve(new_call(), CENT, LIMIT), CENT)
    await ledger.sum_up()
    clock.now = now
    await ledger.set_month(MONTH, who="ann", reason="clock")
    assert (await ledger.verify(full=True), sum(row.calls for row in await ledger.report_rows(MONTH))) == (
        [],
        3,
    )
    await ledger.database.aclose()


async def test_the_file_shrinks(new_call: NewCall, tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    ledger = Ledger.open(f"sqlite:///{path}")
    for number in range(200):
        await ledger.record_free(new_call(), Outcome(), answer=(str(number), os.urandom(5_000)))
    await ledger.forget_answers(EVERYTHING)
    await ledger.prune(EVERYTHING)
    await ledger.database.compact()
    assert path.stat().st_size < 400_000
    await ledger.database.aclose()


async def test_a_file_from_before_is_written_anew(new_call: NewCall, tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    ledger = Ledger.open(f"sqlite:///{path}")
    for number in range(100):
        await ledger.record_free(new_call(), Outcome(), answer=(str(number), os.urandom(5_000)))
    await ledger.database.aclose()
    with closing(sqlite3.connect(path, isolation_level=None)) as old:
        old.execute("PRAGMA journal_mode=DELETE")
        old.execute("PRAGMA auto_vacuum=NONE")
        old.execute("VACUUM")
    await ledger.forget_answers(EVERYTHING)
    await ledger.database.compact()
    assert (path.stat().st_size < 400_000, await ledger.verify()) == (True, [])
    await ledger.database.aclose()


def test_the_command_wants_an_age_that_no_call_outlives() -> None:
    with pytest.raises(ConfigError, match="give --answers-older-than"):
        prune()
    with pytest.raises(ConfigError, match="at least 1d"):
        prune(runs_older_than="23h")
    with pytest.raises(ConfigError, match="--answers-older-than 'old': expected a number"):
        prune(answers_older_than="old")


def test_old_result_files_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(result_storage, "RESULTS", tmp_path)
    for name, at in (("old", 1_000), ("new", 3_000)):
        (tmp_path / name).write_text("{}")
        os.utime(tmp_path / name, (at, at))
    assert result_storage.delete_old_results(2_000.0) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["new"]
