"""Reserve and close as one PostgreSQL statement each: one round trip, and the month's row locked within it.

These do the plain case only, and then exactly what `holds` does. Whatever is not plain (no room, a missing
month, an id seen before, a call already closed) changes nothing and returns no row; `holds` then decides.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tta_dev_primitives.blocks.ledger.database.postgresql import PostgresDatabase
from tta_dev_primitives.blocks.ledger.reserve import Granted
from tta_dev_primitives.blocks.ledger.settle import (
    Answer,
    Closed,
    Closing,
    Terms,
    closing_values,
    ending_name,
)
from tta_dev_primitives.blocks.ledger.types import CallInfo, Outcome

__all__ = ["close_at_once", "reserve_at_once"]

_RESERVE = """
WITH room AS (
    UPDATE ledger_month SET held = held + $4
    WHERE scope = $2 AND month = $3 AND spent + held + $4 <= $5 + approved
      AND NOT EXISTS (SELECT 1 FROM ledger_call WHERE id = $1)
      AND NOT EXISTS (SELECT 1 FROM ledger_month later WHERE later.scope = $2 AND later.month > $3)
      AND NOT EXISTS (SELECT 1 FROM ledger_quarantine closed
                      WHERE closed.scope = $2 AND closed.key IN ($8, $17) AND closed.resolved_at IS NULL)
    RETURNING 1
), call AS (
    INSERT INTO ledger_call (id, scope, month, state, billing, bound, charged, limit_seen, provider,
        model, model_key, role, use_case, step_key, flow_run_id, task_run_id, attempt, owner, created_at,
        lease_until)
    SELECT $1, $2, $3, 'held', 'paid', $4, 0, $5, $6, $7, $8, $9, $10, $11, $12, $13,
        (SELECT count(*) + 1 FROM ledger_call WHERE step_key = $11), $14, $15, $16
    FROM room
)
INSERT INTO ledger_event (scope, month, call_id, what, d_spent, d_held, d_approved, at)
SELECT $2, $3, $1, 'reserve', 0, $4, 0, $15 FROM room RETURNING seq
"""

_CLOSE = """
WITH call AS (
    UPDATE ledger_call SET state = $3, charged = coalesce($4, bound), closed_at = $5, outcome = $6,
        status = $7, request_id = $8, input_tokens = $9, output_tokens = $10, list_value = $11, baseline = $12,
        usage_json = $13, flag = $14, note = $15
    WHERE id = $1 AND scope = $2 AND state = 'held' RETURNING month, bound, charged, limit_seen
), entry AS (
    INSERT INTO ledger_event (scope, month, call_id, what, d_spent, d_held, d_approved, note, at)
    SELECT $2, month, $1, $16, charged, -bound, 0, $15, $5 FROM call
), answer AS (
    INSERT INTO ledger_answer (scope, step_key, call_id, body, sha256, created_at)
    SELECT $2, $17::text, $1, $18::bytea, $19::text, $5 FROM call WHERE $17::text IS NOT NULL
    ON CONFLICT (scope, step_key) DO NOTHING
), month AS (
    UPDATE ledger_month SET spent = ledger_month.spent + call.charged, held = ledger_month.held - call.bound
    FROM call WHERE ledger_month.scope = $2 AND ledger_month.month = call.month
    RETURNING ledger_month.month, spent, limit_seen + approved AS ceiling, call.charged
), alert AS (
    INSERT INTO ledger_alert (scope, month, threshold_bp, state, spent, limit_seen, claimed_until)
    SELECT $2, month, bp, 'due', spent, ceiling, 0 FROM month, unnest($20::bigint[]) AS bp
    WHERE charged > 0 AND ceiling > 0 AND spent::numeric * 10000 >= bp::numeric * ceiling
    ON CONFLICT (scope, month, threshold_bp) DO NOTHING
)
SELECT month, charged FROM month
"""


async def reserve_at_once(
    database: PostgresDatabase,
    terms: Terms,
    call: CallInfo,
    amounts: tuple[int, int],
    month: str,
    at: float,
) -> Granted | None:
    """`holds.reserve_call` for the plain case. `amounts`: bound and limit in pico-USD."""
    bound, limit = amounts
    lease = at + call.deadline_s + 60
    rows = await database.statement(
        _RESERVE,
        *(call.id, terms.scope, month, bound, limit, call.provider, call.model, call.model_key, call.role),
        *(call.use_case, call.step_key, call.flow_run_id, call.task_run_id, terms.owner, at, lease),
        call.provider_key,
        label="reserve",
    )
    return Granted(month, bound, lease) if rows else None


async def close_at_once(
    database: PostgresDatabase,
    terms: Terms,
    call_id: str,
    closing: Closing,
    charge: int | None,
    outcome: Outcome,
    *,
    at: float,
    amounts: tuple[int | None, int | None],
    answer: Answer | None,
) -> Closed | None:
    """`holds.close_call` for a call that is held. Its alerts are written with it."""
    name = ending_name(closing)
    kept: Sequence[Any] = (None, None, None)
    if answer is not None:
        kept = (answer.step_key, answer.body, answer.sha256)
    rows = await database.statement(
        _CLOSE,
        *(call_id, terms.scope, closing, charge, *closing_values(at, outcome, *amounts), name),
        *(*kept, list(terms.thresholds_bp)),
        label=name,
    )
    return Closed(closing, rows[0]["month"], rows[0]["charged"], True) if rows else None
