"""The statements behind reserve, and why one is refused. Amounts here are integer pico-USD."""

from __future__ import annotations

from typing import Literal

from tta_dev_primitives.blocks.ledger.database.protocol import Tx
from tta_dev_primitives.blocks.ledger.failpoints import failpoint
from tta_dev_primitives.blocks.ledger.money import from_pico
from tta_dev_primitives.blocks.ledger.savings_account import hold_extra
from tta_dev_primitives.blocks.ledger.settle import ATTEMPT, INSERT_CALL, Terms, latest_month, write_event
from tta_dev_primitives.blocks.ledger.types import CallInfo, Hold
from tta_dev_primitives.config.errors import LedgerError, SavingsShortError


class RefusedError(Exception):
    """No money was set aside; rolls the reservation back."""

    def __init__(
        self,
        reason: Literal["exhausted", "too_big", "busy", "quarantined"],
        month: str,
        row: dict[str, int],
        *,
        key: str = "",
        note: str = "",
    ) -> None:
        super().__init__(reason)
        self.reason = reason
        self.month = month
        self.spent, self.held, self.approved = row["spent"], row["held"], row["approved"]
        self.key, self.note = key, note


class MonthMovedError(Exception):
    """The ledger is in another month: a later one, which never goes back, or an earlier one, which may have ended."""

    def __init__(self, latest: str | None) -> None:
        super().__init__(latest or "")
        self.latest = latest


_RESERVE_CALL = (
    f"{INSERT_CALL}, extra) VALUES (?, ?, ?, 'held', 'paid', ?, 0, ?, ?, ?, ?, ?, ?, ?, ?, ?, {ATTEMPT}, ?, ?, ?, ?) "
    "ON CONFLICT (id) DO NOTHING"
)
_HOLD_MONEY = (
    "UPDATE ledger_month SET held = held + ? "
    "WHERE scope = ? AND month = ? AND spent + held + ? <= ? + approved "
    "AND NOT EXISTS (SELECT 1 FROM ledger_month later WHERE later.scope = ? AND later.month > ?) "
    "AND NOT EXISTS (SELECT 1 FROM ledger_quarantine closed WHERE closed.scope = ? AND closed.key IN (?, ?) "
    "AND closed.resolved_at IS NULL)"
)


async def reserve_call(
    tx: Tx, terms: Terms, call: CallInfo, bound: int, limit: int, month: str, at: float
) -> Hold:
    """Set `bound` aside for `call`; the same id, bound and state again is granted again.

    Raises:
        RefusedError: No room under `limit`, or the model is closed.
        MonthMovedError: `month` is over, or has yet to begin; it names the ledger's.
        SavingsShortError: The month's savings do not cover an extra call.
        LedgerError: The id was used for something else.
    """
    failpoint("reserve.begun")
    if not await insert_held(tx, terms, call, bound, limit, month, at, at + call.deadline_s + 60):
        return await _granted_before(tx, terms, call, bound)
    failpoint("reserve.after_call")
    await write_event(tx, terms.scope, month, call.id, "reserve", (0, bound, 0), None, None, at)
    failpoint("reserve.after_event")
    try:
        await hold_extra(tx, terms.scope, month, call, bound)
    except SavingsShortError:
        # The wrong month has no savings, and a spent budget is said first.
        await explain_refusal(tx, terms, call, bound, limit, month)
        raise
    if not await hold_money(tx, terms, call, bound, limit, month):
        await explain_refusal(tx, terms, call, bound, limit, month)
        if not await hold_money(tx, terms, call, bound, limit, month):
            await explain_refusal(tx, terms, call, bound, limit, month)
            raise RefusedError("busy", month, await month_row(tx, terms.scope, month))
    failpoint("reserve.after_month")
    return Hold(call.id, month, from_pico(bound))


async def insert_held(
    tx: Tx, terms: Terms, call: CallInfo, bound: int, limit: int, month: str, at: float, lease: float
) -> int:
    """Write the row of a held call; 0 when its id is there already. The month's row is the caller's."""
    return await tx.execute(
        _RESERVE_CALL,
        *(call.id, terms.scope, month, bound, limit, call.provider, call.model, call.model_key, call.role),
        *(call.use_case, call.step_key, call.flow_run_id, call.task_run_id, call.step_key),
        *(terms.owner, at, lease, call.extra),
    )


async def hold_money(tx: Tx, terms: Terms, call: CallInfo, bound: int, limit: int, month: str) -> bool:
    """Set `bound` aside in the month's row; False when it does not allow that."""
    keys = (call.model_key, call.provider_key)
    scope = terms.scope
    return bool(await tx.execute(_HOLD_MONEY, bound, scope, month, bound, limit, scope, month, scope, *keys))


async def _granted_before(tx: Tx, terms: Terms, call: CallInfo, bound: int) -> Hold:
    (row,) = await tx.fetch("SELECT scope, month, state, bound FROM ledger_call WHERE id = ?", call.id)
    if (row["scope"], row["state"], row["bound"]) != (terms.scope, "held", bound):
        raise LedgerError(
            f"Ledger: call {call.id} was already used ({row['state']}); every attempt takes a new id"
        )
    return Hold(call.id, row["month"], from_pico(bound))


async def explain_refusal(tx: Tx, terms: Terms, call: CallInfo, bound: int, limit: int, month: str) -> None:
    """Raise why no money was held; return when there is room after all."""
    latest = await latest_month(tx, terms.scope)
    if latest != month:
        raise MonthMovedError(latest)
    row = await month_row(tx, terms.scope, month)
    closed = await tx.fetch(
        "SELECT key, reason FROM ledger_quarantine WHERE scope = ? AND key IN (?, ?) AND resolved_at IS NULL",
        *(terms.scope, call.model_key, call.provider_key),
    )
    if closed:
        raise RefusedError("quarantined", month, row, key=closed[0]["key"], note=closed[0]["reason"])
    ceiling = limit + row["approved"]
    if bound > ceiling and row["spent"] < ceiling:
        raise RefusedError("too_big", month, row)
    if row["spent"] + bound > ceiling:
        raise RefusedError("exhausted", month, row)
    if row["spent"] + row["held"] + bound > ceiling:
        raise RefusedError("busy", month, row)


async def month_row(tx: Tx, scope: str, month: str) -> dict[str, int]:
    """What is spent, held and approved in a month."""
    rows = await tx.fetch(
        "SELECT spent, held, approved FROM ledger_month WHERE scope = ? AND month = ?", scope, month
    )
    return rows[0] if rows else {"spent": 0, "held": 0, "approved": 0}
