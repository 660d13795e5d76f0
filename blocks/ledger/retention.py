"""How long rows are kept: ended rows are summed, and old ones deleted. No sum, month or proof changes by it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

from tta_dev_primitives.blocks.ledger.audit import DECISIONS
from tta_dev_primitives.blocks.ledger.core import LedgerCore
from tta_dev_primitives.blocks.ledger.database.protocol import Tx
from tta_dev_primitives.blocks.ledger.sums import CALLS, Summed, add_to_sums, sum_ended
from tta_dev_primitives.blocks.ledger.task_records import RESULTS

_ROWS_AT_ONCE = 5_000
_ENTRIES_AT_ONCE = 100_000
_PAUSE_S = 0.002
"""Between two transactions, so that calls of other processes come in between."""


@dataclass(frozen=True, slots=True)
class Pruned:
    """How many rows were deleted."""

    calls: int
    entries: int
    results: int


class Retention(LedgerCore):
    """Sums ended rows and deletes old ones, in short transactions."""

    async def sum_up(self) -> None:
        """Move what has ended since the last time into the sums, so that reports and proofs need not read it again.

        Raises:
            LedgerError: The ledger cannot be used.
        """
        for what in (CALLS, RESULTS):
            moved = _ROWS_AT_ONCE
            while moved == _ROWS_AT_ONCE:
                moved = await self._sum_rows(what)
                await asyncio.sleep(_PAUSE_S)
        while True:
            if not await self._sum_entries():
                return
            await asyncio.sleep(_PAUSE_S)

    async def _sum_rows(self, what: Summed) -> int:
        async def work(tx: Tx) -> int:
            return await sum_ended(tx, what, self.scope, self.timezone, _ROWS_AT_ONCE)

        return await self.database.transact(work, idempotent=True, label="sum")

    async def _sum_entries(self) -> int:
        async def unsummed(tx: Tx) -> bool:
            return bool(
                await tx.fetch(
                    "SELECT seq FROM ledger_event "
                    "WHERE seq > coalesce((SELECT upto FROM ledger_proof WHERE scope = ?), 0) LIMIT 1",
                    self.scope,
                )
            )

        async def work(tx: Tx) -> int:
            upto = await self._lock_journal(tx)
            rows = await tx.fetch(
                "SELECT max(seq) AS last FROM "
                "(SELECT seq FROM ledger_event WHERE seq > ? ORDER BY seq LIMIT ?) AS next",
                *(upto, _ENTRIES_AT_ONCE),
            )
            last = rows[0]["last"]
            if last is None:
                return 0
            sums = await tx.fetch(
                "SELECT month, count(*) AS entries, CAST(sum(d_spent) AS BIGINT) AS d_spent, "
                "CAST(sum(d_held) AS BIGINT) AS d_held, CAST(sum(d_approved) AS BIGINT) AS d_approved "
                "FROM ledger_event WHERE scope = ? AND seq > ? AND seq <= ? GROUP BY month ORDER BY month",
                *(self.scope, upto, last),
            )
            for row in sums:
                await self._add_entries(tx, row, kept=1)
            await tx.execute("UPDATE ledger_proof SET upto = ? WHERE scope = ?", last, self.scope)
            return int(last)

        return await self.database.transact(work, label="sum") if await self.database.read(unsummed) else 0

    async def _lock_journal(self, tx: Tx) -> int:
        """Let no other process sum or delete entries meanwhile; returns the last entry in the sums."""
        await tx.execute(
            "INSERT INTO ledger_proof (scope, upto) VALUES (?, 0) ON CONFLICT (scope) DO NOTHING", self.scope
        )
        await tx.execute("UPDATE ledger_proof SET upto = upto WHERE scope = ?", self.scope)
        if self.database.dialect == "postgresql":
            # Numbers are given before the commit: one below the highest may still be on its way.
            await tx.execute("LOCK TABLE ledger_event IN SHARE MODE")
        rows = await tx.fetch("SELECT upto FROM ledger_proof WHERE scope = ?", self.scope)
        return int(rows[0]["upto"])

    async def _add_entries(self, tx: Tx, row: dict[str, Any], *, kept: int, sign: int = 1) -> None:
        names = ("entries", "d_spent", "d_held", "d_approved")
        await tx.execute(
            "INSERT INTO ledger_event_sum (scope, month, kept, entries, d_spent, d_held, d_approved) "
            "VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (scope, month, kept) DO UPDATE SET "
            "entries = ledger_event_sum.entries + excluded.entries, "
            "d_spent = ledger_event_sum.d_spent + excluded.d_spent, "
            "d_held = ledger_event_sum.d_held + excluded.d_held, "
            "d_approved = ledger_event_sum.d_approved + excluded.d_approved",
            *(self.scope, row["month"], kept, *(sign * row[name] for name in names)),
        )

    async def prune(self, before: float) -> Pruned:
        """Delete ended calls, their journal entries and task records from before a moment; their sums stay.

        Kept all the same: calls that are open or presumed, calls whose answer is stored, and what people decided.

        Args:
            before: Seconds since 1970.

        Raises:
            LedgerError: The ledger cannot be used.
        """
        await self.sum_up()
        return Pruned(
            await self._prune_calls(before),
            await self._prune_entries(before),
            await self._prune_results(before),
        )

    async def _prune_calls(self, before: float) -> int:
        last, deleted = "", 0
        while True:

            async def work(tx: Tx, after: str = last) -> list[dict[str, Any]]:
                rows = await tx.fetch(
                    "DELETE FROM ledger_call WHERE id IN (SELECT id FROM ledger_call c WHERE scope = ? AND id > ? "  # noqa: S608
                    "AND summed = 1 AND closed_at < ? AND NOT EXISTS (SELECT 1 FROM ledger_answer a "
                    "WHERE a.scope = c.scope AND a.step_key = c.step_key) ORDER BY id LIMIT ?) AND summed = 1 "
                    f"RETURNING id, {CALLS.read}",
                    *(self.scope, after, before, _ROWS_AT_ONCE),
                )
                await self._move_to_deleted(tx, CALLS, rows)
                return rows

            rows = await self.database.transact(work, idempotent=True, label="prune")
            if not rows:
                return deleted
            deleted, last = deleted + len(rows), max(row["id"] for row in rows)
            await asyncio.sleep(_PAUSE_S)

    async def _prune_results(self, before: float) -> int:
        deleted = 0
        while True:

            async def work(tx: Tx) -> int:
                rows = await tx.fetch(
                    f"DELETE FROM task_result WHERE ({RESULTS.key}) IN (SELECT {RESULTS.key} FROM task_result "  # noqa: S608
                    "WHERE scope = ? AND summed = 1 AND created_at < ? LIMIT ?) AND summed = 1 "
                    f"RETURNING {RESULTS.read}",
                    *(self.scope, before, _ROWS_AT_ONCE),
                )
                await self._move_to_deleted(tx, RESULTS, rows)
                return len(rows)

            found = await self.database.transact(work, idempotent=True, label="prune")
            if not found:
                return deleted
            deleted += found
            await asyncio.sleep(_PAUSE_S)

    async def _move_to_deleted(self, tx: Tx, what: Summed, rows: list[dict[str, Any]]) -> None:
        await add_to_sums(tx, what, self.scope, self.timezone, rows, sign=-1)
        await add_to_sums(tx, what, self.scope, self.timezone, rows, kept=0)

    async def _prune_entries(self, before: float) -> int:
        last, deleted = 0, 0
        marks = ", ".join("?" for _ in DECISIONS)
        while True:

            async def work(tx: Tx, after: int = last) -> tuple[int | None, int]:
                upto = await self._lock_journal(tx)
                # The last entry in the sums stays: SQLite would give its number again, and the sums pass over it.
                found = await tx.fetch(
                    "SELECT max(seq) AS last, min(at) AS oldest FROM (SELECT seq, at FROM ledger_event "
                    "WHERE seq > ? AND seq < ? ORDER BY seq LIMIT ?) AS next",
                    *(after, upto, _ENTRIES_AT_ONCE),
                )
                end = found[0]["last"]
                if end is None or found[0]["oldest"] >= before:
                    return None, 0
                of = (
                    f"WHERE scope = ? AND seq > ? AND seq <= ? AND at < ? AND what NOT IN ({marks})",
                    (self.scope, after, end, before, *DECISIONS),
                )
                sums = await tx.fetch(
                    "SELECT month, count(*) AS entries, CAST(sum(d_spent) AS BIGINT) AS d_spent, "  # noqa: S608 - marks
                    "CAST(sum(d_held) AS BIGINT) AS d_held, CAST(sum(d_approved) AS BIGINT) AS d_approved "
                    f"FROM ledger_event {of[0]} GROUP BY month ORDER BY month",
                    *of[1],
                )
                for row in sums:
                    await self._add_entries(tx, row, kept=1, sign=-1)
                    await self._add_entries(tx, row, kept=0)
                return int(end), await tx.execute(f"DELETE FROM ledger_event {of[0]}", *of[1])  # noqa: S608 - marks

            end, count = await self.database.transact(work, label="prune")
            if end is None:
                return deleted
            last, deleted = end, deleted + count
            await asyncio.sleep(_PAUSE_S)
