"""What speaks for the answers of a task, as the risk ledger is asked about it. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from tta_dev_primitives.flows.answers.closed_answers import agree
from tta_dev_primitives.flows.answers.hedging import hedged
from tta_dev_primitives.flows.validation.case import Candidate, Case, Verdict
from tta_dev_primitives.flows.validation.evidence import Evidence
from tta_dev_primitives.flows.validation.field_votes import FieldVotes
from tta_dev_primitives.flows.validation.opinion_costs import tokens_of
from tta_dev_primitives.flows.validation.statistics import price_class

_FIELDS = "fields"
"""The signals of typed objects begin so."""


def families_of(case: Case, group: Sequence[int]) -> int:
    """How many families of models a group of readable answers comes from."""
    return len({case.answers[i].by.family for i in group if case.answers[i].final is not None})


def other_families(case: Case, readable: Sequence[int]) -> list[Candidate]:
    """Free models that may still vote on disputed fields."""
    seen = {case.answers[i].by.family for i in readable}
    return [c for c in case.free_left if c.family not in seen]


def field_evidence(case: Case, readable: Sequence[int], votes: FieldVotes, *, agreed: bool) -> Evidence:
    """What speaks for the fields that are agreed; the others are the orchestrator's, whatever is ruled."""
    # An agreed part and an agreed whole share their labels: what is wrong is counted a task, in either.
    kind = "agree" if agreed else "split"
    voters = other_families(case, readable)[: max(0, case.policy.most_answers - len(readable))]
    pair, disagreed = first_pair(case)
    return Evidence(
        use_case=case.use_case,
        signal=f"{_FIELDS}-{kind}",
        answer=votes.best,
        models=_identities(case, readable, voters),
        pair=pair,
        disagreed=disagreed,
        strong=agreed,
        auditable=_auditable(case, votes.best, case.can_solve),
        schema=case.schema,
    )


def closed_evidence(case: Case, readable: Sequence[int], group: Sequence[int], *, agreed: bool) -> Evidence:
    """What speaks for the answer to a closed task: how many families say the same of how many asked."""
    families, asked = families_of(case, group), len(readable)
    signal = f"agree{families}of{asked}" if agreed else f"split{asked}"
    if asked == 1:
        signal = _alone("single", case, min(group))
    pair, disagreed = first_pair(case)
    return Evidence(
        use_case=case.use_case,
        signal=signal,
        answer=min(group),
        models=_identities(case, readable),
        pair=pair,
        disagreed=disagreed,
        strong=agreed,
        auditable=_auditable(case, min(group), case.can_solve),
    )


def first_pair(case: Case) -> tuple[tuple[str, ...], bool]:
    """The first two models that answered a closed task, empty when there are not two, and whether they disagree."""
    first = case.usable[:2]
    if len(first) < 2 or not case.closed or case.policy.mode != "adaptive":
        return (), False
    # One that cannot be read counts as another opinion: a model that gets worse often loses its form.
    pair = _identities(case, first)
    # How often objects agree in all their fields is watched apart from how often short answers do.
    kind = (_FIELDS,) if case.fielded else ()
    return (*pair, *kind), not agree(*(case.answers[i].final for i in first))


def _alone(signal: str, case: Case, answer: int) -> str:
    """Where nothing but the answer speaks for itself, its own doubts and the task's length tell easy from hard."""
    shown = case.answers[answer]
    if case.closed and hedged(shown.text, shown.final):
        return f"{signal}-doubted"
    return f"{signal}-{'long' if case.long else 'short'}"


def _identities(case: Case, answers: Sequence[int], more: Sequence[Candidate] = ()) -> tuple[str, ...]:
    return tuple(sorted(by.key or by.model for by in (*(case.answers[i].by for i in answers), *more)))


def open_evidence(case: Case, answer: int, free: Verdict | None) -> Evidence:
    """What speaks for the answer to an open task: a free judge's word, or nothing but itself."""
    models = _identities(case, [answer])
    return Evidence(
        use_case=case.use_case,
        signal="judged" if free is not None else _alone("unjudged", case, answer),
        answer=answer,
        models=models if free is None else tuple(sorted([*models, free.by.key or free.by.model])),
        strong=free is not None,
        auditable=_auditable(case, answer, case.can_solve or case.can_judge),
        price_class=_price_class(case, answer),
        checks_saved=_checks_saved(case, answer),
    )


def _auditable(case: Case, answer: int, able: bool) -> bool:
    """Whether a check of this answer is possible, and the month's budget has left what is held for it."""
    if not able or case.month_left is None or case.costs is None:
        return able
    shown = case.answers[answer]
    read = shown.read or tokens_of(shown.text)
    return case.costs.check_bound(read, shown.length, closed=case.closed) <= case.month_left


def _price_class(case: Case, answer: int) -> str:
    """What a verdict on this answer costs against the orchestrator's own answer, in fixed classes."""
    if case.costs is None:
        return ""
    shown = case.answers[answer]
    read = shown.read or tokens_of(shown.text)
    return price_class(case.costs.verdict(read, shown.length), case.costs.answer(read, shown.length))


def _checks_saved(case: Case, answer: int) -> bool:
    """Whether the month has saved what a verdict on this answer needs."""
    if case.costs is None or case.savings is None:
        return True
    shown = case.answers[answer]
    return case.savings >= case.costs.verdict_bound(shown.read or tokens_of(shown.text), shown.length)
