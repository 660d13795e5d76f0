"""From an ended item to the result that the caller sees."""

from __future__ import annotations

from collections.abc import Sequence

from tta_dev_primitives.blocks.ledger.savings_account import SavingsAccount
from tta_dev_primitives.blocks.wire.batches.formats import at_batch_price
from tta_dev_primitives.flows.calling.runtime import Runtime
from tta_dev_primitives.flows.tasks.item import Item
from tta_dev_primitives.flows.tasks.result import (
    NO_PAID_CALL,
    BudgetView,
    FieldStatus,
    MonthSavings,
    OrchestrationResult,
)
from tta_dev_primitives.flows.tasks.savings import Savings, savings_of, total
from tta_dev_primitives.flows.validation.evidence import EvidenceName
from tta_dev_primitives.flows.validation.field_votes import status_of
from tta_dev_primitives.flows.validation.steps import Deliver

_STRENGTH: tuple[EvidenceName, ...] = ("none", "checks", "judge", "agreement", "audit", "paid")


def make_result(runtime: Runtime, item: Item, step: Deliver, budget: BudgetView) -> OrchestrationResult:
    """Build the result of a delivered item: its answer, its evidence, and its whole cost against the baseline."""
    answer = item.open_case.answers[step.index]
    orchestrator = item.targets[item.open_case.orchestrator.model]
    # A batch job is compared with the paid model in batches: the discount is not its merit.
    savings = savings_of(item, step.index, at_batch_price(orchestrator) if runtime.batched else orchestrator)
    refused = item.open_case.free_only or any(a.outcome == "budget" for a in item.attempts)
    if refused and not step.accepted:
        item.note(NO_PAID_CALL)
    _explain(item, step)
    for passed in item.route.passed_over:
        item.note(f"{passed.model} was passed over: {passed.reason}")
    typed = None if item.output is None else item.output.read(answer.text)
    return OrchestrationResult(
        id=item.id,
        content=answer.text if typed is None else typed.content,
        data=None if typed is None else typed.data,
        fields=_fields(item),
        model=answer.by.model,
        provider=item.targets[answer.by.model].provider,
        use_case=item.use_case,
        accepted=step.accepted,
        quality_score=step.quality_score,
        evidence=step.evidence,
        attempts=sorted(item.attempts, key=lambda a: a.started_at),
        cost_usd=item.cost_usd,
        baseline_cost_usd=savings.baseline_usd,
        savings_ratio=savings.ratio,
        budget=budget,
        flow_run_id=runtime.flow_run_id(),
        warnings=[*runtime.warnings, *item.warnings],
        judged_by=_judged_by(item, step),
        reused=_reused(item),
    )


def _fields(item: Item) -> dict[str, FieldStatus]:
    """What the answers of a typed task say of each field; empty for data that is no object."""
    if not item.open_case.fielded:
        return {}
    return (
        dict(item.before.fields)
        if item.before is not None and item.kept is not None
        else status_of(item.open_case)
    )


def month_savings(account: SavingsAccount, result: OrchestrationResult) -> MonthSavings:
    """What the month has saved with this result: the account of the tasks before it, and its own figures."""
    fresh = 0 if result.reused else 1
    return MonthSavings(
        tasks=account.tasks + fresh,
        cost_usd=account.cost + fresh * result.cost_usd,
        baseline_cost_usd=account.baseline + fresh * result.baseline_cost_usd,
    )


def _judged_by(item: Item, step: Deliver) -> str | None:
    if item.before is not None and item.kept is not None:
        return item.before.judged_by
    return item.open_case.judged_by(step.index) if step.evidence in ("judge", "audit") else None


def _reused(item: Item) -> bool:
    answered = [attempt for attempt in item.attempts if attempt.outcome == "ok"]
    return bool(answered) and item.cost_usd == 0 and all(attempt.reused for attempt in answered)


def _explain(item: Item, step: Deliver) -> None:
    """Say why an answer has no verdict, and what a score below the threshold means."""
    case = item.open_case
    if case.short_sighted and case.judged_by(step.index) is None and step.evidence in ("checks", "none"):
        names = ", ".join(sorted(case.short_sighted))
        item.note(f"not judged: too long; the task with its answer does not fit the window of {names}")
    score, threshold = step.quality_score, case.policy.threshold
    if step.accepted and score is not None and score < threshold:
        item.note(
            f"quality_score {score:.2f} is the lower bound for all answers with this evidence; "
            f"quality_threshold {threshold:g} holds for all delivered answers together"
        )


def join_parts(item: Item, parts: Sequence[Item], content: str, budget: BudgetView) -> OrchestrationResult:
    """The result of a compound task: accepted when each part is, with the weakest evidence of any part."""
    results = [part.result for part in parts if part.result is not None]
    last = results[-1]
    scores = [r.quality_score for r in results if r.quality_score is not None]
    warnings = dict.fromkeys(w for r in results for w in r.warnings)
    savings = total(Savings(r.cost_usd, r.baseline_cost_usd) for r in results)
    whole = Savings(item.cost_usd, savings.baseline_usd)
    return last.model_copy(
        update={
            "id": item.id,
            "content": content,
            "use_case": item.use_case,
            "accepted": all(r.accepted for r in results),
            "quality_score": min(scores) if len(scores) == len(results) else None,
            "evidence": min((r.evidence for r in results), key=_STRENGTH.index),
            "attempts": sorted(item.attempts, key=lambda a: a.started_at),
            "cost_usd": whole.cost_usd,
            "baseline_cost_usd": whole.baseline_usd,
            "savings_ratio": whole.ratio,
            "budget": budget,
            "judged_by": None,
            "reused": all(r.reused for r in results) and item.cost_usd == 0,
            "warnings": list(dict.fromkeys([*warnings, *item.warnings])),
        }
    )
