"""The spend ledger: money is set aside before a call and settled after it, under any number of processes.

For every month: billed by providers <= spent (+ held) <= limit, exact to 1e-12 USD, provided that every paid
call goes through `call.guarded_send`, that its bound holds, that prices are right or too high, that the
ledger is neither deleted nor restored from an old copy, and that nothing else spends the same key.
"""

from __future__ import annotations

import asyncio
import random
import time
from decimal import Decimal

from tta_dev_primitives.blocks.ledger.alerts import Alerts
from tta_dev_primitives.blocks.ledger.answer_store import Answers
from tta_dev_primitives.blocks.ledger.audit import Audit
from tta_dev_primitives.blocks.ledger.batches import Batches
from tta_dev_primitives.blocks.ledger.core import AskDate, closed_text, pico_or_none
from tta_dev_primitives.blocks.ledger.database.protocol import Tx, reads
from tta_dev_primitives.blocks.ledger.money import from_pico, pico_ceiling, pico_floor
from tta_dev_primitives.blocks.ledger.proof import Proof
from tta_dev_primitives.blocks.ledger.reserve import MonthMovedError, RefusedError, reserve_call
from tta_dev_primitives.blocks.ledger.retention import Retention
from tta_dev_primitives.blocks.ledger.savings_account import SavingsAccount, read_account
from tta_dev_primitives.blocks.ledger.settle import (
    Answer,
    Closed,
    Closing,
    close_call,
    ending_name,
    lapsed_calls,
)
from tta_dev_primitives.blocks.ledger.shielded import uninterrupted
from tta_dev_primitives.blocks.ledger.types import (
    SWEPT,
    CallInfo,
    Glance,
    Hold,
    Outcome,
)
from tta_dev_primitives.config.errors import (
    BudgetExceededError,
    LedgerBusyError,
    OrchestrationError,
    QuarantinedError,
)

_SWEEP_AT_ONCE = 200


class Ledger(Answers, Alerts, Audit, Batches, Proof, Retention):
    """One budget's ledger. Its arguments are those of `LedgerCore`.

    Every method raises `LedgerError` when the ledger cannot be used.
    """

    async def reserve(
        self,
        call: CallInfo,
        bound: Decimal,
        limit: Decimal,
        *,
        wait_busy_s: float = 0.0,
        ask_date: AskDate | None = None,
    ) -> Hold:
        """Set `bound` USD aside for one attempt. With the same call id it is safe to repeat.

        Args:
            call: The attempt; its id must be new for each attempt.
            limit: The month's limit in force now; approvals of the month are added to it.
            ask_date: Asks a provider for the time, when a month must begin and nothing else confirms it.

        Raises:
            WrongClockError: A month would begin, and more than this process says that it has not come.
            BudgetExceededError: `reason` is `exhausted`, or `too_big` when no month could pay this call.
            LedgerBusyError: Only calls in flight stood in the way all that time.
            QuarantinedError: The model or provider is closed after a wrong bill.
            SavingsShortError: An extra call that the month's savings do not cover.
            LedgerError: The ledger cannot be used, or an amount is not one.
        """
        pico, ceiling = pico_ceiling(bound, what="bound"), pico_floor(limit)
        deadline, pause, swept = time.monotonic() + wait_busy_s, 0.02, False
        latest = ""
        while True:
            try:
                return await self._reserve_once(call, pico, ceiling, latest)
            except MonthMovedError as moved:
                month = self._month(await self._time())
                latest = moved.latest or ""
                if latest < month:
                    await self.begin_month(moved.latest, month, ask_date)
                continue
            except RefusedError as why:
                refused = why
            if refused.reason != "quarantined" and not swept and await self.sweep():
                swept = True
                continue
            swept = True
            if refused.reason != "busy" or time.monotonic() >= deadline:
                raise await self.refusal(refused, bound, limit)
            await asyncio.sleep(pause * (0.5 + random.random()))  # noqa: S311 - jitter, not a secret
            pause = min(pause * 2, 0.5)

    async def _reserve_once(self, call: CallInfo, bound: int, limit: int, latest: str) -> Hold:
        async def work(tx: Tx) -> Hold:
            at = self._now(tx)
            return await reserve_call(tx, self._terms, call, bound, limit, max(self._month(at), latest), at)

        reserve = self.database.transact(work, idempotent=True, label="reserve")
        try:
            # SQLite works off its queue in order: a release that follows a cancelled reservation finds it.
            # PostgreSQL may run the two at once, so there the reservation is waited for first.
            if self.database.dialect == "sqlite":
                return await reserve
            return await uninterrupted(reserve)
        except asyncio.CancelledError:
            # Nothing was sent: give the money back, if it was set aside at all.
            await uninterrupted(self.release(call.id, "cancelled before sending"))
            raise

    async def refusal(self, refused: RefusedError, bound: Decimal, limit: Decimal) -> OrchestrationError:
        """Why a call got no money, in words; raises the alert of a spent budget."""
        if refused.reason == "quarantined":
            return QuarantinedError(closed_text(refused.key, refused.note), key=refused.key)
        ceiling = pico_floor(limit) + refused.approved
        spent, held, total = from_pico(refused.spent), from_pico(refused.held), from_pico(ceiling)
        if refused.reason == "busy":
            return LedgerBusyError(
                f"Budget: month {refused.month}: spent {spent:f} and {held:f} held by calls in flight of "
                f"{total:f} USD; this call needs up to {bound:f}. Try again when they have ended.",
                month=refused.month,
                limit=total,
                spent=spent,
                held=held,
                needed=bound,
            )
        message = None
        if refused.reason == "too_big":
            message = (
                f"Budget: this call needs up to {bound:f} USD, more than the whole limit of {total:f} for "
                f"month {refused.month}. Raise cost_tracking.budget_limit_usd or lower max_output_tokens."
            )
        else:
            await self.alert_exhausted(refused.month, spent, total)
        return BudgetExceededError(
            message,
            month=refused.month,
            limit=total,
            spent=spent,
            held=held,
            needed=bound,
            reason=refused.reason,
        )

    async def settle(
        self,
        hold: Hold | str,
        actual: Decimal,
        *,
        outcome: Outcome | None = None,
        answer: Answer | None = None,
        close_key: str | None = None,
    ) -> Closed:
        """End a call with its true cost; a second settle of the same call changes nothing.

        Args:
            actual: USD that were billed.
            close_key: A model or provider to close for paid calls in the same transaction.
        """
        charge = pico_ceiling(actual, what="cost")
        return await self._close(hold, "settled", charge, outcome or Outcome(), answer, close_key)

    async def release(
        self, hold: Hold | str, reason: str, *, outcome: str = "released", details: Outcome | None = None
    ) -> Closed:
        """Give the money back: only when the request did not reach the model, or was refused unbilled.

        Args:
            hold: What `reserve` gave, or its id.
            reason: Why, for the journal.
            outcome: The error class, for the report.
            details: More of what the call's row keeps, instead of `reason` and `outcome`.
        """
        found = details or Outcome(outcome=outcome, note=reason)
        return await self._close(hold, "released", 0, found, None, None)

    async def charge_at_bound(
        self,
        hold: Hold | str,
        reason: str,
        *,
        outcome: Outcome | None = None,
        answer: Answer | None = None,
        close_key: str | None = None,
    ) -> Closed:
        """Charge the full bound: what was billed is unknown. A later `settle` puts in the true cost."""
        found = outcome or Outcome(outcome="unknown", note=reason)
        return await self._close(hold, "presumed", None, found, answer, close_key)

    async def _close(
        self,
        hold: Hold | str,
        closing: Closing,
        charge: int | None,
        outcome: Outcome,
        answer: Answer | None,
        close_key: str | None,
    ) -> Closed:
        call_id = hold if isinstance(hold, str) else hold.id
        amounts = (pico_or_none(outcome.list_value), pico_or_none(outcome.baseline))

        async def work(tx: Tx) -> Closed:
            return await close_call(
                tx, self._terms, call_id, closing, charge, outcome,
                at=self._now(tx), amounts=amounts, answer=answer, close_key=close_key,
            )  # fmt: skip

        closed: Closed = await self.database.transact(work, idempotent=True, label=ending_name(closing))
        self._terms.alerted.update(closed.alerts)
        return closed

    @reads
    async def glance(self, tx: Tx) -> Glance:
        """The current month's money, whether holds have lapsed and whether alerts are due, in one read."""
        lapsed = await lapsed_calls(tx, self.scope, self._now(tx), 1)
        return Glance(await self._balance(tx), bool(lapsed), await self._alerts_due(tx))

    @reads
    async def savings(self, tx: Tx, month: str | None = None) -> SavingsAccount:
        """The savings of a month (default: the current one)."""
        return await read_account(tx, self.scope, month or await self._current(tx))

    async def charged_by_choice(self, month: str) -> Decimal:
        """USD charged in a month for calls that the user asked for whatever they save: plans, verdicts, dear models."""
        (row,) = await self.database.fetch(
            "SELECT coalesce(sum(charged), 0) AS usd FROM ledger_call "
            "WHERE scope = ? AND month = ? AND extra = 'choice'",
            *(self.scope, month),
        )
        return from_pico(int(row["usd"]))

    async def answer_lengths(self, orchestrator: str) -> dict[int, tuple[int, float, float]]:
        """By length class: pairs of an executor's and the orchestrator's answer, sums of their ratios and squares."""
        rows = await self.database.fetch(
            "SELECT length_class, pairs, ratios, squares FROM answer_length WHERE scope = ? AND orchestrator = ?",
            *(self.scope, orchestrator),
        )
        return {row["length_class"]: (row["pairs"], row["ratios"], row["squares"]) for row in rows}

    async def sweep(self) -> int:
        """Charge the bound of calls whose process died or hung, after their lease; returns how many."""
        swept = 0
        lost = Outcome(outcome=SWEPT, note="its process ended or hung: charged at the bound")
        while ids := await self._lapsed():
            closed = await asyncio.gather(*(self.charge_at_bound(one, "", outcome=lost) for one in ids))
            swept += sum(one.changed for one in closed)
        return swept

    @reads
    async def _lapsed(self, tx: Tx) -> list[str]:
        at = self._now(tx)
        return [] if self._misread(at) else await lapsed_calls(tx, self.scope, at, _SWEEP_AT_ONCE)
