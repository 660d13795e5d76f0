"""Answers that were paid for, kept under their content key; and the rows of free calls."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from decimal import Decimal

from tta_dev_primitives.blocks.ledger.core import LedgerCore, closed_text, pico_or_none
from tta_dev_primitives.blocks.ledger.database.protocol import Tx, in_parts, reads, writes
from tta_dev_primitives.blocks.ledger.failpoints import failpoint
from tta_dev_primitives.blocks.ledger.money import pico_ceiling
from tta_dev_primitives.blocks.ledger.settle import (
    FREE_CALL,
    Answer,
    close_key_for,
    closing_values,
    store_answer,
    write_event,
)
from tta_dev_primitives.blocks.ledger.types import CallInfo, Kept, KeptAnswer, Outcome, StoredAnswer
from tta_dev_primitives.config.errors import QuarantinedError

_log = logging.getLogger("tta_dev_primitives.ledger")


class Answers(LedgerCore):
    """The answer store of a ledger."""

    @writes("record", idempotent=True)
    async def record_free(
        self,
        tx: Tx,
        call: CallInfo,
        outcome: Outcome,
        *,
        billed: Decimal = Decimal(0),
        answer: Answer | None = None,
        seconds: float = 0.0,
    ) -> None:
        """Record a call of a free model; the month's money is not touched.

        Args:
            seconds: How long it took.
            billed: USD the provider says it took all the same: charged, and the model is closed.
        """
        charge, at = pico_ceiling(billed, what="cost"), self._now(tx)
        month, scope = await self._current(tx) if charge else self._month(at), self.scope
        failpoint("record.begun")
        if answer is not None:
            await store_answer(tx, scope, call.id, answer, at)
        inserted = await tx.execute(
            FREE_CALL,
            *(call.id, scope, month, "paid" if charge else "free", charge),
            *(call.provider, call.model, call.model_key, call.role, call.use_case, call.step_key),
            *(call.flow_run_id, call.task_run_id, call.step_key, self._terms.owner, at - seconds, at),
            *closing_values(at, outcome, pico_or_none(outcome.list_value), None),
        )
        if charge and inserted:
            note = outcome.note_text()
            await write_event(tx, scope, month, call.id, "billed", (charge, 0, 0), None, note, at)
            await close_key_for(tx, scope, call.model_key, call.id, outcome, at)
            await tx.execute(
                "INSERT INTO ledger_month (scope, month, spent, held, approved) VALUES (?, ?, ?, 0, 0) "
                "ON CONFLICT (scope, month) DO UPDATE SET spent = ledger_month.spent + excluded.spent",
                *(scope, month, charge),
            )

    @reads
    async def lookup(self, tx: Tx, step_key: str, *keys: str) -> StoredAnswer | None:
        """The stored answer.

        Raises:
            QuarantinedError: There is none, and the model or provider with one of `keys` is closed.
        """
        rows = await tx.fetch(
            "SELECT call_id, body, sha256 FROM ledger_answer WHERE scope = ? AND step_key = ?",
            *(self.scope, step_key),
        )
        if not rows:
            closed = await self._closed(tx, keys)
            if closed is not None:
                raise closed
            return None
        body = bytes(rows[0]["body"])
        if hashlib.sha256(body).hexdigest() != rows[0]["sha256"]:
            _log.warning("Ledger: the answer stored under %s is damaged and is not used", step_key)
            return None
        return StoredAnswer(step_key, rows[0]["call_id"], body)

    async def _closed(self, tx: Tx, keys: Sequence[str]) -> QuarantinedError | None:
        if not keys:
            return None
        rows = await tx.fetch(
            f"SELECT key, reason FROM ledger_quarantine WHERE key IN ({', '.join('?' * len(keys))}) "  # noqa: S608
            "AND scope = ? AND resolved_at IS NULL LIMIT 1",
            *(*keys, self.scope),
        )
        return QuarantinedError(closed_text(**rows[0]), key=rows[0]["key"]) if rows else None

    @reads
    async def missing(self, tx: Tx, step_keys: Sequence[str], closable: Sequence[str]) -> list[str]:
        """Those of `step_keys` without a stored answer; none of them when one of `closable` is closed."""
        if await self._closed(tx, closable):
            return []
        found: set[str] = set()
        for marks, keys in in_parts(step_keys):
            rows = await tx.fetch(
                f"SELECT step_key FROM ledger_answer WHERE step_key IN ({marks}) AND scope = ?",  # noqa: S608 - marks only
                *(*keys, self.scope),
            )
            found.update(row["step_key"] for row in rows)
        return [key for key in step_keys if key not in found]

    @writes("forget", idempotent=True)
    async def forget_answer(self, tx: Tx, step_key: str) -> None:
        """Delete the answer kept under a content key, so that it is asked for anew."""
        await tx.execute("DELETE FROM ledger_answer WHERE scope = ? AND step_key = ?", self.scope, step_key)

    @reads
    async def kept_answers(self, tx: Tx, before: float, *, most: int) -> tuple[Kept, list[KeptAnswer]]:
        """What is stored from before a moment (seconds since 1970): the sums, and the newest `most` one by one."""
        (sums,) = await tx.fetch(
            "SELECT count(*) AS answers, CAST(coalesce(sum(length(body)), 0) AS BIGINT) AS size, "
            "min(created_at) AS oldest FROM ledger_answer WHERE scope = ? AND created_at < ?",
            *(self.scope, before),
        )
        rows = await tx.fetch(
            "SELECT a.step_key, a.created_at AS at, length(a.body) AS size, c.provider, c.model, c.role, "
            "c.use_case FROM ledger_answer a LEFT JOIN ledger_call c ON c.id = a.call_id "
            "WHERE a.scope = ? AND a.created_at < ? ORDER BY a.created_at DESC, a.step_key LIMIT ?",
            *(self.scope, before, most),
        )
        return Kept(**sums), [KeptAnswer(**row) for row in rows]

    @writes("forget", idempotent=True)
    async def forget_answers(self, tx: Tx, before: float) -> int:
        """Delete the answers kept before a moment (seconds since 1970); returns how many."""
        old = "WHERE scope = ? AND created_at < ?"
        await tx.execute(f"DELETE FROM task_decision {old}", self.scope, before)  # noqa: S608 - fixed text
        return await tx.execute(f"DELETE FROM ledger_answer {old}", self.scope, before)  # noqa: S608 - fixed text
