"""The risk ledger: bounds, gates, audits, drift alarms and the certificate keep what they promise."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.risk_world import learn

from tta_dev_primitives.flows.validation.audit_bound import LEAST, AuditBound
from tta_dev_primitives.flows.validation.evidence import Evidence
from tta_dev_primitives.flows.validation.risk import observe, rule
from tta_dev_primitives.flows.validation.risk_state import Label, RiskPolicy, RiskState, Ruling
from tta_dev_primitives.flows.validation.statistics import Watch, posterior, upper_bound, watch

AGREED = Evidence("moderate", "agree2of2", 0, ("a", "b"), ("a", "b"), disagreed=False, strong=True)
SPLIT = Evidence("moderate", "split2", 0, ("a", "b"), ("a", "b"), disagreed=True)


def run(
    state: RiskState, evidence: Evidence, policy: RiskPolicy, coin: float, failed: bool
) -> tuple[Ruling, RiskState, int]:
    """One item whose answer the orchestrator would endorse unless `failed`; returns the missed failures too."""
    ruling, state = rule(state, evidence, policy, coin)
    state, _ = learn(state, Label(ruling, None if ruling.action == "deliver" else not failed), policy)
    return ruling, state, int(failed and ruling.action == "deliver")


def play(
    policy: RiskPolicy, rng: random.Random, items: int, failing: Callable[[int], float]
) -> tuple[RiskState, int, float]:
    """Many agreed items whose failure rate may change; returns state, missed failures, worst excess over the budget."""
    state, missed, excess = RiskState(), 0, -math.inf
    for item in range(items):
        _, state, miss = run(state, AGREED, policy, rng.random(), rng.random() < failing(item))
        missed += miss
        if item >= 100:
            excess = max(excess, missed - policy.eps * (item + 1))
    return state, missed, excess


def steady(rate: float) -> Callable[[int], float]:
    """A failure rate that does not change."""
    return lambda _: rate


# checks that are under way


@pytest.mark.parametrize("gate", ["balanced", "strict"])
def test_checks_of_one_kind_are_few_at_once(gate: Any) -> None:
    """The third answer of an unknown kind waits for the words on the first two; nothing of it is recorded."""
    policy = RiskPolicy(0.15, gate)
    state, rulings = RiskState(), []
    for _ in range(3):
        ruling, state = rule(state, AGREED, policy, 0.5, under_way=len(rulings))
        rulings.append(ruling)
    assert [one.put_off for one in rulings] == [False, False, True]
    assert state.strata[AGREED.stratum].tail == "??"
    assert not rulings[-1].checks
    assert not rule(state, AGREED, policy, 0.5)[0].put_off


def test_what_is_known_lets_more_checks_run_at_once() -> None:
    """A kind that is always rejected is soon slowed down no more; one that is trusted never waits."""
    for failed, put_off in ((True, [True, False, False]), (False, [True, False, False])):
        state, seen = RiskState(), []
        for labels in range(41):
            if labels in (0, 20, 40):
                seen.append(rule(state, AGREED, RiskPolicy(0.15), 0.5, under_way=15)[0].put_off)
            ruling, state = rule(state, AGREED, RiskPolicy(0.15), 0.0)
            state, _ = learn(state, Label(ruling, not failed), RiskPolicy(0.15))
        assert seen == put_off
    assert rule(state, AGREED, RiskPolicy(0.15), 0.99, under_way=1000)[0].action == "deliver"


def test_what_cannot_be_checked_does_not_wait() -> None:
    """No word on it would come."""
    alone = replace(AGREED, auditable=False)
    assert not rule(RiskState(), alone, RiskPolicy(0.15), 0.5, under_way=50)[0].put_off


# bounds


@pytest.mark.parametrize(("eps", "clean"), [(0.25, 23), (0.15, 43), (0.05, 146)])
def test_volume_of_clean_audits_that_a_bound_needs(eps: float, clean: int) -> None:
    """With ten strata, about 23, 43 and 146 clean audits bring the bound below a threshold of 0.75, 0.85 and 0.95."""
    first = next(n for n in range(1000) if upper_bound(n, 0, 0.05 / 10) <= eps)
    assert abs(first - clean) <= 5


@given(st.integers(0, 200), st.integers(0, 200), st.floats(1e-6, 0.2))
def test_the_bound_is_above_what_was_seen_and_falls_with_evidence(n: int, k: int, delta: float) -> None:
    """More failures raise it, more clean labels lower it, more confidence raises it."""
    k = min(k, n)
    bound = upper_bound(n, k, delta)
    assert (k / n if n else 0) <= bound <= 1
    assert upper_bound(n + 1, k, delta) <= bound + 1e-9
    assert upper_bound(n + 1, k + 1, delta) >= bound - 1e-9
    assert upper_bound(n, k, delta / 2) >= bound - 1e-9


@pytest.mark.parametrize("rate", [0.02, 0.1, 0.3])
def test_the_bound_holds_at_every_moment(rate: float) -> None:
    """Over whole paths, looked at after each label, the true rate is passed in fewer runs than delta."""
    rng, wrong = random.Random(7), 0
    for _ in range(200):
        k = 0
        for n in range(1, 151):
            k += rng.random() < rate
            if upper_bound(n, k, 0.05) < rate:
                wrong += 1
                break
    assert wrong <= 200 * 0.05


def test_the_prior_moves_to_what_is_seen() -> None:
    """Prior 0.5 bad and 3 good, then 1 bad of 10, in plain sums; a second, poor kind fades with clean labels only."""
    mean, variance = posterior(10, 1, ((1.0, 0.5, 3.0),))
    assert mean == pytest.approx(1.5 / 13.5)
    assert variance == pytest.approx(mean * (1 - mean) / 14.5)
    two = ((0.9, 0.8, 10.0), (0.1, 4.0, 5.0))
    clean, poor = posterior(8, 0, two), posterior(8, 4, two)
    assert clean[0] < 0.05
    assert poor[0] > 0.39, "half of eight labels is what the poor kind does"


# gates


def test_a_new_ledger_trusts_nothing() -> None:
    """The first items go to the orchestrator: no budget has been earned yet."""
    ruling, state = rule(RiskState(), AGREED, RiskPolicy(0.15), 0.99)
    assert ruling.action == "escalate"
    assert state.items == 0, "what is not delivered yet earns nothing"
    assert learn(state, Label(ruling, True), RiskPolicy(0.15))[0].items == 1


@pytest.mark.parametrize("gate", ["balanced", "strict"])
def test_good_evidence_earns_trust_and_audits_go_on(gate: str) -> None:
    """Clean labels open the gate; from then on items are delivered, at least 5 % of them audited."""
    policy = RiskPolicy(0.15, gate)  # type: ignore[arg-type]
    state, rng, actions = RiskState(), random.Random(1), []
    for _ in range(1500):
        ruling, state, _ = run(state, AGREED, policy, rng.random(), failed=False)
        actions.append(ruling.action)
    assert actions[-300:].count("escalate") == 0
    assert actions.count("deliver") > (1300 if gate == "balanced" else 900)
    assert actions.count("audit") >= 0.03 * 1500
    assert ruling.quality > 0.9


def test_hopeless_evidence_is_never_delivered() -> None:
    """Above a failure estimate of 0.4 the orchestrator answers, however much budget is left."""
    policy, rng, state = RiskPolicy(0.9), random.Random(2), RiskState()
    for _ in range(300):
        ruling, state, _ = run(state, SPLIT, policy, rng.random(), failed=rng.random() < 0.7)
        if state.strata[SPLIT.stratum].n > 10:
            assert ruling.action == "escalate"


@pytest.mark.parametrize("eps", [0.25, 0.15, 0.05])
def test_the_strict_gate_keeps_the_budget_at_any_failure_rate(eps: float) -> None:
    """At every moment after the first 100 items, for failure rates from a tenth of the budget to twice of it."""
    for seed, factor in enumerate((0.1, 0.5, 0.8, 1.0, 1.3, 2.0)):
        _, _, excess = play(RiskPolicy(eps, "strict"), random.Random(seed), 600, steady(eps * factor))
        assert excess <= 0, (factor, excess)


@pytest.mark.parametrize("eps", [0.25, 0.15, 0.05])
def test_the_balanced_gate_keeps_the_budget_where_evidence_is_good(eps: float) -> None:
    """The same for evidence that fails at half the budget or less; it delivers over 70 %, on average."""
    for factor in (0.0, 0.1, 0.3, 0.5):
        unjudged = 0
        for seed in range(3):
            state, _, excess = play(RiskPolicy(eps), random.Random(seed), 600, steady(eps * factor))
            assert excess <= 0, (factor, excess)
            unjudged += sum(s.unjudged for s in state.strata.values())
        assert unjudged > 0.7 * 3 * 600


@pytest.mark.parametrize("eps", [0.25, 0.15, 0.05])
def test_the_balanced_gate_stays_near_the_budget_at_the_edge(eps: float) -> None:
    """Where the failure rate is the budget itself the approximation may be passed, by three standard errors at most."""
    for seed, factor in enumerate((0.8, 1.0, 1.2, 1.5, 2.0)):
        _, missed, _ = play(RiskPolicy(eps), random.Random(seed), 600, steady(eps * factor))
        assert missed <= eps * 600 + 3 * math.sqrt(eps * (1 - eps) * 600)


def test_zero_risk_means_that_everything_is_paid() -> None:
    """A threshold of 1 leaves no budget for un-judged answers."""
    state, _, _ = play(RiskPolicy(0.0), random.Random(3), 200, steady(0.0))
    assert sum(s.unjudged for s in state.strata.values()) == 0


def test_without_a_paid_call_untrusted_items_neither_use_nor_earn_budget() -> None:
    """A free-only run cannot teach the ledger anything."""
    ruling, state = rule(RiskState(), replace(AGREED, auditable=False), RiskPolicy(0.15), 0.5)
    assert (ruling.action, state.items) == ("escalate", 0)


def test_a_refused_escalation_gives_its_item_back() -> None:
    """An item whose paid call was refused is delivered as not accepted: it does not enlarge the budget."""
    policy = RiskPolicy(0.15)
    ruling, state = rule(RiskState(), AGREED, policy, 0.5)
    state, _ = learn(state, Label(ruling, None, accepted=False), policy)
    assert state.items == 0


def test_an_audit_that_was_not_done_is_charged_as_an_unjudged_delivery() -> None:
    """The coin said audit, the orchestrator failed: the answer went out un-judged and counts as such."""
    policy, rng, state = RiskPolicy(0.25), random.Random(4), RiskState()
    for _ in range(60):
        _, state, _ = run(state, AGREED, policy, rng.random(), failed=False)
    before = state.strata[AGREED.stratum].unjudged
    ruling, state = rule(state, AGREED, policy, 0.0)
    assert ruling.action == "audit"
    state, _ = learn(state, Label(ruling, None), policy)
    assert state.strata[AGREED.stratum].unjudged == before + 1
    assert state.audit_bound.unaudited == 1


def test_what_the_orchestrator_did_itself_earns_budget() -> None:
    """A delivery it made or endorsed without a ruling counts in t."""
    assert learn(RiskState(), Label(None, True, use_case="simple"), RiskPolicy(0.15))[0].items == 1


@pytest.mark.parametrize("kwargs", [{"eps": 1.5}, {"eps": -0.1}, {"eps": 0.1, "audit_floor": 0.001}])
def test_impossible_policies_are_refused(kwargs: dict[str, float]) -> None:
    """Budgets outside 0..1, and audits rarer than the certificate allows, are errors."""
    with pytest.raises(ValueError, match=r"eps|audit_floor"):
        RiskPolicy(**kwargs)  # type: ignore[arg-type]


# drift


@pytest.mark.parametrize("rise", [0.2, 0.4])
def test_a_large_drift_is_noticed_within_25_tasks(rise: float) -> None:
    """Free disagreement rises from 5 %: the median delay of 60 runs is below 25 tasks, and nothing was lost before."""
    delays = []
    for seed in range(60):
        rng, state, policy = random.Random(seed), RiskState(), RiskPolicy(0.15)
        for item in range(600):
            split = rng.random() < (0.05 if item < 300 else 0.05 + rise)
            state, alarm = observe(state, SPLIT if split else AGREED, policy)
            if alarm and item >= 300:
                delays.append(item - 299)
                break
        else:
            delays.append(999)
    assert sorted(delays)[30] <= 25


def test_a_steady_stream_alarms_rarely() -> None:
    """40 runs of 600 tasks at a steady rate: few false alarms."""
    alarms = 0
    for seed in range(40):
        rng, state = random.Random(seed), Watch()
        for _ in range(600):
            state, alarm = watch(state, bad=rng.random() < 0.06, patience=RiskPolicy(0.15).drift_patience)
            alarms += alarm
    assert alarms <= 12


def test_an_alarm_takes_trust_away_and_keeps_the_charges() -> None:
    """After a free alarm the stratum starts anew; what it delivered stays charged, the latest at the worst rate."""
    policy, rng, state = RiskPolicy(0.15), random.Random(5), RiskState()
    for _ in range(300):
        _, state, _ = run(state, AGREED, policy, rng.random(), failed=False)
    delivered = state.strata[AGREED.stratum].unjudged
    assert delivered > 200
    while not state.alarms:
        state, _ = observe(state, SPLIT, policy)
    stratum = state.strata[AGREED.stratum]
    assert (stratum.n, stratum.unjudged) == (0, 0)
    assert stratum.labelled > 0
    assert all(state.expected("moderate", window=window)[0] >= 25 * 0.4 for window in (False, True))
    assert len({s.order for s in state.strata.values()}) == len(state.strata)
    assert rule(state, AGREED, policy, 0.9)[0].action == "escalate"


def test_failing_audits_alarm_too() -> None:
    """A stratum whose audits turn bad is reset even when the free models still agree."""
    policy, rng, state = RiskPolicy(0.25), random.Random(6), RiskState()
    for _ in range(1500):
        _, state, _ = run(state, AGREED, policy, rng.random(), failed=False)
    alarm = False
    for _ in range(60):
        ruling, state = rule(state, AGREED, policy, 0.0)
        state, alarm = learn(state, Label(ruling, False), policy)
        if alarm:
            break
    assert alarm


# certificate


def test_the_certificate_covers_the_missed_failures_of_drifting_tasks() -> None:
    """Whatever the failure rate does, in 95 % of runs the bound is above the realised misses, at the end and before."""
    wrong = 0
    shapes: list[Callable[[int], float]] = [
        lambda _: 0.05,
        lambda i: 0.0 if i < 500 else 0.5,
        lambda i: 0.2 * (i % 200 < 20),
    ]
    for seed in range(60):
        rng, audit_bound, missed = random.Random(seed), AuditBound(), 0
        for item in range(1000):
            failed = rng.random() < shapes[seed % 3](item)
            audit_bound = replace(audit_bound, trusted=audit_bound.trusted + 1)
            chance = LEAST + 0.1 * (item % 7 == 0)
            if rng.random() < chance:
                audit_bound = audit_bound.opened(chance)
                audit_bound = audit_bound if failed else audit_bound.passed(chance)
            else:
                missed += failed
            if missed > audit_bound.missed():
                wrong += 1
                break
    assert wrong <= 60 * 0.05


def test_the_certificate_needs_volume_and_never_exceeds_what_was_delivered() -> None:
    """With few items it says nothing; with many clean audits its share falls; an open audit counts as a failure."""
    assert AuditBound(trusted=50).missed() == 50
    many = AuditBound(trusted=20_000)
    assert many.missed() / many.trusted < 0.02
    assert many.opened(0.05).missed() > many.missed()
    assert many.opened(0.05).passed(0.05).missed() == pytest.approx(many.missed())
    assert replace(many, unaudited=1).missed() == many.missed() + 1


# storage


def test_the_state_survives_being_stored() -> None:
    """Text and back is the same state; no state is an empty one."""
    policy, rng, state = RiskPolicy(0.15), random.Random(8), RiskState()
    for item in range(200):
        evidence = SPLIT if item % 9 == 0 else AGREED
        _, state, _ = run(state, evidence, policy, rng.random(), failed=item % 13 == 0)
    assert RiskState.from_json(state.to_json()) == state
    assert RiskState.from_json(None) == RiskState()
