"""What a task that ended leaves behind: its record, savings, a pair of lengths, and its decision."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import uuid4

from tta_dev_primitives.blocks.ledger.savings_account import Pair
from tta_dev_primitives.blocks.ledger.task_records import TaskDecision, TaskRecord, record_results
from tta_dev_primitives.config import OrchestrationConfig
from tta_dev_primitives.config.models.targets import Target
from tta_dev_primitives.flows.calling.admission import PostponedError
from tta_dev_primitives.flows.calling.runtime import Runtime
from tta_dev_primitives.flows.tasks.item import Item
from tta_dev_primitives.flows.tasks.result import Attempt, OrchestrationResult, PaidFrom
from tta_dev_primitives.flows.tasks.same_task import decision_text
from tta_dev_primitives.flows.tasks.savings import earned, own_answers_cost, paid_from
from tta_dev_primitives.flows.validation.case import Decided
from tta_dev_primitives.flows.validation.opinion_costs import LengthRatios, length_class
from tta_dev_primitives.flows.validation.steps import Deliver


async def keep_records(runtime: Runtime, items: Sequence[Item], month: str, *, parts: bool = False) -> None:
    """Record ended items, and what they leave; those that a job put off are none.

    Args:
        month: The ledger's month, for items that have none of their own.
        parts: They are parts of tasks, which are recorded when they end.
    """
    run_id = runtime.flow_run_id() or str(uuid4())
    ended = [item for item in items if not isinstance(item.error, PostponedError)]
    for own in sorted({item.month or month for item in ended}):
        of_month = [item for item in ended if (item.month or month) == own]
        records = [] if parts else [_record(item, run_id, runtime.orchestrator.name) for item in of_month]
        await record_results(
            runtime.ledger,
            own,
            records,
            pairs=[item.pair for item in of_month if item.pair is not None],
            decisions=[item.decided for item in of_month if item.decided is not None],
        )


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


def close_item(
    item: Item, step: Deliver, result: OrchestrationResult, config: OrchestrationConfig, *, since: float
) -> None:
    """Set what the end of `item` adds to the savings, teaches of lengths, and decides for the same task.

    Args:
        since: When the ledger's month began, seconds since the epoch.
    """
    orchestrator = item.targets[item.open_case.orchestrator.model]

    def source(attempt: Attempt) -> PaidFrom:
        target = item.targets.get(attempt.model)
        if target is None:
            # A planner off the route: free models and the orchestrator plan, nothing else.
            return "free" if attempt.billing == "free" else "savings"
        return paid_from(attempt.role, target, orchestrator, config)

    item.earned = earned(item.attempts, result.baseline_cost_usd, result.model, source, since=since)
    if item.kept is not None:
        return
    item.pair = _pair(item, orchestrator)
    # An answer that was put together from several replies is put together again: each reply is in the store.
    if step.accepted and item.key is not None and item.open_case.answers[step.index].fields is None:
        decided = Decided(result.model, step.evidence, step.quality_score, result.judged_by, result.fields)
        call_id = item.replies[step.index].call_id
        item.decided = TaskDecision(item.key, call_id, decision_text(item.plan, decided))


def close_parts(item: Item, parts: list[Item]) -> None:
    """Set the same for a task of several parts: they have earned and decided, the plan is kept."""
    item.earned = sum((part.earned for part in parts), start=item.earned)
    if item.key is not None and item.result is not None and item.result.accepted:
        item.decided = TaskDecision(item.key, None, decision_text(item.plan, None))


def _pair(item: Item, orchestrator: Target) -> Pair | None:
    """The lengths of the orchestrator's own answer and of another one to the same task, both newly asked for."""
    answers = item.open_case.answers
    whole = [i for i in item.open_case.usable if answers[i].fields is None]
    fresh = [i for i in whole if not item.replies[i].reused and answers[i].wrote]
    own = next((i for i in fresh if answers[i].by.model == orchestrator.name), None)
    other = next((i for i in fresh if answers[i].by.model != orchestrator.name), None)
    if own is None or other is None:
        return None
    ratio = LengthRatios.ratio(answers[other].wrote, answers[own].wrote)
    return Pair(orchestrator.key, length_class(answers[other].wrote), ratio)
