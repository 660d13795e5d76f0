"""Batches in the ledger: the money of many calls is held in one transaction with the record of their batch.

A content key is open in one batch at most, which the database itself enforces. A batch is submitted at most once:
after a crash between submission and record its state stays `submitting` until the provider's list says more.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Literal

from tta_dev_primitives.blocks.ledger.core import AskDate, LedgerCore
from tta_dev_primitives.blocks.ledger.database.protocol import Tx, in_parts, writes
from tta_dev_primitives.blocks.ledger.money import from_pico, in_usd, pico_ceiling, pico_floor
from tta_dev_primitives.blocks.ledger.reserve import (
    MonthMovedError,
    RefusedError,
    explain_refusal,
    hold_money,
    insert_held,
    month_row,
)
from tta_dev_primitives.blocks.ledger.savings_account import hold_extra
from tta_dev_primitives.blocks.ledger.settle import latest_month, write_event
from tta_dev_primitives.blocks.ledger.types import CallInfo, Hold
from tta_dev_primitives.config.errors import SavingsShortError

LEASE_S = 30 * 3600.0
"""Providers end a batch after 24 hours; the rest is for collecting it."""
BatchState = Literal["submitting", "open", "ended", "failed", "lost"]
_MOST_RACES = 20


@dataclass(frozen=True, slots=True)
class BatchCall:
    """One request of a batch to be: its attempt (with its content key), its cost bound, and what is sent."""

    call: CallInfo
    bound: Decimal
    request: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class NewBatch:
    """The batch that a transaction opens; its id is what the provider is given as metadata."""

    id: str
    provider: str
    model: str
    model_key: str
    key_id: str
    price: str
    """The batch price of the submission, as JSON."""


@dataclass(slots=True)
class Opened:
    """What became of the calls of a new batch. Without `held` there is no batch."""

    held: set[str] = field(default_factory=set)
    """Ids of the calls whose money is held."""
    elsewhere: dict[str, str] = field(default_factory=dict)
    """Content keys that are open in another batch, which is named."""
    stored: set[str] = field(default_factory=set)
    """Content keys whose answer is stored."""
    refused: dict[str, RefusedError] = field(default_factory=dict)
    """Ids of calls that the month does not allow (`busy`: not now)."""
    short: dict[str, SavingsShortError] = field(default_factory=dict)
    """Ids of calls beyond the baseline that the month's savings do not cover."""


@dataclass(frozen=True, slots=True)
class Batch:
    """A batch as the ledger knows it. Money in USD."""

    id: str
    month: str
    state: BatchState
    provider: str
    model: str
    model_key: str
    key_id: str
    provider_batch: str | None
    price: str
    lines: int
    seen: str | None
    """The provider's own words for its state, when it was last asked."""
    submitted_at: float
    ended_at: float | None
    note: str | None
    held: Decimal
    charged: Decimal
    open_lines: int


@dataclass(frozen=True, slots=True)
class OpenLine:
    """A request of a batch whose result has not been settled."""

    call_id: str
    step_key: str
    request: bytes
    hold: Hold
    flow_run_id: str | None
    """The run that pays for it."""


class _RacedError(Exception):
    """Another process took the room or a content key in between."""


class Batches(LedgerCore):
    """The part of a ledger that keeps batches."""

    async def open_batch(
        self, batch: NewBatch, calls: Sequence[BatchCall], limit: Decimal, *, ask_date: AskDate | None = None
    ) -> Opened:
        """Hold the money of as many calls as the month allows, and record their batch, in one transaction.

        Args:
            batch: The batch; repeating it with the same id is safe.
            calls: Its requests, one for each content key.
        """
        ceiling = pico_floor(limit)
        bounds = [pico_ceiling(call.bound, what="bound") for call in calls]

        for _ in range(_MOST_RACES):
            try:
                return await self.database.transact(
                    lambda tx: self._open(tx, batch, calls, bounds, ceiling), idempotent=True, label="batch"
                )
            except MonthMovedError as moved:
                await self.begin_month(moved.latest, self._month(await self._time()), ask_date)
            except _RacedError:
                await asyncio.sleep(0.02)
        busy = RefusedError("busy", "", {"spent": 0, "held": 0, "approved": 0})
        return Opened(refused={call.call.id: busy for call in calls})

    async def _open(
        self, tx: Tx, batch: NewBatch, calls: Sequence[BatchCall], bounds: Sequence[int], limit: int
    ) -> Opened:
        before = await tx.fetch("SELECT call_id FROM ledger_batch_line WHERE batch_id = ?", batch.id)
        if before:
            return Opened(held={row["call_id"] for row in before})
        at, latest = self._now(tx), await latest_month(tx, self.scope)
        month = max(self._month(at), latest or "")
        if latest != month:
            raise MonthMovedError(latest)
        opened = await self._known(tx, [call.call.step_key or "" for call in calls])
        row, total = await month_row(tx, self.scope, month), 0
        chosen: list[tuple[BatchCall, int]] = []
        for call, bound in zip(calls, bounds, strict=True):
            if call.call.step_key in opened.stored or call.call.step_key in opened.elsewhere:
                continue
            try:
                await self._refuse(tx, call.call, bound, limit, month, row, total)
                await hold_extra(tx, self.scope, month, call.call, bound)
            except RefusedError as refused:
                opened.refused[call.call.id] = refused
                continue
            except SavingsShortError as short:
                # Also when only holds stand in the way: they end when a batch does, which takes hours.
                opened.short[call.call.id] = short
                continue
            total += bound
            chosen.append((call, bound))
        if not chosen:
            return opened
        await self._write(tx, batch, chosen, limit, month, at)
        if not await hold_money(tx, self._terms, chosen[0][0].call, total, limit, month):
            raise _RacedError
        opened.held = {call.call.id for call, _ in chosen}
        return opened

    async def _refuse(
        self, tx: Tx, call: CallInfo, bound: int, limit: int, month: str, row: Mapping[str, int], taken: int
    ) -> None:
        """Raise why a call gets no money, with `taken` held by the calls before it."""
        ceiling = limit + row["approved"]
        if not taken:
            # Also says whether the model is closed, once for all calls.
            await explain_refusal(tx, self._terms, call, bound, limit, month)
        if row["spent"] + row["held"] + taken + bound <= ceiling:
            return
        spent = row["spent"]
        reason: Literal["exhausted", "busy"] = "exhausted" if spent + bound > ceiling else "busy"
        raise RefusedError(reason, month, {**row, "held": row["held"] + taken})

    async def _known(self, tx: Tx, keys: Sequence[str]) -> Opened:
        """Which content keys have an answer, or are open in a batch."""
        opened = Opened()
        for marks, some in in_parts(keys):
            answers = await tx.fetch(
                f"SELECT step_key FROM ledger_answer WHERE step_key IN ({marks}) AND scope = ?",  # noqa: S608 - marks only
                *(*some, self.scope),
            )
            lines = await tx.fetch(
                f"SELECT step_key, batch_id FROM ledger_batch_line WHERE step_key IN ({marks}) "  # noqa: S608 - marks only
                "AND scope = ? AND state = 'open'",
                *(*some, self.scope),
            )
            opened.stored.update(row["step_key"] for row in answers)
            opened.elsewhere.update({row["step_key"]: row["batch_id"] for row in lines})
        return opened

    async def _write(
        self,
        tx: Tx,
        batch: NewBatch,
        chosen: Sequence[tuple[BatchCall, int]],
        limit: int,
        month: str,
        at: float,
    ) -> None:
        await tx.execute(
            "INSERT INTO ledger_batch (id, scope, month, state, provider, model, model_key, key_id, price, lines, "
            "submitted_at) VALUES (?, ?, ?, 'submitting', ?, ?, ?, ?, ?, ?, ?)",
            *(batch.id, self.scope, month, batch.provider, batch.model, batch.model_key, batch.key_id),
            *(batch.price, len(chosen), at),
        )
        for one, bound in chosen:
            call = one.call
            if not await tx.execute(
                "INSERT INTO ledger_batch_line (call_id, scope, batch_id, step_key, state, request) "
                "VALUES (?, ?, ?, ?, 'open', ?) ON CONFLICT DO NOTHING",
                *(call.id, self.scope, batch.id, call.step_key, one.request),
            ):
                raise _RacedError
            await insert_held(tx, self._terms, call, bound, limit, month, at, at + LEASE_S)
            await write_event(tx, self.scope, month, call.id, "reserve", (0, bound, 0), None, None, at)

    @writes("batch_submitted", idempotent=True)
    async def batch_submitted(self, tx: Tx, batch_id: str, provider_batch: str) -> bool:
        """Record the provider's id of a batch; False when it was given up meanwhile."""
        return bool(
            await tx.execute(
                "UPDATE ledger_batch SET state = 'open', provider_batch = ? "
                "WHERE id = ? AND scope = ? AND (state = 'submitting' OR provider_batch = ?)",
                *(provider_batch, batch_id, self.scope, provider_batch),
            )
        )

    @writes("batch_seen", idempotent=True)
    async def batch_seen(self, tx: Tx, batch_id: str, words: str) -> None:
        """Keep what the provider said of a batch's state."""
        sql = "UPDATE ledger_batch SET seen = ? WHERE id = ? AND scope = ?"
        await tx.execute(sql, words[:80], batch_id, self.scope)

    @writes("batch_end", idempotent=True)
    async def end_batch(self, tx: Tx, batch_id: str, state: BatchState, note: str | None = None) -> None:
        """Close a batch whose holds have ended: its content keys may be submitted again, its requests are deleted."""
        sql = "UPDATE ledger_batch_line SET state = 'done', request = NULL WHERE batch_id = ?"
        await tx.execute(sql, batch_id)
        await tx.execute(
            "UPDATE ledger_batch SET state = ?, ended_at = ?, note = ? WHERE id = ? AND scope = ?",
            *(state, self._now(tx), None if note is None else note[:500], batch_id, self.scope),
        )

    async def batches(self, *, ids: Sequence[str] = ()) -> list[Batch]:
        """The newest thousand batches, or those with `ids`, with their money; the newest first."""
        which = f" AND b.id IN ({', '.join('?' for _ in ids)})" if ids else ""
        rows = await self.database.fetch(
            "SELECT b.id, b.month, b.state, b.provider, b.model, b.model_key, b.key_id, b.provider_batch, "  # noqa: S608 - marks only
            "b.price, b.lines, b.seen, b.submitted_at, b.ended_at, b.note, "
            "CAST(coalesce(sum(CASE WHEN c.state = 'held' THEN c.bound ELSE 0 END), 0) AS BIGINT) AS held, "
            "CAST(coalesce(sum(c.charged), 0) AS BIGINT) AS charged, "
            "coalesce(sum(CASE WHEN l.state = 'open' THEN 1 ELSE 0 END), 0) AS open_lines "
            "FROM ledger_batch b LEFT JOIN ledger_batch_line l ON l.batch_id = b.id "
            f"LEFT JOIN ledger_call c ON c.id = l.call_id WHERE b.scope = ?{which} "
            "GROUP BY b.id ORDER BY b.submitted_at DESC, b.id LIMIT 1000",
            *(self.scope, *ids),
        )
        return [Batch(**in_usd(row, "held", "charged")) for row in rows]

    async def open_lines(self, batch_id: str) -> list[OpenLine]:
        """The requests of a batch that wait for their result."""
        return [
            OpenLine(
                row["call_id"],
                row["step_key"],
                bytes(row["request"]),
                Hold(row["call_id"], row["month"], from_pico(row["bound"])),
                row["flow_run_id"],
            )
            for row in await self.database.fetch(
                "SELECT l.call_id, l.step_key, l.request, c.month, c.bound, c.flow_run_id "
                "FROM ledger_batch_line l JOIN ledger_call c ON c.id = l.call_id "
                "WHERE l.batch_id = ? AND l.scope = ? AND l.state = 'open' ORDER BY l.call_id",
                *(batch_id, self.scope),
            )
        ]
