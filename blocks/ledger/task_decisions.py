"""How an accepted task ended, under the task's key: the same task again ends so again, at no cost.

A decision names the call whose reply was delivered. It counts only while that reply is in the answer store.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from tta_dev_primitives.blocks.ledger.core import LedgerCore
from tta_dev_primitives.blocks.ledger.database.migrations import register_schema
from tta_dev_primitives.blocks.ledger.database.protocol import Tx, in_parts, reads
from tta_dev_primitives.blocks.ledger.types import StoredAnswer

register_schema(
    "decisions",
    1,
    [
        """CREATE TABLE task_decision (
            scope TEXT NOT NULL, task_key TEXT NOT NULL, call_id TEXT, body TEXT NOT NULL,
            created_at REAL NOT NULL, PRIMARY KEY (scope, task_key)) STRICT"""
    ],
)


@dataclass(frozen=True, slots=True)
class TaskDecision:
    """A decision to keep. `call_id` None: only the plan is kept (a task whose parts have decisions of their own)."""

    task_key: str
    call_id: str | None
    body: str


@dataclass(frozen=True, slots=True)
class StoredDecision:
    """A decision that was kept, with the reply that was delivered."""

    body: str
    answer: StoredAnswer | None


async def keep_decision(tx: Tx, scope: str, decision: TaskDecision, at: float) -> None:
    """Keep a decision; the first one under a key stays while its answer is stored."""
    await tx.execute(
        "INSERT INTO task_decision (scope, task_key, call_id, body, created_at) VALUES (?, ?, ?, ?, ?) "
        "ON CONFLICT (scope, task_key) DO UPDATE SET call_id = excluded.call_id, body = excluded.body, "
        "created_at = excluded.created_at",
        *(scope, decision.task_key, decision.call_id, decision.body, at),
    )


@reads
async def stored_decisions(ledger: LedgerCore, tx: Tx, task_keys: Sequence[str]) -> dict[str, StoredDecision]:
    """The decisions kept under these keys whose answers are still stored, by key."""
    found: dict[str, StoredDecision] = {}
    for marks, keys in in_parts(task_keys):
        rows = await tx.fetch(
            "SELECT d.task_key, d.call_id, d.body, a.step_key, a.body AS answer, a.sha256 "  # noqa: S608 - marks
            "FROM task_decision d LEFT JOIN ledger_call c ON c.id = d.call_id "
            "LEFT JOIN ledger_answer a ON a.scope = d.scope AND a.step_key = c.step_key "
            f"WHERE d.task_key IN ({marks}) AND d.scope = ?",
            *(*keys, ledger.scope),
        )
        for row in rows:
            answer = None
            if row["call_id"] is not None:
                body = b"" if row["answer"] is None else bytes(row["answer"])
                if row["answer"] is None or hashlib.sha256(body).hexdigest() != row["sha256"]:
                    continue
                answer = StoredAnswer(row["step_key"], row["call_id"], body)
            found[row["task_key"]] = StoredDecision(row["body"], answer)
    return found
