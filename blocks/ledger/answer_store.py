"""Answers that were paid for, kept under their content key; and the rows of free calls."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

from tta_dev_primitives.blocks.ledger.core import LedgerCore, closed_text, pico_or_none
from tta_dev_primitives.blocks.ledger.database.protocol import Tx, in_parts
from tta_dev_primitives.blocks.ledger.money import pico_ceiling
from tta_dev_primitives.blocks.ledger.settle import Answer, free_call
from tta_dev_primitives.blocks.ledger.types import CallInfo, Kept, KeptAnswer, Outcome, StoredAnswer
from tta_dev_primitives.config.errors import QuarantinedError

_log = logging.getLogger("tta_dev_primitives.ledger")


class Answers(LedgerCore):
    """The answer store of a ledger."""

    async def record_free(
        self,
        call: CallInfo,
        outcome: Outcome,
        *,
        billed: Decimal = Decimal(0),
        answer: Answer | None = None,
    ) -> None:
        """Record a call of a free model; the month's money is not touched.

        Args:
            billed: USD the provider says it took all the same: charged, and the model is closed.
        """
        list_value = pico_or_none(outcome.list_value)
        charge = pico_ceiling(billed, what="cost")

        async def work(tx: Tx) -> None:
            at = self._now(tx)
            month = await self._current(tx) if charge else self._month(at)
            await free_call(
                tx,
                self._terms,
                call,
                outcome,
                list_value=list_value,
                month=month,
                at=at,
                answer=answer,
                charge=charge,
            )

        await self.database.transact(work, idempotent=True, label="record")

    async def lookup(self, step_key: str, *keys: str) -> tuple[StoredAnswer | None, QuarantinedError | None]:
        """The stored answer, and why the model or provider with one of `keys` is closed, if it is."""

        async def work(tx: Tx) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
            found = await tx.fetch(
                "SELECT call_id, body, sha256 FROM ledger_answer WHERE scope = ? AND step_key = ?",
                *(self.scope, step_key),
            )
            if found or not keys:
                return found, []
            marks = ", ".join("?" for _ in keys)
            return found, await tx.fetch(
                f"SELECT key, reason FROM ledger_quarantine WHERE key IN ({marks}) "  # noqa: S608 - marks only
                "AND scope = ? AND resolved_at IS NULL",
                *(*keys, self.scope),
            )

        rows, closed = await self.database.read(work)
        if closed:
            key = closed[0]["key"]
            return None, QuarantinedError(closed_text(key, closed[0]["reason"]), key=key)
        if not rows:
            return None, None
        body = bytes(rows[0]["body"])
        if hashlib.sha256(body).hexdigest() != rows[0]["sha256"]:
            _log.warning("Ledger: the answer stored under %s is damaged and is not used", step_key)
            return None, None
        return StoredAnswer(step_key, rows[0]["call_id"], body), None

    async def missing(self, step_keys: Sequence[str], closable: Sequence[str]) -> list[str]:
        """Those of `step_keys` without a stored answer; none of them when one of `closable` is closed."""

        async def work(tx: Tx) -> set[str]:
            marks = ", ".join("?" for _ in closable)
            if closable and await tx.fetch(
                f"SELECT key FROM ledger_quarantine WHERE key IN ({marks}) "  # noqa: S608 - marks only
                "AND scope = ? AND resolved_at IS NULL LIMIT 1",
                *(*closable, self.scope),
            ):
                return set(step_keys)
            found: set[str] = set()
            for marks, keys in in_parts(step_keys):
                rows = await tx.fetch(
                    f"SELECT step_key FROM ledger_answer WHERE step_key IN ({marks}) "  # noqa: S608 - marks only
                    "AND scope = ?",
                    *(*keys, self.scope),
                )
                found.update(row["step_key"] for row in rows)
            return found

        found = await self.database.read(work) if step_keys else set()
        return [key for key in step_keys if key not in found]

    async def forget_answer(self, step_key: str) -> None:
        """Delete the answer kept under a content key, so that it is asked for anew."""
        await self.database.transact(
            lambda tx: tx.execute(
                "DELETE FROM ledger_answer WHERE scope = ? AND step_key = ?", self.scope, step_key
            ),
            idempotent=True,
            label="forget",
        )

    async def kept_answers(self, before: float, *, most: int) -> tuple[Kept, list[KeptAnswer]]:
        """What is stored from before a moment (seconds since 1970): the sums, and the newest `most` one by one."""

        async def work(tx: Tx) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
            sums = await tx.fetch(
                "SELECT count(*) AS answers, CAST(coalesce(sum(length(body)), 0) AS BIGINT) AS size, "
                "min(created_at) AS oldest FROM ledger_answer WHERE scope = ? AND created_at < ?",
                *(self.scope, before),
            )
            return sums, await tx.fetch(
                "SELECT a.step_key, a.created_at AS at, length(a.body) AS size, c.provider, c.model, c.role, "
                "c.use_case FROM ledger_answer a LEFT JOIN ledger_call c ON c.id = a.call_id "
                "WHERE a.scope = ? AND a.created_at < ? ORDER BY a.created_at DESC, a.step_key LIMIT ?",
                *(self.scope, before, most),
            )

        sums, rows = await self.database.read(work)
        return Kept(**sums[0]), [KeptAnswer(**row) for row in rows]

    async def forget_answers(self, before: float) -> int:
        """Delete the answers kept before a moment (seconds since 1970); returns how many."""

        async def work(tx: Tx) -> int:
            await tx.execute(
                "DELETE FROM task_decision WHERE scope = ? AND created_at < ?", self.scope, before
            )
            return await tx.execute(
                "DELETE FROM ledger_answer WHERE scope = ? AND created_at < ?", self.scope, before
            )

        return await self.database.transact(work, idempotent=True, label="forget")
