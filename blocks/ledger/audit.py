"""Balances, the journal, and what a person decides: approve, reconcile, resolve."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from tta_dev_primitives.blocks.ledger.core import LedgerCore
from tta_dev_primitives.blocks.ledger.database.protocol import Tx, writes
from tta_dev_primitives.blocks.ledger.money import from_pico, in_usd, to_pico
from tta_dev_primitives.blocks.ledger.month_evidence import forget_anchors
from tta_dev_primitives.blocks.ledger.months import checked_month
from tta_dev_primitives.blocks.ledger.reserve import month_row
from tta_dev_primitives.blocks.ledger.savings_account import move_extra
from tta_dev_primitives.blocks.ledger.settle import insert_month, write_event
from tta_dev_primitives.blocks.ledger.sums import CALLS, move_sums, unsum
from tta_dev_primitives.blocks.ledger.types import (
    SWEPT,
    JournalEntry,
    MonthBalance,
    OpenCall,
    Quarantine,
    Question,
)
from tta_dev_primitives.config.errors import LedgerConfigError, LedgerError

DECISIONS = ("ask", "approve", "decline", "unanswered", "reconcile", "set_month")
"""Entries of the journal that say what people were asked and decided: these are never deleted."""

_COMES_BACK_S = 86_400
"""A process that slept, or was stopped, may end its call this long after the lease; usage pages are late as well."""


def _require_ended(call_id: str, row: dict[str, Any], at: float) -> None:
    until = row["lease_until"] + _COMES_BACK_S
    if row["outcome"] == SWEPT and at < until:
        raise LedgerError(
            f"Ledger: the process of call {call_id} did not report its end; it may still do so, and the money would be "
            f"missing then. Give the amount that was billed, or wait until "
            f"{datetime.fromtimestamp(until, UTC):%Y-%m-%d %H:%M} UTC."
        )


class Audit(LedgerCore):
    """What can be read of a ledger, and corrected in it by a person."""

    async def balance(self, month: str | None = None) -> MonthBalance:
        """The money of a month (default: the current one), `YYYY-MM`."""
        return await self.database.read(lambda tx: self._balance(tx, month))

    async def _balance(self, tx: Tx, month: str | None = None) -> MonthBalance:
        wanted = checked_month(month) if month is not None else await self._current(tx)
        row = await month_row(tx, self.scope, wanted)
        presumed = await tx.fetch(
            "SELECT CAST(coalesce(sum(charged), 0) AS BIGINT) AS n FROM ledger_call "
            "WHERE scope = ? AND month = ? AND state = 'presumed'",
            *(self.scope, wanted),
        )
        return MonthBalance(wanted, presumed=from_pico(presumed[0]["n"]), **in_usd(row, *row))

    @writes("approve")
    async def approve(self, tx: Tx, month: str, amount: Decimal, *, who: str, reason: str) -> Decimal:
        """Raise the limit of one month by `amount` USD; returns all that was approved for it.

        Args:
            amount: USD above 0, on top of the configured limit and earlier approvals.

        Raises:
            LedgerError: No amount, or a month that has not begun: months never go back, so it would begin now.
        """
        pico = to_pico(amount, what="approval")
        if pico == 0:
            raise LedgerConfigError("Ledger: approve an amount above 0 USD")
        wanted = checked_month(month)
        at, current = self._now(tx), await self._current(tx)
        if wanted > current:
            raise LedgerConfigError(
                f"Ledger: month {wanted} has not begun; money is approved for {current} or an earlier one"
            )
        await write_event(tx, self.scope, wanted, None, "approve", (0, 0, pico), who, reason, at)
        rows = await tx.fetch(
            "INSERT INTO ledger_month (scope, month, spent, held, approved) VALUES (?, ?, 0, 0, ?) "
            "ON CONFLICT (scope, month) "
            "DO UPDATE SET approved = ledger_month.approved + excluded.approved RETURNING approved",
            *(self.scope, wanted, pico),
        )
        return from_pico(rows[0]["approved"])

    @writes("set_month")
    async def set_month(self, tx: Tx, month: str, *, who: str, reason: str) -> Decimal:
        """Put the ledger into `month`, which must be the clock's; returns the USD that came from later months.

        Spending and calls of later months, which a wrong clock began, move into it. Approvals of theirs do not.

        Raises:
            LedgerConfigError: It is not the month of the clock, or this process's clock is not the machine's.
        """
        wanted = checked_month(month)
        at = self._now(tx)
        if wanted != self._month(at) or self._misread(at):
            raise LedgerConfigError(
                f"Ledger: this clock says {self._month(at)}, not {wanted}. Set the clock first, then the month."
            )
        later = (self.scope, wanted)
        # The rows of the months are locked first: nothing begins or ends in them meanwhile.
        await tx.execute("UPDATE ledger_month SET held = held WHERE scope = ? AND month >= ?", *later)
        await insert_month(tx, self.scope, wanted)
        await unsum(tx, CALLS, self.scope, self.timezone, "month > ?", wanted)
        await move_sums(tx, CALLS, self.scope, wanted)
        await tx.execute("UPDATE ledger_call SET month = ? WHERE scope = ? AND month > ?", wanted, *later)
        rows = await tx.fetch(
            "SELECT month, spent, held, approved FROM ledger_month WHERE scope = ? AND month > ?", *later
        )
        for row in rows:
            lost = (-row["spent"], -row["held"], -row["approved"])
            await write_event(tx, self.scope, row["month"], None, "set_month", lost, who, reason, at)
        spent, held = sum(row["spent"] for row in rows), sum(row["held"] for row in rows)
        await write_event(tx, self.scope, wanted, None, "set_month", (spent, held, 0), who, reason, at)
        await tx.execute(
            "UPDATE ledger_month SET spent = spent + ?, held = held + ? WHERE scope = ? AND month = ?",
            *(spent, held, self.scope, wanted),
        )
        await tx.execute("DELETE FROM ledger_month WHERE scope = ? AND month > ?", *later)
        await forget_anchors(tx)
        return from_pico(spent)

    @writes("ask")
    async def note_question(
        self, tx: Tx, month: str, what: Question, *, reason: str, who: str | None = None
    ) -> None:
        """Note in the journal that a person is asked for more money, said no, or did not answer; no amount changes."""
        wanted, at = checked_month(month), self._now(tx)
        await write_event(tx, self.scope, wanted, None, what, (0, 0, 0), who, reason, at)

    async def count_answers(self, ending: str) -> int:
        """How many approvals and refusals of all months have a note that ends so."""

        rows = await self.database.fetch(
            "SELECT note FROM ledger_event WHERE scope = ? AND what IN ('approve', 'decline')", self.scope
        )
        return sum((row["note"] or "").endswith(ending) for row in rows)

    async def open_questions(self) -> list[tuple[str, str]]:
        """Questions to people without an answer: the month, and the end of the note, which names the flow run."""

        found: dict[str, str] = {}
        for row in await self.database.fetch(
            "SELECT what, month, note FROM ledger_event WHERE scope = ? "
            "AND what IN ('ask', 'approve', 'decline', 'unanswered') ORDER BY seq",
            self.scope,
        ):
            _, mark, run = (row["note"] or "").rpartition("(flow run ")
            if row["what"] == "ask" and mark:
                found[mark + run] = row["month"]
            else:
                found.pop(mark + run, None)
        return [(month, ending) for ending, month in found.items()]

    @writes("reconcile")
    async def reconcile(
        self, tx: Tx, call_id: str, actual: Decimal | None, *, evidence: str, who: str = ""
    ) -> Decimal:
        """Correct a presumed call with what the provider really billed; returns the change in USD.

        Args:
            call_id: A call in state `presumed`.
            actual: USD billed; None: the provider did not bill it.
            evidence: Where that is known from, such as the provider's usage id; kept in the journal.

        Raises:
            LedgerError: No such call, it is not presumed, no evidence was given, or its process may still
                report what it cost.
        """
        if not evidence.strip():
            raise LedgerConfigError("Ledger: give the evidence, such as the provider's usage or request id")
        charge = 0 if actual is None else to_pico(actual, what="cost")
        state = "released" if actual is None else "settled"
        found: list[dict[str, Any]] = await tx.fetch(
            "SELECT state, month, charged, outcome, lease_until, extra FROM ledger_call WHERE scope = ? AND id = ?",
            self.scope,
            call_id,
        )
        if not found or found[0]["state"] != "presumed":
            is_now = f"is {found[0]['state']}" if found else "is not in this ledger"
            raise LedgerError(f"Ledger: call {call_id} {is_now}; only presumed calls are reconciled")
        month, before, at = str(found[0]["month"]), int(found[0]["charged"]), self._now(tx)
        if charge == 0:
            _require_ended(call_id, found[0], at)
        if not await tx.execute(
            "UPDATE ledger_call SET state = ?, charged = ? WHERE id = ? AND state = 'presumed'",
            *(state, charge, call_id),
        ):
            raise LedgerError(f"Ledger: call {call_id} was closed by another process meanwhile")
        change = charge - before
        await write_event(tx, self.scope, month, call_id, "reconcile", (change, 0, 0), who, evidence, at)
        await tx.execute(
            "UPDATE ledger_month SET spent = spent + ? WHERE scope = ? AND month = ?",
            *(change, self.scope, month),
        )
        if found[0]["extra"] in ("savings", "credit"):
            await move_extra(tx, self.scope, month, change, 0)
        return from_pico(change)

    async def quarantines(self) -> list[Quarantine]:
        """Models and providers that are closed for paid calls."""
        return [
            Quarantine(**row)
            for row in await self.database.fetch(
                "SELECT key, reason, call_id, at FROM ledger_quarantine "
                "WHERE scope = ? AND resolved_at IS NULL ORDER BY at, key",
                self.scope,
            )
        ]

    @writes("resolve", idempotent=True)
    async def resolve(self, tx: Tx, key: str, *, who: str, reason: str) -> int:
        """Open a model or provider for paid calls again; returns how many entries were resolved.

        Raises:
            LedgerError: It is not closed.
        """
        resolved = await tx.execute(
            "UPDATE ledger_quarantine SET resolved_at = ?, resolved_by = ?, resolution = ? "
            "WHERE scope = ? AND key = ? AND resolved_at IS NULL",
            *(self._now(tx), who, reason, self.scope, key),
        )
        if not resolved:
            raise LedgerError(f"Ledger: '{key}' is not closed; `tta ledger show` lists what is")
        return resolved

    async def open_calls(self, month: str) -> list[OpenCall]:
        """A month's calls that are held or presumed, oldest first, with what a person compares with the bill."""
        rows = await self.database.fetch(
            "SELECT id, state, created_at AS at, provider, model, role, "
            "CASE WHEN state = 'held' THEN bound ELSE charged END AS amount, request_id, note "
            "FROM ledger_call WHERE scope = ? AND month = ? AND state IN ('held', 'presumed') "
            "ORDER BY created_at, id",
            *(self.scope, checked_month(month)),
        )
        return [OpenCall(**in_usd(row, "amount")) for row in rows]

    async def months(self) -> list[str]:
        """Every month that has calls, the latest first."""
        return [
            row["month"]
            for row in await self.database.fetch(
                "SELECT month FROM ledger_call_sum WHERE scope = ? UNION "
                "SELECT month FROM ledger_call WHERE scope = ? AND summed = 0 ORDER BY month DESC",
                *(self.scope, self.scope),
            )
        ]

    async def journal(self, month: str, *, decisions: bool = False) -> list[JournalEntry]:
        """The entries of a month's journal that are kept, in order."""
        marks = ", ".join("?" for _ in DECISIONS)
        only = f" AND what IN ({marks})" if decisions else ""
        rows = await self.database.fetch(
            "SELECT month, call_id, what, d_spent AS spent, d_held AS held, d_approved AS approved, who, note, at "  # noqa: S608 - marks
            f"FROM ledger_event WHERE scope = ? AND month = ?{only} ORDER BY seq",
            *(self.scope, checked_month(month), *(DECISIONS if decisions else ())),
        )
        return [JournalEntry(**in_usd(row, "spent", "held", "approved")) for row in rows]
