"""What the flow runs of one job have cost, from the ledger's rows."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal

from tta_dev_primitives.blocks.ledger.core import LedgerCore
from tta_dev_primitives.blocks.ledger.database.protocol import Tx
from tta_dev_primitives.blocks.ledger.money import from_pico

_AT_ONCE = 500
_NOT_IN_A_BATCH = (
    " AND NOT EXISTS (SELECT 1 FROM ledger_batch_line line "
    "WHERE line.call_id = ledger_call.id AND line.state = 'open')"
)


async def cost_of_runs(
    ledger: LedgerCore, flow_run_ids: Sequence[str], *, with_open_batches: bool = True
) -> Decimal:
    """USD that the calls of these flow runs were charged, with calls still open at their bound.

    Args:
        ledger: The ledger.
        flow_run_ids: The runs.
        with_open_batches: Whether what is held for batches that are not collected yet counts.

    Raises:
        LedgerError: The ledger cannot be used.
    """

    unless = "" if with_open_batches else _NOT_IN_A_BATCH

    async def work(tx: Tx) -> int:
        total = 0
        for start in range(0, len(flow_run_ids), _AT_ONCE):
            ids = flow_run_ids[start : start + _AT_ONCE]
            marks = ", ".join("?" for _ in ids)
            rows = await tx.fetch(
                "SELECT coalesce(sum(CASE WHEN state = 'held' THEN bound ELSE charged END), 0) AS cost "  # noqa: S608
                f"FROM ledger_call WHERE scope = ? AND billing = 'paid' AND flow_run_id IN ({marks}){unless}",
                *(ledger.scope, *ids),
            )
            total += int(rows[0]["cost"])
        return total

    return from_pico(await ledger.database.read(work)) if flow_run_ids else Decimal(0)
