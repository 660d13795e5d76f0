"""The state machine of one task: which evidence is asked for, what is delivered, and what the ledger learns."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tta_dev_primitives.config.models.targets import Price
from tta_dev_primitives.flows.validation.case import (
    Answer,
    Candidate,
    Case,
    Comparison,
    Decided,
    Policy,
    Verdict,
)
from tta_dev_primitives.flows.validation.evidence import Evidence
from tta_dev_primitives.flows.validation.labels import compared_label, label_of
from tta_dev_primitives.flows.validation.next_step import initial_answers, next_step
from tta_dev_primitives.flows.validation.opinion_costs import OpinionCosts
from tta_dev_primitives.flows.validation.risk_state import Label, Ruling
from tta_dev_primitives.flows.validation.steps import (
    Answers,
    Consult,
    Deliver,
    FreeCompare,
    FreeJudge,
    GiveUp,
    PaidSolve,
    PaidVerdict,
    Step,
)

G = Candidate("gemini", "gemini", "free")
L = Candidate("llama", "llama", "free")
D = Candidate("deepseek", "deepseek", "free")
G2 = Candidate("gemini-flash", "gemini", "free")
PRICE = Price(Decimal(3), Decimal(15))
COSTS = OpinionCosts(PRICE)
PAID = Candidate("claude", "claude", "paid")
OTHER = Candidate("gpt", "gpt", "paid")


def closed(*candidates: Candidate, **changes: Any) -> Case:
    return Case("number", "moderate", candidates or (G, L, PAID), PAID, **changes)


def open_(*candidates: Candidate, **changes: Any) -> Case:
    return Case("open", "moderate", candidates or (G, L, PAID), PAID, **changes)


def says(case: Case, *answers: tuple[Candidate, str]) -> Case:
    for by, final in answers:
        case = case.with_answer(Answer(by, final, final=final if case.closed else None))
    return case


def ruled(case: Case, action: Any, estimate: float = 0.1, *, check: bool = False) -> Case:
    """The case after the risk ledger's answer to the question it stands at."""
    step = next_step(case)
    assert isinstance(step, Consult), step
    return case.with_ruling(Ruling(action, step.evidence, 0.9, estimate, 0.02, check=check))


def judged(case: Case, answer: int, by: Candidate, score: float | None) -> Case:
    return case.with_verdict(Verdict(answer, by, score))


# closed tasks


def test_a_closed_task_asks_two_families_at_once() -> None:
    """Two walks that share no model, each starting with another family; nothing paid stands in them."""
    assert next_step(closed(G, G2, L, PAID)) == Answers((("gemini", "gemini-flash"), ("llama",)))


def test_one_free_family_or_an_open_task_asks_for_one_answer_through_the_whole_route() -> None:
    """Without anything to compare one walk is enough, with the paid model as its last resort."""
    assert next_step(closed(G, G2, PAID)) == Answers((("gemini", "gemini-flash", "claude"),))
    assert next_step(open_()) == Answers((("gemini", "llama", "claude"),))


def test_agreement_goes_to_the_risk_ledger_and_is_delivered_with_its_quality() -> None:
    """Two families say the same: the ledger decides; trusted, the answer is accepted on agreement."""
    case = says(closed(), (G, "45"), (L, "45 $"))
    step = next_step(case)
    assert isinstance(step, Consult)
    assert (step.evidence.signal, step.evidence.strong, step.evidence.disagreed) == ("agree2of2", True, False)
    end = next_step(ruled(case, "deliver"))
    assert end == Deliver(0, True, "agreement", 0.9)
    assert label_of(ruled(case, "deliver"), end) is None


def test_two_answers_of_one_family_are_no_agreement() -> None:
    """Agreement counts families, not models."""
    case = says(closed(G, G2, PAID), (G, "45"), (G2, "45"))
    step = next_step(case)
    assert isinstance(step, Consult)
    assert step.evidence.signal == "split2"


def test_a_third_family_is_asked_before_the_paid_model() -> None:
    """Two that disagree: the third free family votes, and two of three agree."""
    case = says(closed(G, L, D, PAID), (G, "45"), (L, "46"))
    assert next_step(case) == Answers((("deepseek",),))
    step = next_step(says(case, (D, "46")))
    assert isinstance(step, Consult)
    assert (step.evidence.signal, step.evidence.answer, step.evidence.disagreed) == ("agree2of3", 1, True)


def test_disagreement_that_is_not_trusted_is_solved_by_the_orchestrator() -> None:
    """All differ and nobody is left: the orchestrator solves, its answer goes out, the stratum is labelled."""
    case = ruled(says(closed(), (G, "45"), (L, "46")), "escalate")
    assert next_step(case) == PaidSolve(("claude",), "escalate")
    case = says(case, (PAID, "46"))
    end = next_step(case)
    assert end == Deliver(2, True, "paid", 1.0)
    assert label_of(case, end) == Label(case.ruling, False)  # the proposed answer was 45


@pytest.mark.parametrize(("paid", "index", "passed"), [("45", 0, True), ("46", 2, False)])
def test_an_audit_delivers_what_the_orchestrator_says(paid: str, index: int, passed: bool) -> None:
    """It is paid for: the free answer goes out when it says the same, else the paid one; both label the stratum."""
    case = ruled(says(closed(), (G, "45"), (L, "45")), "audit")
    assert next_step(case) == PaidSolve(("claude",), "audit")
    case = says(case, (PAID, paid))
    end = next_step(case)
    assert end == Deliver(index, True, "audit", 1.0)
    assert label_of(case, end) == Label(case.ruling, passed)


def test_an_audit_that_cannot_be_done_leaves_a_trusted_answer() -> None:
    """The orchestrator failed: the ledger had trusted the stratum, so the answer is accepted; the label is void."""
    case = ruled(says(closed(), (G, "45"), (L, "45")), "audit").without(["claude"])
    end = next_step(case)
    assert end == Deliver(0, True, "agreement", 0.9)
    assert label_of(case, end) == Label(case.ruling, None)


def test_a_budget_refusal_ends_with_the_best_free_answer() -> None:
    """Refused money never blocks: the agreed answer goes out, not accepted unless it was trusted."""
    escalated = ruled(says(closed(), (G, "45"), (L, "45")), "escalate").without_paid()
    assert next_step(escalated) == Deliver(0, False, "agreement", 0.9)
    split = ruled(says(closed(), (G, "45"), (L, "46")), "escalate").without_paid()
    end = next_step(split)
    assert end == Deliver(0, False, "none", 0.9)
    assert label_of(split, end) == Label(split.ruling, None, accepted=False)
    trusted = ruled(says(closed(), (G, "45"), (L, "45")), "deliver").without_paid()
    assert next_step(trusted) == Deliver(0, True, "agreement", 0.9)


def test_with_no_money_from_the_start_the_ledger_knows_that_nothing_can_be_audited() -> None:
    """The question to the ledger says whether a paid call is possible at all."""
    step = next_step(says(closed(free_only=True), (G, "45"), (L, "45")))
    assert isinstance(step, Consult)
    assert not step.evidence.auditable


def test_one_free_answer_alone_is_its_own_stratum_by_length() -> None:
    """A single answer is judged by its kind of task: short and long ones apart."""
    for is_long, signal in ((False, "single-short"), (True, "single-long")):
        step = next_step(says(closed(G, PAID, long=is_long), (G, "45")))
        assert isinstance(step, Consult)
        assert (step.evidence.signal, step.evidence.strong) == (signal, False)


def test_an_answer_that_lost_its_form_counts_as_a_disagreement() -> None:
    """The watch for drift sees also models whose answers can no longer be read."""
    step = next_step(says(closed(), (G, "45")).with_answer(Answer(L, "some prose")))
    assert isinstance(step, Consult)
    assert (step.evidence.pair, step.evidence.disagreed) == (("gemini", "llama"), True)


def test_a_single_answer_that_doubts_itself_is_its_own_stratum() -> None:
    """Wavering answers share no account with plain ones, unless another family says the same."""
    wavering = Answer(G, "Not stated, so we assume 45.", final="45")
    step = next_step(closed(G, PAID).with_answer(wavering))
    assert isinstance(step, Consult)
    assert step.evidence.signal == "single-doubted"
    step = next_step(says(closed().with_answer(wavering), (L, "45")))
    assert isinstance(step, Consult)
    assert step.evidence.signal == "agree2of2"


def test_closed_answers_that_cannot_be_read_are_judged_like_open_ones() -> None:
    """Without a canonical form there is no agreement, but a judge can read."""
    case = closed().with_answer(Answer(G, "some prose")).with_answer(Answer(L, "other prose"))
    assert next_step(case) == FreeJudge(0, ("llama",))


# failures


def test_an_answer_that_failed_its_checks_is_never_delivered() -> None:
    """The next candidate is asked, the paid ones last; when all failed nothing is handed out."""
    case = open_().with_answer(Answer(G, "", failures=("empty",)))
    assert next_step(case) == Answers((("llama", "claude"),))
    case = case.without(["llama"])
    assert next_step(case) == Answers((("claude",),))
    end = next_step(case.without(["claude"]))
    assert isinstance(end, GiveUp)
    assert end.index == 0
    assert next_step(open_(G).without(["gemini", "claude"])) == GiveUp(
        None, "no candidate gave an answer that passes the local checks"
    )


def test_no_free_model_left_means_the_orchestrator_is_asked_even_outside_the_route() -> None:
    """The orchestrator is the last resort of a route that does not name it."""
    assert next_step(open_(G).without(["gemini"])) == PaidSolve(("claude",), "no_free_answer")
    assert isinstance(next_step(open_(G, free_only=True).without(["gemini"])), GiveUp)


# open tasks


def test_an_open_answer_is_judged_by_a_free_model_of_another_family() -> None:
    """The judge is not of the writer's family; without one the ledger is asked about an unjudged answer."""
    assert next_step(says(open_(G, G2, L, PAID), (G, "text"))) == FreeJudge(0, ("llama",))
    step = next_step(says(open_(G, G2, PAID), (G, "text")))
    assert isinstance(step, Consult)
    assert step.evidence.signal == "unjudged-short"


def test_a_free_yes_that_is_trusted_is_delivered_with_its_score() -> None:
    """The judge's own score is the quality score."""
    case = judged(says(open_(), (G, "text")), 0, L, 0.93)
    assert next_step(ruled(case, "deliver")) == Deliver(0, True, "judge", 0.93)


def test_a_free_no_asks_another_family_and_then_the_orchestrator() -> None:
    """A score below the threshold is not delivered while a better candidate is left."""
    case = judged(says(open_(), (G, "text")), 0, L, 0.4)
    assert next_step(case) == Answers((("llama",),))
    case = judged(says(case, (L, "better")), 1, G, 0.5)
    assert next_step(case) == PaidSolve(("claude",), "rejected")
    assert next_step(says(case, (PAID, "best"))) == Deliver(2, True, "paid", 1.0)
    assert next_step(case.without_paid()) == Deliver(1, False, "judge", 0.5)


def test_an_unreadable_verdict_rejects() -> None:
    """Doubt about a verdict is a no."""
    case = judged(says(open_(), (G, "text")), 0, L, None)
    assert next_step(case) == Answers((("llama",),))


@pytest.mark.parametrize(
    ("score", "end"), [(0.9, Deliver(0, True, "audit", 0.9)), (0.2, PaidSolve(("claude",), "rejected"))]
)
def test_an_open_audit_is_a_terse_verdict(score: float, end: Step) -> None:
    """The verdict labels the stratum; a refused answer is replaced by the orchestrator's own."""
    case = ruled(judged(says(open_(), (G, "text")), 0, L, 0.95), "audit")
    assert next_step(case) == PaidVerdict(0, ("claude",), "audit")
    case = judged(case, 0, PAID, score)
    assert next_step(case) == end
    if isinstance(end, PaidSolve):
        case = says(case, (PAID, "best"))
    assert label_of(case, next_step(case)) == Label(case.ruling, score >= 0.85)


@pytest.mark.parametrize(
    ("wrote", "failure_rate", "asked"),
    [
        (40, 0.05, "answer"),  # 0.00090 for the verdict, 0.00066 for the answer
        (400, 0.05, "verdict"),  # 0.00198 against 0.95 x 0.00606
        (400, 0.7, "answer"),  # 0.3 x 0.00606: a yes would be rare
    ],
)
def test_an_open_escalation_asks_for_the_cheaper_opinion(wrote: int, failure_rate: float, asked: str) -> None:
    """3 and 15 USD a million tokens, a task of 20 tokens: a verdict reads 169 + 20 + the answer, and writes 14."""
    case = open_(costs=COSTS).with_answer(Answer(G, "text", read=20, wrote=wrote))
    case = ruled(judged(case, 0, L, 0.95), "escalate", failure_rate)
    answer, verdict = PaidSolve(("claude",), "escalate"), PaidVerdict(0, ("claude",), "escalate")
    assert next_step(case) == (answer if asked == "answer" else verdict)


@pytest.mark.parametrize(
    ("wrote", "left", "auditable"), [(40, "0.01", True), (40, "0.003", False), (4000, "0.01", False)]
)
def test_an_answer_whose_check_the_month_cannot_pay_is_not_trusted(
    wrote: int, left: str, auditable: bool
) -> None:
    """Long answers near the end of the budget: seen before any check is refused."""
    case = open_(costs=COSTS, month_left=Decimal(left)).with_answer(Answer(G, "text", read=20, wrote=wrote))
    step = next_step(judged(case, 0, L, 0.95))
    assert isinstance(step, Consult)
    assert step.evidence.auditable == auditable


def test_a_verdict_that_savings_do_not_cover_becomes_the_paid_answer() -> None:
    """Never dearer than the orchestrator alone: its answer at once, which is what it alone would have cost."""
    case = open_(costs=COSTS).with_answer(Answer(G, "text", read=20, wrote=400))
    case = ruled(judged(case, 0, L, 0.95), "escalate", 0.05)
    assert next_step(case.without_extras()) == PaidSolve(("claude",), "escalate")
    audited = ruled(judged(says(open_(), (G, "text")), 0, L, 0.95), "audit")
    assert next_step(audited.without_extras()) == PaidSolve(("claude",), "audit")


def test_a_drawn_check_is_a_verdict_although_the_answer_is_cheaper() -> None:
    """The first labels of a kind must be the orchestrator's own word, not that of a free model that compares."""
    case = open_(costs=COSTS).with_answer(Answer(G, "text", read=20, wrote=40))
    case = ruled(judged(case, 0, L, 0.95), "escalate", 0.05, check=True)
    assert next_step(case) == PaidVerdict(0, ("claude",), "escalate")
    assert next_step(case.without_extras()) == PaidSolve(("claude",), "escalate")


def test_a_paid_answer_to_an_open_task_is_compared_with_the_free_one() -> None:
    """A free model of another family compares the two: a proxy label. The paid answer goes out."""
    case = judged(says(open_(), (G, "free")), 0, L, 0.95)
    case = says(ruled(case, "escalate").without_extras(), (PAID, "paid"))
    step = next_step(case)
    assert step == FreeCompare(0, 1, ("llama", "gemini"))
    compared = case.with_comparison(Comparison(0, L, passed=False))
    end = next_step(compared)
    assert end == Deliver(1, True, "paid", 1.0)
    label, proxy = label_of(compared, end), compared_label(compared)
    assert label is not None
    assert proxy is not None
    assert (label.passed, label.proxy) == (None, False)
    assert (proxy.passed, proxy.proxy, proxy.ended) == (False, True, False)
    assert next_step(case.without(["llama", "gemini"])) == Deliver(1, True, "paid", 1.0)


@pytest.mark.parametrize(
    ("share", "coin", "savings", "tried"),
    [
        ("0.05", 0.7, "0", True),
        ("0.05", 0.9, "0", False),
        ("0.3", 0.1, "0", True),
        ("0.3", 0.2, "0", False),
        ("0.3", 0.2, "0.01", True),
        ("1", 0.9, "0", True),  # as dear as the orchestrator: the user's own choice
    ],
)
def test_a_paid_executor_is_tried_by_the_coin_until_it_has_saved(
    share: str, coin: float, savings: str, tried: bool
) -> None:
    """0.04 / share of the tasks while nothing is saved; every task once savings are there."""
    other = replace(OTHER, price=Price(3 * Decimal(share), 15 * Decimal(share)))
    paid = replace(PAID, price=PRICE)
    case = Case("open", "moderate", (other, paid), paid, coin=coin, savings=Decimal(savings))
    first = "gpt" if tried else "claude"
    step = next_step(case)
    assert isinstance(step, Answers)
    assert step.slots[0][0] == first


def test_a_judge_whose_window_is_too_small_is_not_asked() -> None:
    """The orchestrator judges then; where it cannot either it answers, and without it the answer stays unjudged."""
    case = says(open_(), (G, "long")).without_judges(["llama"])
    assert isinstance(next_step(case), Consult)
    ruled_case = ruled(case, "escalate")
    assert next_step(ruled_case) == PaidVerdict(0, ("claude",), "escalate")
    short = ruled_case.without_judges(["claude"])
    assert next_step(short) == PaidSolve(("claude",), "escalate")
    assert next_step(short.without(["claude"])) == Deliver(0, False, "none", 0.9)


def test_the_same_task_again_ends_as_before() -> None:
    """The model whose answer was delivered answers from the store; no evidence is asked for, and nothing is taught."""
    case = open_(decided=Decided("gemini", "audit", 0.93, "claude"))
    assert next_step(case) == Answers((("gemini",),))
    answered = says(case, (G, "text"))
    end = next_step(answered)
    assert end == Deliver(0, True, "audit", 0.93)
    assert label_of(answered, end) is None


# modes and operating points


def test_never_validates_nothing_but_the_local_checks() -> None:
    """One answer, no judge, no ledger; accepted means that the checks passed."""
    case = closed(policy=Policy(mode="never"))
    assert next_step(case) == Answers((("gemini", "llama", "claude"),))
    assert next_step(says(case, (G, "45"))) == Deliver(0, True, "checks")


def test_always_asks_for_a_paid_verdict_on_every_answer() -> None:
    """A no goes through the candidates that are left, the orchestrator last."""
    case = says(closed(policy=Policy(mode="always")), (G, "45"))
    assert next_step(case) == PaidVerdict(0, ("claude",), "always")
    assert next_step(judged(case, 0, PAID, 0.9)) == Deliver(0, True, "judge", 0.9)
    refused = judged(case, 0, PAID, 0.1)
    assert next_step(refused) == Answers((("llama",),))
    twice = judged(says(refused, (L, "46")), 1, PAID, None)
    assert next_step(twice) == PaidSolve(("claude",), "rejected")
    assert next_step(case.without_paid()) == Deliver(0, False, "checks")


def test_the_order_of_the_file_leads_where_free_models_are_not_preferred() -> None:
    """Quality-optimised: a paid model first in the route answers first, and its answer is delivered."""
    policy = Policy(0.95, prefer_free=False)
    case = closed(PAID, G, policy=policy)
    assert next_step(case) == Answers((("claude", "gemini"),))
    end = next_step(says(case, (PAID, "45")))
    assert end == Deliver(0, True, "paid", 1.0)
    assert label_of(says(case, (PAID, "45")), end) == Label(None, True)
    assert initial_answers("number", policy, (G, L, D, PAID)) == 3


def test_a_paid_executor_that_is_not_the_orchestrator_needs_evidence_too() -> None:
    """Quality is measured by the orchestrator: another paid model's answer goes through the ledger."""
    case = says(closed(OTHER, PAID, policy=Policy(prefer_free=False)), (OTHER, "45"))
    assert isinstance(next_step(case), Consult)


def test_two_answers_are_enough_for_cost_and_balance() -> None:
    """The number of first answers follows the format, the free families and the policy."""
    assert initial_answers("number", Policy(), (G, L, D, PAID)) == 2
    assert initial_answers("number", Policy(agreement=3), (G, L, D, PAID)) == 3
    assert initial_answers("open", Policy(), (G, L, PAID)) == 1
    assert initial_answers("number", Policy(), (G, G2, PAID)) == 1
    assert initial_answers("number", Policy(mode="always"), (G, L, PAID)) == 1


# every path ends

outcomes = st.lists(
    st.sampled_from(["45", "46", "47", "fail", "unreadable", "bad"]), min_size=40, max_size=40
)


@given(
    outcomes,
    st.lists(st.sampled_from([G, L, D, G2, PAID, OTHER]), min_size=1, max_size=6, unique=True),
    st.sampled_from(["number", "open"]),
    st.sampled_from(["adaptive", "always", "never"]),
    st.booleans(),
    st.booleans(),
    st.sampled_from([0, 1, 2, 99]),
)
def test_every_task_ends_whatever_happens(
    events: list[str],
    route: list[Candidate],
    fmt: Any,
    mode: Any,
    prefer: bool,
    is_free_only: bool,
    refuse_at: int,
) -> None:
    """Any mix of answers, failures, verdicts, rulings and refused money ends, without a paid call too many."""
    case = Case(
        fmt, "simple", tuple(route), PAID, Policy(prefer_free=prefer, mode=mode), free_only=is_free_only
    )
    by_name = {c.model: c for c in (*route, PAID)}
    paid_calls = 0
    for turn, event in enumerate(events):
        if turn == refuse_at:
            case = case.without_paid()
        step = next_step(case)
        if isinstance(step, Deliver | GiveUp):
            break
        names = step.slots[0] if isinstance(step, Answers) else getattr(step, "models", ())
        paid_calls += bool(names) and by_name[names[0]].billing == "paid"
        assert not (case.free_only and names and by_name[names[0]].billing == "paid")
        case = _happens(case, step, names, event, by_name)
    else:
        pytest.fail("the task did not end")
    assert paid_calls <= 2 + len([c for c in route if c.billing == "paid"]) + (3 if mode == "always" else 0)
    if isinstance(step, Deliver):
        assert not case.answers[step.index].failures
        _never_below_the_threshold(case, step)


def _happens(case: Case, step: Step, names: Any, event: str, by_name: dict[str, Candidate]) -> Case:
    if isinstance(step, Consult):
        action = {"45": "deliver", "46": "audit"}.get(event, "escalate")
        return case.with_ruling(Ruling(action, step.evidence, 0.9, 0.2))  # type: ignore[arg-type]
    if event == "fail":
        return case.without(names)
    by = by_name[names[0]]
    if isinstance(step, FreeJudge | PaidVerdict):
        score = {"45": 0.95, "46": 0.5, "47": 0.0}.get(event)
        return case.with_verdict(Verdict(step.answer, by, score))
    failures = ("empty",) if event == "bad" else ()
    final = event if event.isdigit() and case.closed else None
    return case.with_answer(Answer(by, event, failures, final))


def _never_below_the_threshold(case: Case, step: Deliver) -> None:
    """What a judge refused is not delivered as accepted."""
    verdict = case.verdict_of(step.index, paid=True) or case.verdict_of(step.index, paid=False)
    if step.accepted and verdict is not None and case.answers[step.index].by.model != PAID.model:
        assert verdict.score is not None
        assert verdict.score >= case.policy.threshold


def test_a_label_without_a_ruling_is_given_only_for_what_the_orchestrator_made_or_endorsed() -> None:
    """Answers that nobody paid for neither earn nor use budget outside the ledger."""
    free = says(closed(policy=Policy(mode="never")), (G, "45"))
    assert label_of(free, next_step(free)) is None
    assert label_of(free, GiveUp(None, "x")) is None
    always = judged(says(closed(policy=Policy(mode="always")), (G, "45")), 0, PAID, 0.9)
    assert label_of(always, next_step(always)) == Label(None, True)


def test_evidence_names_the_models_behind_the_names() -> None:
    """Trust is earned by the model behind a name: another API id is another stratum."""
    one = next_step(
        says(
            closed(replace(G, key="google|gemini-2.5"), L, PAID),
            (replace(G, key="google|gemini-2.5"), "1"),
            (L, "1"),
        )
    )
    two = next_step(
        says(
            closed(replace(G, key="google|gemini-3"), L, PAID),
            (replace(G, key="google|gemini-3"), "1"),
            (L, "1"),
        )
    )
    assert isinstance(one, Consult)
    assert isinstance(two, Consult)
    assert one.evidence.stratum != two.evidence.stratum
    assert isinstance(one.evidence, Evidence)
