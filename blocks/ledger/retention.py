"""How long rows are kept: ended rows are summed, and old ones deleted. No sum, month or proof changes by it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

from tta_dev_primitives.blocks.ledger.audit import DECISIONS
from tta_dev_primitives.blocks.ledger.core import LedgerCore
from tta_dev_primitives.blocks.ledger.database.protocol import Tx, writes
from tta_dev_primitives.blocks.ledger.sums import CALLS, Summed, delete_summed, sum_ended
from tta_dev_primitives.blocks.ledger.task_records import RESULTS

_ROWS_AT_ONCE = 5_000
_PAGES_AT_ONCE = 100
_CACHE_KIB, _USUAL_CACHE_KIB = 256 * 1024, 2000
_PAGES = "pg_relation_size('{}') / current_setting('block_size')::int"
_ENTRIES_AT_ONCE = 100_000
_ENTRIES_BY_MONTH = (
    "SELECT month, count(*) AS entries, CAST(sum(d_spent) AS BIGINT) AS d_spent, "
    "CAST(sum(d_held) AS BIGINT) AS d_held, CAST(sum(d_approved) AS BIGINT) AS d_approved "
    "FROM ledger_event {} GROUP BY month ORDER BY month"
)
_PAUSE_S = 0.002
"""Between two transactions, so that calls of other processes come in between."""


class Retention(LedgerCore):
    """Sums ended rows and deletes old ones, in short transactions."""

    async def sum_up(self) -> None:
        """Move what has ended since the last time into the sums, so that reports and proofs need not read it again."""
        for what in (CALLS, RESULTS):
            moved = _ROWS_AT_ONCE
            while moved == _ROWS_AT_ONCE:
                moved = await sum_ended(self, what, _ROWS_AT_ONCE)
                await asyncio.sleep(_PAUSE_S)
        while await self._sum_entries():  # noqa: ASYNC110 - a pause between transactions
            await asyncio.sleep(_PAUSE_S)

    async def _sum_entries(self) -> int:
        # A look first: most of the time there is nothing to lock the journal for.
        if not await self.database.fetch(
            "SELECT seq FROM ledger_event "
            "WHERE seq > coalesce((SELECT upto FROM ledger_proof WHERE scope = ?), 0) LIMIT 1",
            self.scope,
        ):
            return 0

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
            for row in await tx.fetch(
                _ENTRIES_BY_MONTH.format("WHERE scope = ? AND seq > ? AND seq <= ?"), self.scope, upto, last
            ):
                await self._add_entries(tx, row, kept=1)
            await tx.execute("UPDATE ledger_proof SET upto = ? WHERE scope = ?", last, self.scope)
            return int(last)

        return await self.database.transact(work, label="sum")

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

    async def prune(self, before: float) -> dict[str, int]:
        """Delete ended calls, their journal entries and task records from before a moment (seconds since 1970).

        Their sums stay. Kept all the same: calls that are open or presumed, calls whose answer is stored, and what
        people decided. Returns how many of each were deleted.
        """
        await self.sum_up()
        async with self._large_cache():
            batches = await self._prune_batches(before)
            # What a batch cost is read from its calls: they stay as long as it does.
            calls = await self._delete(
                CALLS,
                "closed_at < ? AND NOT EXISTS (SELECT 1 FROM ledger_answer a WHERE a.scope = ledger_call.scope "
                "AND a.step_key = ledger_call.step_key) AND NOT EXISTS "
                "(SELECT 1 FROM ledger_batch_line l WHERE l.call_id = ledger_call.id)",
                before,
            )
            entries = await self._prune_entries(before)
            results = await self._delete(RESULTS, "created_at < ?", before)
        return {"calls": calls, "entries": entries, "results": results, "batches": batches}

    @asynccontextmanager
    async def _large_cache(self) -> AsyncGenerator[None]:
        """Let SQLite keep the pages of the indexes meanwhile: rows leave each of them in another order."""
        if self.database.dialect != "sqlite":
            yield
            return
        await self._set_cache(_CACHE_KIB)
        try:
            yield
        finally:
            await self._set_cache(_USUAL_CACHE_KIB)

    @writes("prune", idempotent=True)
    async def _set_cache(self, tx: Tx, kib: int) -> None:
        await tx.fetch(f"PRAGMA cache_size = -{kib}")

    @writes("prune", idempotent=True)
    async def _prune_batches(self, tx: Tx, before: float) -> int:
        old = "scope = ? AND ended_at < ?"
        await tx.execute(
            f"DELETE FROM ledger_batch_line WHERE batch_id IN (SELECT id FROM ledger_batch WHERE {old})",  # noqa: S608
            *(self.scope, before),
        )
        return await tx.execute(f"DELETE FROM ledger_batch WHERE {old}", self.scope, before)  # noqa: S608

    async def _delete(self, what: Summed, where: str, before: float) -> int:
        """Delete summed rows in the order in which they lie in the table, some thousand at a time."""
        deleted = 0
        for place in await self._places(what.table):
            deleted += await delete_summed(self, what, f"{place} AND {where}", before)
            await asyncio.sleep(_PAUSE_S)
        return deleted

    async def _places(self, table: str) -> list[str]:
        """SQL that cuts a table into parts."""
        if self.database.dialect == "sqlite":
            size, step = f"(SELECT max(rowid) FROM {table})", _ROWS_AT_ONCE  # noqa: S608 - fixed text
            part = "rowid >= {} AND rowid < {}"
        else:
            size, step = _PAGES.format(table), _PAGES_AT_ONCE
            part = "ctid >= '({},0)'::tid AND ctid < '({},0)'::tid"
        (row,) = await self.database.fetch(f"SELECT {size} AS size")
        return [part.format(start, start + step) for start in range(0, (row["size"] or 0) + 1, step)]

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
                for row in await tx.fetch(_ENTRIES_BY_MONTH.format(of[0]), *of[1]):
                    await self._add_entries(tx, row, kept=1, sign=-1)
                    await self._add_entries(tx, row, kept=0)
                return int(end), await tx.execute(f"DELETE FROM ledger_event {of[0]}", *of[1])  # noqa: S608 - marks

            end, count = await self.database.transact(work, label="prune")
            if end is None:
                return deleted
            last, deleted = end, deleted + count
            await asyncio.sleep(_PAUSE_S)
