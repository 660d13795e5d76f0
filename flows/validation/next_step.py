"""What to do next with one task: a pure state machine that the flow and the offline replay both drive.

    while True:
        step = next_step(case)
        match step:
            case Answers(slots):      # one execute chain a slot, at the same time; each walks its models in order
                case = case.with_answer(Answer(Candidate.of(target), text, failures, final))  # each that came
                case = case.without(models_that_brought_none)
            case FreeJudge(answer, models) | PaidVerdict(answer, models, reason):
                case = case.with_verdict(Verdict(answer, by, score_or_None))  # or .without(models) that failed
                # .without_judges(models) whose window is too small; .without_extras() when savings do not cover it
            case FreeCompare(answer, own, models):
                case = case.with_comparison(Comparison(answer, by, passed))  # or .without(models) that failed
            case Consult(evidence):   # the risk ledger, one transaction; `coin` is uniform in [0, 1)
                ruling, state = rule(state, evidence, risk_policy, coin)      # flows.validation, in its store
                case = case.with_ruling(ruling)
            case PaidSolve(models, reason):
                case = case.with_answer(...)          # or .without(models), or .without_paid() on the budget
            case Deliver() | GiveUp():
                label = label_of(case, step)          # tell the risk ledger what this item taught, if anything
                break

`Answers` asks for nothing paid unless no free candidate is left or the file's order puts a paid model first.
A paid refusal by the budget is `case.without_paid()`: the machine then ends with the best free answer.
The loop is finite: every step either adds an answer, a verdict or a ruling, or takes a model away.
"""

from __future__ import annotations

from collections.abc import Sequence

from tta_dev_primitives.flows.answers.closed_answers import agree
from tta_dev_primitives.flows.validation.case import Candidate, Case, Policy
from tta_dev_primitives.flows.validation.case_evidence import (
    closed_evidence,
    families_of,
    field_evidence,
    open_evidence,
    other_families,
)
from tta_dev_primitives.flows.validation.evidence import EvidenceName
from tta_dev_primitives.flows.validation.field_votes import (
    free_votes,
)
from tta_dev_primitives.flows.validation.labels import orchestrator_accepts, own_answer
from tta_dev_primitives.flows.validation.opinion_costs import tokens_of
from tta_dev_primitives.flows.validation.risk_state import Ruling
from tta_dev_primitives.flows.validation.steps import (
    Answers,
    Consult,
    Deliver,
    FreeCompare,
    FreeJudge,
    GiveUp,
    PaidSolve,
    PaidVerdict,
    Reason,
    Step,
)


def initial_answers(answer_format: str, policy: Policy, candidates: Sequence[Candidate]) -> int:
    """How many answers to gather at the start: more than one only where free answers can be compared."""
    families = {c.family for c in candidates if c.billing == "free"}
    if policy.mode != "adaptive" or answer_format == "open" or len(families) < 2:
        return 1
    if not policy.prefer_free and candidates[0].billing == "paid":
        return 1
    return min(policy.first_answers, len(families))


def next_step(case: Case) -> Step:
    """The one next thing to do for this task. Deterministic; see the module's page for how to drive it."""
    if case.decided is not None:
        return _as_before(case)
    own = own_answer(case)
    if own is not None:
        return _compared(case, own) or _with_own_answer(case, own)
    if not case.usable:
        return _first(case)
    if case.policy.mode == "never":
        return Deliver(case.usable[0], True, "checks")
    if case.policy.mode == "always":
        return _judge_each(case)
    # A closed task none of whose answers can be read is judged like an open one.
    if case.closed and any(case.answers[i].final is not None for i in case.usable):
        return _compare(case)
    return _judge_open(case)


def _as_before(case: Case) -> Step:
    """The same task again: the answer that was delivered then, on the evidence of then."""
    before = case.decided
    assert before is not None
    for i, answer in enumerate(case.answers):
        if answer.by.model == before.model:
            return Deliver(i, True, before.evidence, before.quality)
    return Answers(((before.model,),))


def _compared(case: Case, own: int) -> FreeCompare | None:
    """What a paid answer to an open task says of the free one: a cheap model compares the two, once."""
    ruling = case.ruling
    if ruling is None or not ruling.compare or case.policy.mode != "adaptive" or case.comparisons:
        return None
    asked = ruling.evidence.answer
    if asked == own or case.answers[own].fields is not None or orchestrator_accepts(case, asked) is not None:
        return None
    models = tuple(c.model for c in case.comparers_for(asked))
    return FreeCompare(asked, own, models) if models else None


def _first(case: Case) -> Step:
    """No usable answer yet: ask free models, or the models that the route names; the orchestrator last."""
    count = initial_answers(case.answer_format, case.policy, case.candidates) if not case.answers else 1
    if count > 1 and len(case.free_left) > 1:
        return Answers(_slots(case.free_left, count))
    if case.left:
        return Answers((tuple(c.model for c in case.left),))
    if case.can_solve:
        return PaidSolve((case.orchestrator.model,), "no_free_answer")
    return GiveUp(0 if case.answers else None, "no candidate gave an answer that passes the local checks")


def _slots(free: Sequence[Candidate], count: int) -> tuple[tuple[str, ...], ...]:
    """Disjoint walks, each starting with another family; the rest stand behind the first walk."""
    heads: dict[str, Candidate] = {}
    for candidate in free:
        if len(heads) < count:
            heads.setdefault(candidate.family, candidate)
    first = {c.model for c in heads.values()}
    walks = [[c.model] for c in heads.values()]
    walks[0] += [c.model for c in free if c.model not in first]
    return tuple(tuple(walk) for walk in walks)


def _largest_agreement(case: Case, *, of: Sequence[int]) -> tuple[int, ...]:
    """The answers that all say the same, of the most families; the earliest when several are as large."""
    best: tuple[int, ...] = ()
    for i in of:
        group = [i]
        for j in of:
            if j != i and all(agree(case.answers[j].final, case.answers[k].final) for k in group):
                group.append(j)
        if families_of(case, group) > families_of(case, best):
            best = tuple(group)
    return best


def _proposed(case: Case) -> int | None:
    """The answer that would be delivered without the orchestrator's own."""
    others = [i for i in case.usable if case.answers[i].by.model != case.orchestrator.model]
    if not others:
        return None
    if case.closed and any(case.answers[i].final is not None for i in others):
        readable = [i for i in others if case.answers[i].final is not None]
        return min(_largest_agreement(case, of=readable))
    return max(others, key=lambda i: (_score(case, i), -i))


def _score(case: Case, answer: int) -> float:
    """How a judge saw it: the paid verdict, else the free one, else unknown (just below accepted)."""
    verdict = case.verdict_of(answer, paid=True) or case.verdict_of(answer, paid=False)
    if verdict is None:
        return case.policy.threshold - 1e-9
    return -1.0 if verdict.score is None else verdict.score


def _compare(case: Case) -> Step:
    """Closed tasks: free agreement first, then the risk ledger, then the orchestrator's own solution."""
    readable = [i for i in case.usable if case.answers[i].final is not None]
    if case.fielded and len(readable) > 1:
        return _compare_fields(case, readable)
    group = _largest_agreement(case, of=readable)
    agreed = families_of(case, group) >= case.policy.agreement
    if not agreed and case.free_left and len(case.usable) < case.policy.most_answers:
        return Answers((tuple(c.model for c in case.free_left),))
    best = min(group)
    if case.ruling is None:
        return Consult(closed_evidence(case, readable, group, agreed=agreed))
    if case.ruling.action == "deliver":
        return _trusted(case, best, agreed=agreed)
    if case.can_solve:
        return PaidSolve((case.orchestrator.model,), case.ruling.action)
    if case.ruling.action == "audit":
        return _trusted(case, best, agreed=agreed)
    return Deliver(best, False, "agreement" if agreed else "none", case.ruling.quality)


def _compare_fields(case: Case, readable: Sequence[int]) -> Step:
    """Typed tasks: another family votes on the fields that differ, then the orchestrator, on these fields only."""
    votes = free_votes(case, readable)
    others = tuple(c.model for c in other_families(case, readable))
    if votes.left and others and len(case.usable) < case.policy.most_answers:
        return Answers((others,), votes.left, votes.best)
    agreed = len(votes.left) < votes.compared
    if case.ruling is None:
        return Consult(field_evidence(case, readable, votes, agreed=agreed))
    ruling = case.ruling
    left = tuple(dict.fromkeys((*votes.left, *(path for path in ruling.withheld if path in votes.voted))))
    trusted = ruling.action == "deliver" or (ruling.action == "audit" and not case.can_solve)
    if trusted and not left:
        return _trusted(case, votes.best, agreed=True)
    if case.can_solve and ruling.action != "deliver":
        return PaidSolve((case.orchestrator.model,), ruling.action)
    if case.can_solve:
        part = left if len(left) < votes.compared else ()
        return PaidSolve((case.orchestrator.model,), "disputed", part, votes.best if part else 0)
    return Deliver(votes.best, False, "none" if left else "agreement", ruling.quality)


def _trusted(case: Case, index: int, *, agreed: bool) -> Deliver:
    quality = case.ruling.quality if case.ruling is not None else None
    return Deliver(index, True, "agreement" if agreed else "checks", quality)


def _judge_open(case: Case) -> Step:
    """Open tasks: a free judge of another family, the risk ledger, a paid verdict, a paid solution."""
    best = _proposed(case)
    assert best is not None
    threshold = case.policy.threshold
    free = case.verdict_of(best, paid=False)
    if case.verdict_of(best, paid=True) is None:
        if free is None and case.judges_for(best):
            return FreeJudge(best, tuple(c.model for c in case.judges_for(best)))
        if free is not None and _score(case, best) < threshold:
            return _after_rejection(case, best)
    if case.ruling is None:
        return Consult(open_evidence(case, best, free))
    evidence: EvidenceName = "judge" if free is not None else "checks"
    quality = free.score if free is not None else case.ruling.quality
    if case.ruling.action == "deliver":
        return Deliver(best, True, evidence, quality)
    return _paid_opinion(case, best, evidence, quality)


def _after_rejection(case: Case, best: int) -> Step:
    """The best answer so far was judged too low: another free model, then the orchestrator, then say so."""
    if case.free_left and len(case.usable) < case.policy.most_answers:
        return Answers((tuple(c.model for c in case.free_left),))
    if case.can_solve:
        return PaidSolve((case.orchestrator.model,), "rejected")
    return Deliver(best, False, "judge", max(_score(case, best), 0.0))


def _paid_opinion(case: Case, best: int, evidence: EvidenceName, quality: float | None) -> Step:
    """The ledger asked for the orchestrator: a verdict, or a solution where a verdict would rarely do."""
    ruling = case.ruling
    assert ruling is not None
    audit = ruling.action == "audit"
    verdict = case.verdict_of(best, paid=True)
    if verdict is not None:
        return _after_paid_verdict(case, best, "audit" if audit else "judge")
    reason: Reason = "audit" if audit else "escalate"
    if case.can_judge and not _solve_rather(case, best, ruling):
        return PaidVerdict(best, (case.orchestrator.model,), reason)
    if case.can_solve:
        return PaidSolve((case.orchestrator.model,), reason)
    trusted = audit and ruling.evidence.answer == best
    return Deliver(best, trusted, evidence if trusted else "none", quality)


def _solve_rather(case: Case, answer: int, ruling: Ruling) -> bool:
    """Whether the orchestrator's own answer is asked for in place of a verdict: it is cheaper, or savings are short."""
    if not case.extras:
        return True
    if ruling.check or not case.can_solve or case.costs is None:
        return False
    shown = case.answers[answer]
    return case.costs.answer_is_cheaper(shown.read or tokens_of(shown.text), shown.length, ruling.estimate)


def _after_paid_verdict(case: Case, best: int, evidence: EvidenceName) -> Step:
    score = _score(case, best)
    if score >= case.policy.threshold:
        return Deliver(best, True, evidence, score)
    if case.can_solve:
        return PaidSolve((case.orchestrator.model,), "rejected")
    return _after_rejection(case, best)


def _judge_each(case: Case) -> Step:
    """`validation.mode: always`: a paid verdict on every answer, through the candidates that are left."""
    unjudged = [i for i in case.usable if case.verdict_of(i, paid=True) is None]
    judged = [i for i in case.usable if case.verdict_of(i, paid=True) is not None]
    best = max(judged, key=lambda i: (_score(case, i), -i)) if judged else case.usable[0]
    if judged and _score(case, best) >= case.policy.threshold:
        return Deliver(best, True, "judge", _score(case, best))
    if unjudged and case.orchestrator_left:
        return PaidVerdict(unjudged[0], (case.orchestrator.model,), "always")
    if unjudged:
        return Deliver(unjudged[0], False, "checks")
    return _after_rejection(case, best)


def _with_own_answer(case: Case, own: int) -> Deliver:
    """The orchestrator has answered: its word goes, and a free answer that says the same may stand for it."""
    best = _proposed(case)
    if case.ruling is not None and case.ruling.action == "audit":
        same = best is not None and agree(case.answers[best].final, case.answers[own].final)
        return Deliver(best if same and best is not None else own, True, "audit", 1.0)
    return Deliver(own, True, "paid", 1.0)
