"""The risk ledger: how often answers may be delivered without a check, and what the checks have shown. Pure.

    ruling, state = rule(RiskState(), evidence, policy, coin)     # deliver | audit | escalate; coin uniform in [0, 1)
    state, alarm = judged(state, ruling, policy, failed=False)     # the orchestrator's word on the answer
    state = delivered(state, Label(ruling, True))          # rulings.py does all three once a task

`eps = 1 - quality_threshold` is the share of deliveries that the orchestrator may reject, in each use case and in its
last 500 deliveries. A stratum is (use case, evidence signal, price class, models); it keeps n labels with k rejections.
Whether a task of a stratum is checked depends on the ledger and on the task's coin, never on the task.

gate `strict`: a time-uniform upper bound U of the stratum's failure rate is charged for a delivery without a check;
    their sum, at today's bounds, stays below eps * t. With 95 % confidence, at every moment, the expected rejected
    deliveries are then within the budget, if strata are stationary: all bounds hold at all moments together.
gate `balanced`: the same with the posterior mean, plus its standard deviations. A stratum is of a good or a poor kind
    a priori, so that first labels without a rejection are believed, and one rejection among them is not.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from tta_dev_primitives.flows.validation.evidence import Evidence
from tta_dev_primitives.flows.validation.field_accounts import checked, labels_of, withheld
from tta_dev_primitives.flows.validation.risk_state import (
    HOPELESS,
    PROVED,
    Action,
    Label,
    RiskPolicy,
    RiskState,
    Ruling,
    Stratum,
)
from tta_dev_primitives.flows.validation.statistics import Watch, exceeds, watch

_OWN = {True: 5, False: 8}
"""Labels of its own that a stratum of strong or weak evidence needs."""
_A_LABEL = 30
"""Deliveries without a check that one label carries at most: audits bring more, unless slow checks hold them back."""
_ALL_CHECKS, _CHECK = {"audit": 15, "escalate": 100}, 0.2
"""Below so many labels every check is a verdict, where savings cover it; then so large a share."""
_SAFETY, _FEW = 1.5, 30
"""Standard deviations kept between the expected rejected deliveries (gate `strict`: their bound) and the budget; below
so many labels two standard deviations are added to a stratum's estimate, then one."""
_TYPED_SAFETY = 2.2
"""`_SAFETY` of typed answers, where models often make the same mistake."""
_DOUBT_GAIN, _MOST_DOUBT = 0.6, 0.5
"""Typed answers: audits for each probability that the failure rate exceeds the budget, and the most of them."""
_CLEAN, _AT_FIRST = 0.02, 0.2
"""Typed answers: so many audits while even clean labels leave more than the first probability of too high a rate."""
_FEW_OPEN = 2
"""Checks of a stratum that one run has open at once, and more as their words come."""
_STEP = 4
"""So many times as many words must be known as checks are open, while they may open the stratum."""
_RECENT = 25
"""Deliveries before an alarm that are charged as if they had all been hopeless."""


def enrolled(state: RiskState, evidence: Evidence) -> RiskState:
    """The state in which the stratum of some evidence exists."""
    if evidence.stratum in state.strata:
        return state
    made = state.made + 1
    return _with(replace(state, made=made), evidence.stratum, Stratum(made, evidence.strong))


def observe(state: RiskState, evidence: Evidence, policy: RiskPolicy) -> tuple[RiskState, bool]:
    """Watch whether the first two free answers of a task agree, as soon as both have come; True: an alarm."""
    group = evidence.group
    if group is None:
        return state, False
    seen, alarm = watch(
        state.groups.get(group, Watch()), bad=evidence.disagreed, patience=policy.drift_patience
    )
    state = replace(state, groups={**state.groups, group: seen})
    if not alarm:
        return state, False
    touched = [key for key, _ in state.of(evidence.use_case) if all(model in key for model in evidence.pair)]
    return _reset(state, evidence.use_case, touched, policy), True


def rule(
    state: RiskState,
    evidence: Evidence,
    policy: RiskPolicy,
    coin: float,
    *,
    check: float = 1.0,
    under_way: int | None = None,
) -> tuple[Ruling, RiskState]:
    """Decide one item and record the decision. What is delivered counts when it is delivered, not here.

    Args:
        evidence: What speaks for the answer.
        coin: Uniform in [0, 1), of this task alone: the audit's randomness, on which the certificate rests.
        check: An independent coin: whether the check is a verdict where an answer would be cheaper.
        under_way: Checks of the stratum that this run has open; with too many, the ruling is put off. None: never.
    """
    state = enrolled(state, evidence)
    key = evidence.stratum
    stratum = state.strata[key]
    (mean, variance), labels, most = state.basis(key, strict=policy.strict)
    quality = 1.0 - min(1.0, mean + 1.64 * variance**0.5)
    if most is None:
        doubt, enough = (2.0 if labels < _FEW else 1.0), labels >= _OWN[stratum.strong]
    else:
        doubt, enough = 0.0, stratum.unjudged < most or not evidence.checks_saved
    enough = enough and stratum.unjudged < _A_LABEL * labels
    trusted = enough and mean + doubt * variance**0.5 <= policy.worth
    trusted = trusted and evidence.auditable and _affordable(state, key, policy)
    if evidence.auditable and not (policy.strict or evidence.checks_saved) and check < policy.eps / 2:
        # Checks have used up what was saved: so few tasks cannot break the budget, and earn the next check.
        trusted = trusted or state.by_comparisons(key)[0] <= HOPELESS
    waits = under_way is not None and under_way >= _most_open(state, evidence, policy)
    if waits and not trusted and evidence.auditable:
        return Ruling("escalate", evidence, quality, mean, put_off=True), state
    chance = _audit_chance(state, evidence, policy) if trusted else 0.0
    action: Action = "escalate" if not trusted else ("audit" if coin < chance else "deliver")
    place = -1
    if action == "deliver":
        state = _charge(state, key)
    elif evidence.auditable:
        place, waiting = stratum.placed()
        state = _with(state, key, waiting)
        if action == "audit":
            state = replace(state, audit_bound=state.audit_bound.opened(chance))
    verdict = action != "deliver" and (stratum.counted[0] < _ALL_CHECKS[action] or check < _CHECK)
    ruling = Ruling(action, evidence, quality, state.moments(key)[0], chance, check=verdict)
    compare = not policy.strict and not (trusted and stratum.counted[0] >= PROVED)
    held = withheld(stratum.fields, evidence.schema)
    return replace(ruling, compare=compare, order=stratum.order, place=place, withheld=held), state


def _most_open(state: RiskState, evidence: Evidence, policy: RiskPolicy) -> int:
    """How many checks of a stratum are worth having open at once; further ones may be spared by their words.

    Grows with what is known: slowly where a few more words may open it, else fast, as nothing will be spared.
    """
    key = evidence.stratum
    stratum = state.strata[key]
    known = stratum.base + len(stratum.tail) - stratum.tail.count("?")
    if min(state.moments(key)[0], state.by_comparisons(key)[0]) <= policy.worth:
        known = max(int(stratum.counted[0]) // _STEP, known // (2 * _STEP))
    return max(_FEW_OPEN, known)


def compared(state: RiskState, ruling: Ruling, policy: RiskPolicy, *, failed: bool) -> RiskState:
    """Record how a free model compared an answer with the orchestrator's own; under `strict` that earns nothing."""
    stratum = state.strata[ruling.evidence.stratum]
    if stratum.order != ruling.order or policy.strict:
        return state
    stratum = replace(stratum, compared=stratum.compared + 1, worse=stratum.worse + failed)
    return _with(state, ruling.evidence.stratum, stratum)


def judged(state: RiskState, ruling: Ruling, policy: RiskPolicy, *, failed: bool) -> tuple[RiskState, bool]:
    """Record the orchestrator's word on one answer; True when rejections have raised an alarm."""
    key, signal = ruling.evidence.stratum, ruling.evidence.signal
    if ruling.action == "audit":
        audit_bound = state.audit_bound
        audit_bound = (
            replace(audit_bound, found=audit_bound.found + 1)
            if failed
            else audit_bound.passed(ruling.probability)
        )
        state = replace(state, audit_bound=audit_bound)
    n, k = state.pools.get(signal, (0, 0))
    state = replace(state, pools={**state.pools, signal: (n + 1, k + failed)})
    stratum = state.strata[key]
    stratum = replace(stratum, labelled=stratum.labelled + 1, rejected=stratum.rejected + failed)
    if stratum.order != ruling.order:
        # The word on an answer from before a reset says nothing of what came after.
        return _with(state, key, stratum), False
    if ruling.place >= 0:
        stratum = stratum.settled(ruling.place, "1" if failed else "0")
    else:
        stratum = replace(stratum, n=stratum.n + 1, k=stratum.k + failed).watched(failed)
    state, alarm = _with(state, key, stratum), stratum.alarmed
    return (_reset(state, ruling.evidence.use_case, [key], policy) if alarm else state), alarm


def fields_checked(state: RiskState, ruling: Ruling, label: Label, policy: RiskPolicy) -> RiskState:
    """Record which fields of a typed answer the orchestrator confirmed.

    Under `balanced` a field that is withheld from now on takes its rejections out of the stratum. What was delivered
    before stays charged as it was.
    """
    key = ruling.evidence.stratum
    stratum = state.strata[key]
    if stratum.order != ruling.order:
        return state
    accounts, forgiven = checked(
        stratum.fields, ruling.evidence.schema, label.fields, policy.eps, whole=label.passed is not None
    )
    stratum = replace(stratum, fields=accounts)
    if not forgiven or policy.strict:
        return _with(state, key, stratum)
    before = state.moments(key)[0]
    state = _with(state, key, replace(stratum, k=min(stratum.n, max(0.0, stratum.k - forgiven))))
    spent = stratum.unjudged * max(0.0, before - state.moments(key)[0])
    account = state.account(ruling.evidence.use_case).spend(spent)
    return replace(state, accounts={**state.accounts, ruling.evidence.use_case: account})


def delivered(state: RiskState, label: Label) -> RiskState:
    """Count one accepted delivery."""
    ruling, audit_bound = label.ruling, state.audit_bound
    use_case = label.use_case if ruling is None else ruling.evidence.use_case
    if ruling is not None and ruling.action != "escalate":
        audit_bound = replace(audit_bound, trusted=audit_bound.trusted + 1)
    accounts = {**state.accounts, use_case: state.account(use_case).delivered()}
    return replace(state, accounts=accounts, audit_bound=audit_bound)


def unlabelled(
    state: RiskState, label: Label, ruling: Ruling, policy: RiskPolicy
) -> tuple[RiskState, Literal["-", "1"]]:
    """Close a label that did not come, and say as what it counts: under `strict` as a rejection.

    An audit that was not done is a delivery without a check after all.
    """
    key = ruling.evidence.stratum
    if ruling.action == "audit" and label.accepted and not label.proxy:
        missed = replace(state.audit_bound, unaudited=state.audit_bound.unaudited + 1)
        state = _charge(replace(state, audit_bound=missed), key)
    # Where the check is a verdict, whether it was asked for depends on price class and coin, not on the answer.
    lost = policy.strict and not (label.accepted and ruling.evidence.price_class)
    found: Literal["-", "1"] = "1" if lost else "-"
    stratum = state.strata[key]
    if ruling.place < 0 or stratum.order != ruling.order:
        return state, found
    return _with(state, key, stratum.settled(ruling.place, found)), found


def _with(state: RiskState, key: str, stratum: Stratum) -> RiskState:
    return replace(state, strata={**state.strata, key: stratum})


def _charge(state: RiskState, key: str) -> RiskState:
    stratum, use_case = state.strata[key], key.split("|", 1)[0]
    accounts = {**state.accounts, use_case: state.account(use_case).charge(stratum.order)}
    return _with(replace(state, accounts=accounts), key, replace(stratum, unjudged=stratum.unjudged + 1))


def _affordable(state: RiskState, key: str, policy: RiskPolicy) -> bool:
    """Whether one more delivery without a check is within the budget of its use case, and of the window."""
    use_case, after = key.split("|", 1)[0], _charge(state, key)
    safety = _TYPED_SAFETY if state.strata[key].fields else _SAFETY
    account = after.account(use_case)
    for items, window in ((account.items, False), (account.window_items, True)):
        mean, variance = after.expected(use_case, window=window, strict=policy.strict)
        if mean + safety * variance**0.5 > policy.eps * (items + 1):
            return False
    return True


def _audit_chance(state: RiskState, evidence: Evidence, policy: RiskPolicy) -> float:
    """The floor; more for typed answers, where models may share their mistakes, and a lucky start hides it."""
    if not evidence.schema:
        return policy.audit_floor
    stratum = state.strata[evidence.stratum]
    seen = (stratum.counted, labels_of(stratum.fields, evidence.schema))
    doubt = max(exceeds(*labels, policy.eps) for labels in seen if labels is not None)
    first = _AT_FIRST if exceeds(stratum.counted[0], 0, policy.eps) > _CLEAN else 0.0
    return max(policy.audit_floor, first, min(_MOST_DOUBT, _DOUBT_GAIN * doubt))


def _reset(state: RiskState, use_case: str, keys: list[str], policy: RiskPolicy) -> RiskState:
    """Forget what `keys` have shown; what they delivered stays charged, the latest at the worst rate."""
    account, strata, made = state.account(use_case), dict(state.strata), state.made
    for key in keys:
        stratum, moments = strata[key], state.moments(key, strict=policy.strict)
        account = account.freeze(stratum.order, moments, max(moments[0], HOPELESS), _RECENT)
        made += 1
        # Agreement that has just failed has no claim to a friendly prior.
        strata[key] = Stratum(made, pooled=False, labelled=stratum.labelled, rejected=stratum.rejected)
    account = replace(account, alarms=account.alarms + 1)
    return replace(state, made=made, strata=strata, accounts={**state.accounts, use_case: account})
