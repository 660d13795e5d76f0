"""Budget alerts: put into an outbox by the transaction that crosses a line, sent afterwards, once."""

from __future__ import annotations

from decimal import Decimal

from tta_dev_primitives.blocks.ledger.core import EXHAUSTED_BP, LedgerCore
from tta_dev_primitives.blocks.ledger.database.protocol import Tx, writes
from tta_dev_primitives.blocks.ledger.money import from_pico, in_usd, to_pico
from tta_dev_primitives.blocks.ledger.settle import insert_alert
from tta_dev_primitives.blocks.ledger.types import Alert


class Alerts(LedgerCore):
    """The alert outbox of a ledger."""

    async def alert_exhausted(self, month: str, spent: Decimal, limit: Decimal) -> None:
        """Put the alert of a spent month into the outbox, once; no call crosses a limit that was lowered."""
        if (month, EXHAUSTED_BP) not in self._terms.alerted:
            await self._put_exhausted(month, to_pico(spent), to_pico(limit))
            self._terms.alerted.add((month, EXHAUSTED_BP))

    @writes("alert", idempotent=True)
    async def _put_exhausted(self, tx: Tx, month: str, spent: int, limit: int) -> None:
        await insert_alert(tx, self.scope, month, EXHAUSTED_BP, spent, limit)

    async def exhausted_limit(self, month: str) -> Decimal | None:
        """The limit in USD at which the month was said to be spent; None while it was not.

        A refused call says so before settled spending reaches the limit.
        """

        rows = await self.database.fetch(
            "SELECT limit_seen FROM ledger_alert WHERE scope = ? AND month = ? AND threshold_bp = ?",
            *(self.scope, month, EXHAUSTED_BP),
        )
        return from_pico(rows[0]["limit_seen"]) if rows else None

    @writes("alert")
    async def claim_alerts(self, tx: Tx, *, lease_s: float = 60.0) -> list[Alert]:
        """Take the alerts that are due, for `lease_s` seconds; call `alert_sent` for each that was sent.

        A taker that dies leaves them to the next one; the alert's `event_id` stays the same.
        """
        at = self._now(tx)
        rows = await tx.fetch(
            "UPDATE ledger_alert SET state = 'sending', claimed_until = ? "
            "WHERE scope = ? AND state <> 'sent' AND claimed_until < ? "
            'RETURNING month, threshold_bp, spent, limit_seen AS "limit"',
            *(at + lease_s, self.scope, at),
        )
        alerts = (Alert(self.scope, **in_usd(row, "spent", "limit")) for row in rows)
        return sorted(alerts, key=lambda alert: (alert.month, alert.threshold_bp))

    async def _alerts_due(self, tx: Tx) -> bool:
        rows = await tx.fetch(
            "SELECT 1 AS n FROM ledger_alert WHERE scope = ? AND state <> 'sent' AND claimed_until < ? LIMIT 1",
            *(self.scope, self._now(tx)),
        )
        return bool(rows)

    @writes("alert", idempotent=True)
    async def alert_sent(self, tx: Tx, alert: Alert) -> None:
        """Note that an alert was sent: it is never due again."""
        await tx.execute(
            "UPDATE ledger_alert SET state = 'sent' WHERE scope = ? AND month = ? AND threshold_bp = ?",
            *(self.scope, alert.month, alert.threshold_bp),
        )
