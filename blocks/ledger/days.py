"""Spending over the days of a month, for reports."""

from __future__ import annotations

from collections import defaultdict
from decimal import Decimal
from typing import Any

from tta_dev_primitives.blocks.ledger.core import LedgerCore
from tta_dev_primitives.blocks.ledger.database.protocol import Tx
from tta_dev_primitives.blocks.ledger.money import from_pico
from tta_dev_primitives.blocks.ledger.months import checked_month, day_of


async def spend_by_day(ledger: LedgerCore, month: str) -> dict[str, Decimal]:
    """What the paid calls of a month were charged, by the day of their start in the ledger's time zone.

    Returns:
        `YYYY-MM-DD` -> USD, in order; days without a charge are left out.

    Raises:
        LedgerError: The database cannot be used.
    """
    quarters = "floor(created_at / 900)" if ledger.database.dialect == "postgresql" else "created_at / 900"

    async def work(tx: Tx) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        # A quarter of an hour is the finest step in which time zones differ.
        of = (ledger.scope, checked_month(month))
        summed = await tx.fetch(
            "SELECT day, CAST(sum(charged) AS BIGINT) AS charged FROM ledger_call_sum "
            "WHERE scope = ? AND month = ? GROUP BY day",
            *of,
        )
        return summed, await tx.fetch(
            f"SELECT CAST({quarters} AS BIGINT) AS quarter, CAST(sum(charged) AS BIGINT) AS charged "  # noqa: S608
            "FROM ledger_call WHERE scope = ? AND month = ? AND summed = 0 AND charged > 0 GROUP BY 1",
            *of,
        )

    summed, rows = await ledger.database.read(work)
    days: dict[str, int] = defaultdict(int)
    for row in summed:
        days[row["day"]] += int(row["charged"])
    for row in rows:
        days[day_of(int(row["quarter"]) * 900, ledger.timezone)] += int(row["charged"])
    return {day: from_pico(pico) for day, pico in sorted(days.items()) if pico > 0}
