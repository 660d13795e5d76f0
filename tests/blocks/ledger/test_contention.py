"""Many processes at one budget, against a provider that keeps its own books."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

import pytest
from ledger_tools import ended, lines, start

from tta_dev_primitives.blocks.ledger.database.migrations import register_schema
from tta_dev_primitives.blocks.ledger.database.protocol import Database, Tx
from tta_dev_primitives.blocks.ledger.ledger import Ledger
from tta_dev_primitives.blocks.ledger.money import from_pico
from tta_dev_primitives.blocks.ledger.types import CallInfo
from tta_dev_primitives.config.errors import BudgetExceededError

CENT = Decimal("0.01")

register_schema(
    "test_naive", 1, ["CREATE TABLE naive_budget (id INTEGER PRIMARY KEY, spent INTEGER NOT NULL) STRICT"]
)


async def test_200_calls_of_a_cent_never_overspend_a_dollar(
    database: Database, new_call: Callable[..., CallInfo]
) -> None:
    """Exactly 100 of 200 concurrent calls are made; checking first and adding later overspends in the same test."""
    ledger, limit = Ledger(database), Decimal("1.00")
    billed: list[Decimal] = []

    async def guarded() -> None:
        try:
            hold = await ledger.reserve(new_call(), CENT, limit, wait_busy_s=60)
        except BudgetExceededError:
            return
        billed.append(CENT)
        await ledger.settle(hold, CENT)

    await asyncio.gather(*(guarded() for _ in range(200)))
    assert sum(billed) == (await ledger.balance()).spent == limit

    async def spent(tx: Tx) -> int:
        return sum(row["spent"] for row in await tx.fetch("SELECT spent FROM naive_budget"))

    async def add(tx: Tx) -> None:
        await tx.execute(
            "INSERT INTO naive_budget (id, spent) VALUES (1, 1) "
            "ON CONFLICT (id) DO UPDATE SET spent = naive_budget.spent + 1"
        )

    async def naive() -> None:
        if await database.read(spent) < 100:
            await asyncio.sleep(0)
            await database.transact(add)

    await asyncio.gather(*(naive() for _ in range(200)))
    assert await database.read(spent) > 100


@pytest.mark.proof
def test_32_processes_agree_with_the_provider_to_the_last_pico_dollar(
    ledger_url: str, tmp_path: Path
) -> None:
    """32 processes make 1,000 calls each against a limit below their demand: spent equals billed, exactly."""
    # PostgreSQL takes a minute for all of them on two cores: the whole count runs in CI.
    calls = 1000 if ledger_url.startswith("sqlite") or os.environ.get("CI") else 100
    demand = from_pico(32 * calls * 4_500_000)
    limit = (demand * Decimal("0.9")).quantize(Decimal("0.000001"))
    concurrency = 16 if ledger_url.startswith("sqlite") else 1
    children = ended(
        start("hammer", ledger_url, tmp_path, processes=32, calls=calls, concurrency=concurrency, limit=limit)
    )
    billed = [pico for _, pico, _ in lines(tmp_path, "billed-*")]

    async def look() -> None:
        ledger = Ledger.open(ledger_url)
        balance = await ledger.balance()
        assert balance.spent == from_pico(sum(billed)) <= limit
        assert balance.spent > limit * Decimal("0.99")
        assert (balance.held, await ledger.verify()) == (0, [])
        rows = {row.state: row.calls for row in await ledger.report_rows(balance.month)}
        assert rows["settled"] == len(billed) == sum(child["settled"] for child in children)
        assert rows["released"] == sum(child["released"] for child in children)
        await ledger.database.aclose()

    asyncio.run(look())
    made = sum(child[name] for child in children for name in ("settled", "released", "exhausted", "busy"))
    assert made == 32 * calls
    assert sum(child["exhausted"] + child["busy"] for child in children) > 0
