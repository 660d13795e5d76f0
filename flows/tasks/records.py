"""What each ended task leaves for the reports: one record, kept for a whole batch in one transaction."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import uuid4

from tta_dev_primitives.blocks.ledger.task_records import Learned, TaskRecord, record_results
from tta_dev_primitives.flows.calling.admission import PostponedError
from tta_dev_primitives.flows.calling.runtime import Runtime
from tta_dev_primitives.flows.tasks.item import Item
from tta_dev_primitives.flows.tasks.savings import own_answers_cost


async def keep_records(runtime: Runtime, items: Sequence[Item], month: str, *, parts: bool = False) -> None:
    """Record ended items, and what they leave; those that a job put off are none.

    Args:
        runtime: Of the run.
        items: What ended.
        month: The ledger's month, for items that have none of their own.
        parts: They are parts of tasks, which are recorded when they end.

    Raises:
        LedgerError: The ledger's database cannot be used.
    """
    run_id = runtime.flow_run_id() or str(uuid4())
    ended = [item for item in items if not isinstance(item.error, PostponedError)]
    for own in sorted({item.month or month for item in ended}):
        of_month = [item for item in ended if (item.month or month) == own]
        records = [] if parts else [_record(item, run_id, runtime.orchestrator.name) for item in of_month]
        learned = Learned(
            [item.pair for item in of_month if item.pair is not None],
            [item.decided for item in of_month if item.decided is not None],
        )
        await record_results(runtime.ledger, own, records, learned)


def _record(item: Item, run_id: str, orchestrator: str) -> TaskRecord:
    result = item.result
    if result is None:
        return TaskRecord(
            flow_run_id=run_id,
            item_id=item.id,
            use_case=item.use_case,
            cost=item.cost_usd,
            baseline=own_answers_cost(item.attempts, orchestrator),
            outcome=type(item.error).__name__ if item.error is not None else "unknown",
        )
    return TaskRecord(
        flow_run_id=run_id,
        item_id=item.id,
        use_case=result.use_case,
        cost=result.cost_usd,
        baseline=result.baseline_cost_usd,
        model=result.model,
        evidence=result.evidence,
        accepted=result.accepted,
        quality=result.quality_score,
        reused=all(attempt.reused for attempt in result.attempts if attempt.outcome == "ok"),
        earned=item.earned,
    )
