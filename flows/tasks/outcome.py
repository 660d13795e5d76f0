"""From an ended item to the result that the caller sees."""

from __future__ import annotations

from collections.abc import Sequence

from tta_dev_primitives.flows.answers.fields import field_status
from tta_dev_primitives.flows.answers.output_type import OutputType
from tta_dev_primitives.flows.calling.runtime import Runtime
from tta_dev_primitives.flows.tasks.item import Item
from tta_dev_primitives.flows.tasks.result import BudgetView, Evidence, FieldStatus, OrchestrationResult
from tta_dev_primitives.flows.tasks.savings import Savings, savings_of, total
from tta_dev_primitives.flows.validation.next_step import Deliver

__all__ = ["join_parts", "make_result"]

_STRENGTH: tuple[Evidence, ...] = ("none", "checks", "judge", "agreement", "audit", "paid")


def make_result(runtime: Runtime, item: Item, step: Deliver, budget: BudgetView) -> OrchestrationResult:
    """Build the result of a delivered item: its answer, its evidence, and its whole cost against the baseline."""
    answer = item.open_case.answers[step.index]
    savings = savings_of(item, step.index, item.targets[item.open_case.orchestrator.model])
    if item.open_case.free_only and not step.accepted:
        item.note("the budget allows no paid call: the best free answer is delivered without its verdict")
    for passed in item.route.passed_over:
        item.note(f"{passed.model} was passed over: {passed.reason}")
    typed = None if item.output is None else item.output.read(answer.text)
    return OrchestrationResult(
        id=item.id,
        content=answer.text if typed is None else typed.content,
        data=None if typed is None else typed.data,
        fields={} if item.output is None else _fields(item, item.output),
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
    )


def _fields(item: Item, output: OutputType) -> dict[str, FieldStatus]:
    """What the usable answers of a typed task say of each field; empty for data that is no object."""
    case = item.open_case
    data = [output.read(case.answers[index].text).data for index in case.usable]
    return field_status(output.schema, data) if all(isinstance(one, dict) for one in data) else {}


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
            "warnings": list(dict.fromkeys([*warnings, *item.warnings])),
        }
    )
