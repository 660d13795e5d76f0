"""The statements behind settle, release, presume and sweep; `reserve` has those of reserve. Integer pico-USD.

Each function runs inside one transaction. The month's row is touched last, so that the lock everybody waits
for lives one statement and a commit.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Any, Literal

from tta_dev_primitives.blocks.ledger.database.protocol import Tx
from tta_dev_primitives.blocks.ledger.failpoints import failpoint
from tta_dev_primitives.blocks.ledger.savings_account import move_extra
from tta_dev_primitives.blocks.ledger.sums import CALLS, unsum
from tta_dev_primitives.blocks.ledger.types import Outcome
from tta_dev_primitives.config.errors import LedgerError

Closing = Literal["settled", "released", "presumed"]
Answer = tuple[str, bytes]
"""A reply to keep: its content key and its body."""


@dataclass(frozen=True, slots=True)
class Terms:
    """What stays the same for all calls of one `Ledger`."""

    scope: str
    owner: str
    thresholds_bp: tuple[int, ...]
    timezone: str = "UTC"
    alerted: set[tuple[str, int]] = field(default_factory=set)
    """Alert lines known to be in the outbox: they need not be written again."""


@dataclass(frozen=True, slots=True)
class Closed:
    """The state a call is in after an attempt to close it, and the alert line it crossed."""

    state: str
    month: str
    charged: int
    changed: bool
    alerts: tuple[tuple[str, int], ...] = ()


INSERT_CALL = (
    "INSERT INTO ledger_call (id, scope, month, state, billing, bound, charged, limit_seen, provider, model, "
    "model_key, role, use_case, step_key, flow_run_id, task_run_id, attempt, owner, created_at, lease_until"
)
ATTEMPT = "(SELECT count(*) + 1 FROM ledger_call WHERE step_key = ?)"
_CLOSING = (
    "closed_at, outcome, status, request_id, input_tokens, cache_read_tokens, output_tokens, list_value, baseline, "
    "usage_json, flag, note"
)
_CLOSE_FIELDS = ", ".join(f"{name} = ?" for name in _CLOSING.split(", "))
FREE_CALL = (
    f"{INSERT_CALL}, {_CLOSING}) VALUES (?, ?, ?, 'settled', ?, 0, ?, NULL, ?, ?, ?, ?, ?, ?, ?, ?, {ATTEMPT}, "
    "?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO NOTHING"
)
_EVENT = (
    "INSERT INTO ledger_event (scope, month, call_id, what, d_spent, d_held, d_approved, who, note, at) "
    "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)


async def write_event(
    tx: Tx,
    scope: str,
    month: str,
    call_id: str | None,
    what: str,
    amounts: tuple[int, int, int],
    who: str | None,
    note: str | None,
    at: float,
) -> None:
    """Append to the journal; `amounts` are the changes of spent, held and approved."""
    await tx.execute(_EVENT, scope, month, call_id, what, *amounts, who, note, at)


async def latest_month(tx: Tx, scope: str) -> str | None:
    """The latest month this scope ever wrote: no clock takes the ledger back before it."""
    rows = await tx.fetch("SELECT max(month) AS month FROM ledger_month WHERE scope = ?", scope)
    month: str | None = rows[0]["month"]
    return month


async def insert_month(tx: Tx, scope: str, month: str) -> None:
    """Begin a month; nothing changes when it has begun."""
    await tx.execute(
        "INSERT INTO ledger_month (scope, month, spent, held, approved) VALUES (?, ?, 0, 0, 0) "
        "ON CONFLICT (scope, month) DO NOTHING",
        *(scope, month),
    )


def ending_name(closing: Closing) -> str:
    """What the journal and the tests call a way to end."""
    return {"settled": "settle", "released": "release", "presumed": "presume"}[closing]


def closing_values(
    at: float, outcome: Outcome, list_value: int | None, baseline: int | None
) -> tuple[Any, ...]:
    """What a closed call's row keeps, in the order of its columns."""
    return (
        *(at, outcome.outcome, outcome.status, outcome.request_id, *outcome.tokens(), list_value, baseline),
        *(outcome.usage_text(), outcome.flag, outcome.note_text()),
    )


async def close_call(
    tx: Tx,
    terms: Terms,
    call_id: str,
    closing: Closing,
    charge: int | None,
    outcome: Outcome,
    *,
    at: float,
    amounts: tuple[int | None, int | None] = (None, None),
    answer: Answer | None = None,
    close_key: str | None = None,
) -> Closed:
    """End a call. Only a held call ends; a presumed or released one may still be settled with the true cost.

    Args:
        charge: Cost in pico-USD; None charges the bound.
        amounts: List value and baseline in pico-USD.
    """
    name = point = ending_name(closing)
    failpoint(f"{point}.begun")
    values = closing_values(at, outcome, *amounts)
    if answer is not None:
        await store_answer(tx, terms.scope, call_id, answer, at)
    rows = await tx.fetch(
        f"UPDATE ledger_call SET state = ?, charged = coalesce(?, bound), {_CLOSE_FIELDS} "  # noqa: S608 - fixed
        "WHERE id = ? AND scope = ? AND state = 'held' RETURNING month, bound, charged, limit_seen, extra",
        *(closing, charge, *values, call_id, terms.scope),
    )
    if rows:
        row, d_held, d_spent = rows[0], -rows[0]["bound"], rows[0]["charged"]
    else:
        found = await tx.fetch(
            "SELECT state, month, bound, charged, limit_seen, extra FROM ledger_call WHERE id = ? AND scope = ?",
            *(call_id, terms.scope),
        )
        if not found and closing == "released":
            return Closed("unknown", "", 0, False)
        if not found:
            raise LedgerError(f"Ledger: call {call_id} was never reserved in scope '{terms.scope}'")
        row = found[0]
        if closing != "settled" or row["state"] == "settled" or charge is None:
            return Closed(row["state"], row["month"], row["charged"], False)
        name, d_held, d_spent = "true_up", 0, charge - row["charged"]
        await unsum(tx, CALLS, terms.scope, terms.timezone, "id = ?", call_id)
        if not await tx.execute(
            f"UPDATE ledger_call SET state = 'settled', charged = ?, {_CLOSE_FIELDS} "  # noqa: S608 - fixed
            "WHERE id = ? AND state = ? AND charged = ?",
            *(charge, *values, call_id, row["state"], row["charged"]),
        ):
            # Another process closed it between the two statements: look again.
            return await close_call(
                tx, terms, call_id, closing, charge, outcome, at=at, amounts=amounts, close_key=close_key
            )
        row["charged"] = charge
    failpoint(f"{point}.after_call")
    await write_event(
        tx, terms.scope, row["month"], call_id, name, (d_spent, d_held, 0), None, outcome.note_text(), at
    )
    if close_key is not None:
        await close_key_for(tx, terms.scope, close_key, call_id, outcome, at)
    failpoint(f"{point}.after_event")
    if row["extra"] in ("savings", "credit"):
        await move_extra(tx, terms.scope, row["month"], d_spent, d_held)
    alerts = await _move_money(tx, terms, row["month"], d_spent, d_held, row["limit_seen"])
    failpoint(f"{point}.after_month")
    return Closed(closing, row["month"], row["charged"], True, alerts)


async def _move_money(
    tx: Tx, terms: Terms, month: str, d_spent: int, d_held: int, limit: int | None
) -> tuple[tuple[str, int], ...]:
    """Change the month's row; returns the alert lines that its spending has reached."""
    rows = await tx.fetch(
        "UPDATE ledger_month SET spent = spent + ?, held = held + ? WHERE scope = ? AND month = ? "
        "RETURNING spent, approved",
        *(d_spent, d_held, terms.scope, month),
    )
    if limit is None or d_spent <= 0:
        return ()
    spent, ceiling = rows[0]["spent"], limit + rows[0]["approved"]
    reached = [(month, bp) for bp in terms.thresholds_bp if ceiling > 0 and spent * 10_000 >= bp * ceiling]
    fresh = tuple(line for line in reached if line not in terms.alerted)
    for _, bp in fresh:
        await insert_alert(tx, terms.scope, month, bp, spent, ceiling)
    return fresh


async def insert_alert(tx: Tx, scope: str, month: str, bp: int, spent: int, ceiling: int) -> None:
    """Put an alert into the outbox, once a month and line for ever."""
    await tx.execute(
        "INSERT INTO ledger_alert (scope, month, threshold_bp, state, spent, limit_seen, claimed_until) "
        "VALUES (?, ?, ?, 'due', ?, ?, 0) ON CONFLICT (scope, month, threshold_bp) DO NOTHING",
        *(scope, month, bp, spent, ceiling),
    )


async def close_key_for(tx: Tx, scope: str, key: str, call_id: str, outcome: Outcome, at: float) -> None:
    """Close a model or provider until a person resolves it."""
    await tx.execute(
        "INSERT INTO ledger_quarantine (scope, key, reason, call_id, at) VALUES (?, ?, ?, ?, ?) "
        "ON CONFLICT (scope, key, call_id) DO NOTHING",
        *(scope, key, outcome.note_text() or outcome.flag or "", call_id, at),
    )


async def store_answer(tx: Tx, scope: str, call_id: str, answer: Answer, at: float) -> None:
    """Keep an answer with its checksum; the first one under a key stays."""
    step_key, body = answer
    await tx.execute(
        "INSERT INTO ledger_answer (scope, step_key, call_id, body, sha256, created_at) "
        "VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (scope, step_key) DO NOTHING",
        *(scope, step_key, call_id, body, hashlib.sha256(body).hexdigest(), at),
    )


async def lapsed_calls(tx: Tx, scope: str, at: float, most: int) -> list[str]:
    """Ids of calls that are still held after their lease."""
    rows = await tx.fetch(
        "SELECT id FROM ledger_call WHERE scope = ? AND state = 'held' AND lease_until < ? "
        "ORDER BY lease_until, id LIMIT ?",
        *(scope, at, most),
    )
    return [row["id"] for row in rows]
