"""One record for each ended task, beside the ledger: what it cost and what the paid model alone would have cost.

The ledger knows calls; savings and acceptance are facts of whole tasks. A task that ends twice in one flow run (a
retried run) stays one record; a task whose every answer came from the store is kept, but saves nothing again.

How an accepted task ended is kept under the task's key: the same task again ends so again, at no cost. Such a decision
names the call whose reply was delivered, and counts only while that reply is in the answer store.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal

from tta_dev_primitives.blocks.ledger.core import LedgerCore
from tta_dev_primitives.blocks.ledger.database.migrations import register_schema
from tta_dev_primitives.blocks.ledger.database.protocol import Tx, in_parts, reads, writes
from tta_dev_primitives.blocks.ledger.money import in_usd, pico_ceiling, pico_floor
from tta_dev_primitives.blocks.ledger.months import checked_month
from tta_dev_primitives.blocks.ledger.savings_account import Ended, Pair, earn
from tta_dev_primitives.blocks.ledger.sums import Summed, unsum
from tta_dev_primitives.blocks.ledger.types import StoredAnswer

register_schema(
    "results",
    1,
    [
        """CREATE TABLE task_result (
            scope TEXT NOT NULL, flow_run_id TEXT NOT NULL, item_id TEXT NOT NULL, month TEXT NOT NULL,
            use_case TEXT NOT NULL, model TEXT NOT NULL, evidence TEXT NOT NULL, outcome TEXT NOT NULL,
            accepted INTEGER NOT NULL, quality REAL, reused INTEGER NOT NULL,
            cost INTEGER NOT NULL, baseline INTEGER NOT NULL, created_at REAL NOT NULL,
            PRIMARY KEY (scope, flow_run_id, item_id)) STRICT""",
        "CREATE INDEX task_result_month ON task_result (scope, month)",
    ],
)
register_schema(
    "results",
    2,
    [
        "ALTER TABLE task_result ADD COLUMN summed INTEGER NOT NULL DEFAULT 0",
        "CREATE INDEX task_result_unsummed ON task_result (scope, month) WHERE summed = 0",
        """CREATE TABLE task_result_sum (
            scope TEXT NOT NULL, month TEXT NOT NULL, use_case TEXT NOT NULL, model TEXT NOT NULL,
            evidence TEXT NOT NULL, outcome TEXT NOT NULL, accepted INTEGER NOT NULL, reused INTEGER NOT NULL,
            kept INTEGER NOT NULL, tasks INTEGER NOT NULL, cost INTEGER NOT NULL, baseline INTEGER NOT NULL,
            quality_sum REAL NOT NULL, quality_count INTEGER NOT NULL,
            PRIMARY KEY (scope, month, use_case, model, evidence, outcome, accepted, reused, kept)) STRICT""",
    ],
)
RESULTS = Summed(
    "task_result",
    "scope, flow_run_id, item_id",
    ("month", "use_case", "model", "evidence", "outcome", "accepted", "reused"),
    ("cost", "baseline"),
    "tasks",
    "1 = 1",
    mean="quality",
)
"""The records as `sums` keeps them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskRecord:
    """One ended task. Amounts in USD."""

    flow_run_id: str
    item_id: str
    use_case: str
    cost: Decimal
    baseline: Decimal = Decimal(0)
    model: str = ""
    """Whose answer was delivered; empty for a failed task."""
    evidence: str = "none"
    outcome: str = "ok"
    """`ok`, or the class name of the error that ended it."""
    accepted: bool = False
    quality: float | None = None
    reused: bool = False
    """Every call was answered from the store: nothing was sent."""
    earned: Decimal = Decimal(0)
    """What the task adds to the month's savings; negative where something was charged that no baseline covers."""


@dataclass(frozen=True, slots=True)
class ResultLine:
    """The tasks of a month that agree in use case, model, evidence, outcome and acceptance, summed."""

    use_case: str
    model: str
    evidence: str
    outcome: str
    accepted: bool
    reused: bool
    tasks: int
    cost: Decimal
    baseline: Decimal
    quality: float | None
    """Mean quality score of those that have one."""


_INSERT = (
    "INSERT INTO task_result (scope, flow_run_id, item_id, month, use_case, model, evidence, "
    "outcome, accepted, quality, reused, cost, baseline, created_at) "
    "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (scope, flow_run_id, item_id) DO NOTHING"
)
_END_AGAIN = (
    "UPDATE task_result SET model = ?, evidence = ?, outcome = ?, accepted = ?, quality = ?, "
    "reused = CASE WHEN reused = 1 AND ? = 1 THEN 1 ELSE 0 END, "
    # What the first end of the task cost was paid all the same.
    "cost = cost + ?, baseline = ? WHERE scope = ? AND flow_run_id = ? AND item_id = ?"
)


@writes("results")
async def record_results(
    ledger: LedgerCore,
    tx: Tx,
    month: str,
    records: Sequence[TaskRecord],
    *,
    pairs: Sequence[Pair] = (),
    decisions: Sequence[TaskDecision] = (),
) -> None:
    """Keep the records of one batch in one transaction; safe to repeat for a batch that was not yet kept."""
    rows = [
        (
            *(ledger.scope, one.flow_run_id, one.item_id, checked_month(month), one.use_case, one.model),
            *(one.evidence, one.outcome, int(one.accepted), one.quality, int(one.reused)),
            *(pico_ceiling(one.cost, what="cost"), pico_ceiling(one.baseline, what="baseline")),
        )
        for one in records
    ]

    fresh = [one for one in records if not one.reused]
    ended = Ended(
        len(fresh),
        sum(pico_ceiling(one.cost, what="cost") for one in fresh),
        sum(pico_floor(one.baseline, what="baseline") for one in fresh),
        sum(_signed_pico(one.earned) for one in records),
    )

    at = tx.now()
    for decision in decisions:
        # The first one under a key stays while its answer is stored.
        await tx.execute(
            "INSERT INTO task_decision (scope, task_key, call_id, body, created_at) VALUES (?, ?, ?, ?, ?) "
            "ON CONFLICT (scope, task_key) DO UPDATE SET call_id = excluded.call_id, body = excluded.body, "
            "created_at = excluded.created_at",
            *(ledger.scope, decision.task_key, decision.call_id, decision.body, at),
        )
    for record, row in zip(records, rows, strict=True):
        if await tx.execute(_INSERT, *row, at):
            continue
        named = (record.flow_run_id, record.item_id)
        await unsum(tx, RESULTS, ledger.scope, ledger.timezone, "flow_run_id = ? AND item_id = ?", *named)
        await tx.execute(_END_AGAIN, *row[5:], *(ledger.scope, *named))
    await earn(tx, ledger.scope, month, ended, pairs)


def _signed_pico(amount: Decimal) -> int:
    # Earnings are rounded down, losses up.
    return pico_floor(amount, what="earned") if amount >= 0 else -pico_ceiling(-amount, what="loss")


async def result_lines(ledger: LedgerCore, month: str) -> list[ResultLine]:
    """The tasks that ended in a month, summed into lines."""

    of = (ledger.scope, checked_month(month))
    group = "use_case, model, evidence, outcome, accepted, reused"
    rows = await ledger.database.fetch(
        f"SELECT {group}, CAST(sum(tasks) AS BIGINT) AS tasks, CAST(sum(cost) AS BIGINT) AS cost, "  # noqa: S608
        "CAST(sum(baseline) AS BIGINT) AS baseline, sum(quality_sum) AS quality_sum, "
        "CAST(sum(quality_count) AS BIGINT) AS quality_count FROM ("
        f"SELECT {group}, tasks, cost, baseline, quality_sum, quality_count "
        "FROM task_result_sum WHERE scope = ? AND month = ? UNION ALL "
        f"SELECT {group}, 1, cost, baseline, coalesce(quality, 0), "
        "CASE WHEN quality IS NULL THEN 0 ELSE 1 END "
        "FROM task_result WHERE scope = ? AND month = ? AND summed = 0) AS ended "
        f"GROUP BY {group} HAVING sum(tasks) > 0 ORDER BY {group}",
        *(*of, *of),
    )
    lines = []
    for row in rows:
        total, count = row.pop("quality_sum"), row.pop("quality_count")
        flags = {name: bool(row[name]) for name in ("accepted", "reused")}
        quality = total / count if count else None
        lines.append(ResultLine(**{**in_usd(row, "cost", "baseline"), **flags}, quality=quality))
    return lines


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
