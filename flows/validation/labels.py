"""What the end of a task teaches the risk ledger: the orchestrator's word on an answer. Pure."""

from __future__ import annotations

from tta_dev_primitives.flows.answers.closed_answers import agree
from tta_dev_primitives.flows.validation.case import Case
from tta_dev_primitives.flows.validation.field_votes import confirmed_fields, same_fields
from tta_dev_primitives.flows.validation.risk_state import Label
from tta_dev_primitives.flows.validation.steps import Deliver, Step


def label_of(case: Case, end: Step) -> Label | None:
    """What the end of this task teaches the risk ledger about its stratum, None when nothing was asked of it.

    A label's `passed` is None when the orchestrator could not be asked or its answer cannot be compared.
    """
    ruling = case.ruling
    if (
        case.decided is not None
        or not isinstance(end, Deliver)
        or (ruling is not None and ruling.action == "deliver" and not ruling.withheld)
    ):
        return None
    if ruling is None:
        # The orchestrator answered or judged without a ruling: such a delivery earns budget.
        return (
            Label(None, True) if end.accepted and end.evidence in ("paid", "judge") and _paid(case) else None
        )
    asked, own = ruling.evidence.answer, own_answer(case)
    fields = confirmed_fields(case, own) if case.fielded and own is not None else {}
    word = None if ruling.action == "deliver" else orchestrator_accepts(case, asked)
    return Label(ruling, word, end.accepted, fields=fields)


def compared_label(case: Case) -> Label | None:
    """What a comparison with the orchestrator's own answer says; recorded before the task's own label."""
    ruling = case.ruling
    compared = None if ruling is None else case.comparison_of(ruling.evidence.answer)
    return None if compared is None else Label(ruling, compared.passed, proxy=True, ended=False)


def orchestrator_accepts(case: Case, asked: int, *, whole: bool = False) -> bool | None:
    """The orchestrator's word on one answer: its verdict, or whether its own answer says the same; None: unknown.

    Of a typed answer the fields count that are delivered on the models' votes; with `whole` all that can be compared.
    """
    own, verdict = own_answer(case), case.verdict_of(asked, paid=True)
    if verdict is not None:
        return verdict.score is not None and verdict.score >= case.policy.threshold
    if own is not None and case.answers[asked].final is not None and case.answers[own].final is not None:
        if case.fielded:
            return same_fields(case, asked, own, whole=whole)
        return agree(case.answers[asked].final, case.answers[own].final)
    return None


def _paid(case: Case) -> bool:
    return own_answer(case) is not None or any(v.by.model == case.orchestrator.model for v in case.verdicts)


def own_answer(case: Case) -> int | None:
    """The orchestrator's own usable answer."""
    for i in case.usable:
        if case.answers[i].by.model == case.orchestrator.model:
            return i
    return None
