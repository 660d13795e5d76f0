"""What a delivered task leaves behind: its share of the month's savings, a pair of lengths, and its decision. Pure."""

from __future__ import annotations

from tta_dev_primitives.blocks.ledger.savings_account import Pair
from tta_dev_primitives.blocks.ledger.task_decisions import TaskDecision
from tta_dev_primitives.config import OrchestrationConfig
from tta_dev_primitives.config.models.targets import Target
from tta_dev_primitives.flows.tasks.item import Item
from tta_dev_primitives.flows.tasks.result import Attempt, OrchestrationResult, PaidFrom
from tta_dev_primitives.flows.tasks.same_task import decision_text
from tta_dev_primitives.flows.tasks.savings import earned, paid_from
from tta_dev_primitives.flows.validation.case import Decided
from tta_dev_primitives.flows.validation.next_step import Deliver
from tta_dev_primitives.flows.validation.opinion_costs import LengthRatios, length_class


def close_item(
    item: Item, step: Deliver, result: OrchestrationResult, config: OrchestrationConfig, *, since: float
) -> None:
    """Set what the end of `item` adds to the savings, teaches of lengths, and decides for the same task.

    Args:
        item: The delivered task.
        step: How it was delivered.
        result: Its result.
        config: The settings it ran with.
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
