"""The risk ledger: how often un-judged answers may be delivered, and what the audits have taught. Pure.

    state = RiskState()
    ruling, state = rule(state, evidence, policy, coin)     # deliver | audit | escalate; coin uniform in [0, 1)
    state, alarms = learn(state, Label(ruling, endorsed=True), policy)     # after an audit or an escalation
    text = state.to_json(); state = RiskState.from_json(text)

`eps = 1 - quality_threshold` is the share of delivered answers that the orchestrator may disown. A stratum is
(use case, evidence signal, models); each keeps n labels with k failures. Every escalation and every audit is a label,
and within a stratum both are fair draws: whether an item is escalated depends on the ledger, never on the
item.

gate `strict`: a time-uniform upper bound U of the stratum's failure rate is charged when an answer goes
out un-judged;
    the sum of charges stays below eps * t. With 95 % confidence, at every moment, the expected disowned
    deliveries are then within the budget, if strata are stationary.
gate `balanced`: a normal approximation with a prior replaces the bound: the posterior mean of the
disowned deliveries
    plus `safety` standard deviations stays below eps * t.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from tta_dev_primitives.flows.validation.certificate import Certificate
from tta_dev_primitives.flows.validation.drift import Watch, watch
from tta_dev_primitives.flows.validation.statistics import posterior, upper_bound

__all__ = ["Action", "Evidence", "Label", "RiskPolicy", "RiskState", "Ruling", "Stratum", "learn", "rule"]

Action = Literal["deliver", "audit", "escalate"]

_CONFIDENCE = 0.05
_HOPELESS = 0.4
"""No stratum whose failure estimate is above this is ever delivered un-judged."""
_FEW = 12
_PRIORS = {True: (0.5, 5.0), False: (1.0, 1.0)}
"""Failures and successes that a stratum is believed to have had, for strong evidence and for weak: on recorded answers
the orchestrator disowns 2 to 18 % of what two families agree on, 8 % in the middle."""


@dataclass(frozen=True, slots=True)
class RiskPolicy:
    """The rates of the risk ledger. All but `eps` and `gate` are settings of the method, not of the user."""

    eps: float
    gate: Literal["balanced", "strict"] = "balanced"
    safety: float = 2.0
    """Standard deviations kept between the expected disowned deliveries and the budget (gate `balanced`)."""
    least: float = 0.5
    """Labels, prior included, before a stratum can be trusted, as a multiple of 1 / eps (gate `balanced`): on fewer
    the normal approximation means nothing."""
    audit_floor: float = 0.02
    """Every trusted item is audited with at least this probability; never below the certificate's `least`."""
    audit_gain: float = 0.1
    audit_half: float = 15.0
    """Labels after which the part of the audit rate that risk adds has halved."""
    price: float = 3.2
    """A stratum is delivered un-judged while its failure estimate is below this many times `eps` (less below 0.1)."""
    drift_patience: float = 600.0
    audit_patience: float = 1000.0

    def __post_init__(self) -> None:
        if not 0.0 <= self.eps <= 1.0:
            raise ValueError(f"eps must be within 0..1, not {self.eps}")
        if self.audit_floor < Certificate().least:
            raise ValueError(
                f"audit_floor must be at least {Certificate().least}, on which the certificate rests"
            )

    @property
    def worth(self) -> float:
        """The risk price: above this failure estimate an un-judged delivery is not worth its saving."""
        return min(_HOPELESS, self.price * self.eps * min(1.0, 10 * self.eps))


@dataclass(frozen=True, slots=True)
class Evidence:
    """What speaks for one answer before anybody was paid."""

    use_case: str
    signal: str
    """Such as `agree2of3`, `split2`, `single`, `judged`."""
    answer: int = 0
    """Which answer of the case it speaks for."""
    models: tuple[str, ...] = ()
    """Identities of all models that took part, sorted."""
    pair: tuple[str, ...] = ()
    """The first two answerers, whose disagreement rate is watched; empty when there is nothing to compare."""
    disagreed: bool = False
    strong: bool = False
    """Agreement or a judge's yes: the stratum starts with a friendlier prior."""
    auditable: bool = True
    """A paid call is possible for this item."""

    @property
    def stratum(self) -> str:
        """The key of the stratum."""
        return "|".join((self.use_case, self.signal, *self.models))

    @property
    def group(self) -> str | None:
        """The key of the watched disagreement rate."""
        return "|".join((self.use_case, *self.pair)) if self.pair else None


@dataclass(frozen=True, slots=True)
class Ruling:
    """What the risk ledger decided for one item."""

    action: Action
    evidence: Evidence
    quality: float
    """Lower bound of the stratum's endorsement rate, 0..1: what the delivered answer shows as its score."""
    estimate: float
    """Expected failure rate of the stratum."""
    probability: float = 0.0
    """With which probability this item was to be audited."""
    drifted: bool = False
    """The free disagreement rate raised an alarm on this item: trust was reset first."""


@dataclass(frozen=True, slots=True)
class Label:
    """What an audit or an escalation showed; `endorsed` is None when it could not be done or compared.

    Without a ruling it is a delivery that the orchestrator made or endorsed without having been asked by the ledger.
    """

    ruling: Ruling | None
    endorsed: bool | None
    accepted: bool = True
    """Whether the delivered answer counts as accepted; one that does not earns no budget."""


@dataclass(frozen=True, slots=True)
class Stratum:
    """What is known of one kind of evidence."""

    order: int
    """1 for the first stratum of the ledger: its share of the confidence is 0.05 / (order * (order + 1))."""
    strong: bool = False
    n: int = 0
    k: int = 0
    unjudged: int = 0
    labelled: int = 0
    """Labels ever, also those before a reset."""
    disowned: int = 0
    audits: Watch = field(default_factory=Watch)

    @property
    def delta(self) -> float:
        """This stratum's share of the confidence; the shares of any number of strata sum below 0.05."""
        return _CONFIDENCE / (self.order * (self.order + 1))

    @property
    def bound(self) -> float:
        """Time-uniform upper bound on the failure rate."""
        return upper_bound(self.n, self.k, self.delta)

    @property
    def doubt(self) -> float:
        """Added to the estimate of weak evidence, which has no prior in its favour: a lucky start is not enough."""
        if self.strong:
            return 0.0
        return float((1.0 if self.n < _FEW else 0.25) * self.moments[1] ** 0.5)

    @property
    def moments(self) -> tuple[float, float]:
        """Mean and variance of the failure rate."""
        return posterior(self.n, self.k, _PRIORS[self.strong])


@dataclass(frozen=True, slots=True)
class RiskState:
    """Everything the risk ledger remembers of one scope (orchestrator, prompts, threshold)."""

    made: int = 0
    """Strata made so far, resets included; the next one's order."""
    items: int = 0
    """Items decided: the t of eps * t."""
    strata: Mapping[str, Stratum] = field(default_factory=dict)
    groups: Mapping[str, Watch] = field(default_factory=dict)
    charged: float = 0.0
    """Sum of upper bounds charged for un-judged deliveries (gate `strict`)."""
    frozen_mean: float = 0.0
    frozen_variance: float = 0.0
    """Disowned deliveries expected from before a reset (gate `balanced`)."""
    alarms: int = 0
    certificate: Certificate = field(default_factory=Certificate)

    def to_json(self) -> str:
        """One line of JSON."""
        return json.dumps(asdict(self), separators=(",", ":"), allow_nan=False)

    @classmethod
    def from_json(cls, text: str | None) -> RiskState:
        """The state that `to_json` wrote; an empty one for None."""
        if text is None:
            return cls()
        raw: dict[str, Any] = json.loads(text)
        raw["strata"] = {
            k: Stratum(**{**v, "audits": Watch(**v["audits"])}) for k, v in raw["strata"].items()
        }
        raw["groups"] = {k: Watch(**v) for k, v in raw["groups"].items()}
        raw["certificate"] = Certificate(
            **{**raw["certificate"], "costs": tuple(raw["certificate"]["costs"])}
        )
        return cls(**raw)

    def expected(self) -> tuple[float, float]:
        """Mean and variance of the disowned un-judged deliveries so far."""
        mean, variance = self.frozen_mean, self.frozen_variance
        for stratum in self.strata.values():
            p, v = stratum.moments
            mean += stratum.unjudged * p
            variance += stratum.unjudged**2 * v + stratum.unjudged * p * (1 - p)
        return mean, variance


def rule(state: RiskState, evidence: Evidence, policy: RiskPolicy, coin: float) -> tuple[Ruling, RiskState]:
    """Decide one item and record the decision.

    Args:
        coin: Uniform in [0, 1), drawn for this item alone; the audit's randomness, on which the
        certificate rests.
    """
    state, drifted = _watch_disagreement(state, evidence, policy)
    key = evidence.stratum
    if key not in state.strata:
        made = state.made + 1
        state = _with(replace(state, made=made), key, Stratum(order=made, strong=evidence.strong))
    stratum = state.strata[key]
    mean, variance = stratum.moments
    quality = 1.0 - (stratum.bound if policy.gate == "strict" else min(1.0, mean + 1.64 * variance**0.5))
    trusted = mean + stratum.doubt <= policy.worth and _affordable(state, key, policy)
    chance = _audit_chance(state, stratum, policy) if trusted and evidence.auditable else 0.0
    action: Action = "escalate" if not trusted else ("audit" if coin < chance else "deliver")
    ruling = Ruling(action, evidence, quality, mean, chance, drifted)
    if action == "escalate":
        # Without a paid call the answer goes out as not accepted: it neither uses nor earns budget.
        return ruling, replace(state, items=state.items + evidence.auditable)
    certificate = state.certificate.spared(audited=evidence.auditable)
    state = replace(state, items=state.items + 1, certificate=certificate)
    return ruling, _charge(state, key) if action == "deliver" else state


def learn(state: RiskState, label: Label, policy: RiskPolicy) -> tuple[RiskState, bool]:
    """Record what an audit or an escalation showed; True when the stratum's failures raised a drift alarm."""
    if label.ruling is None:
        return replace(state, items=state.items + 1), False
    key = label.ruling.evidence.stratum
    stratum = state.strata.get(key)
    if stratum is None:
        return state, False
    if label.endorsed is None:
        return _without_label(state, label, key), False
    failed = not label.endorsed
    if failed and label.ruling.action == "audit":
        state = replace(state, certificate=state.certificate.failed(label.ruling.probability))
    audits, alarm = stratum.audits, False
    if stratum.unjudged:
        # A stratum that was never trusted has nothing to lose.
        audits, alarm = watch(stratum.audits, bad=failed, patience=policy.audit_patience)
    stratum = replace(
        stratum,
        n=stratum.n + 1,
        k=stratum.k + failed,
        labelled=stratum.labelled + 1,
        disowned=stratum.disowned + failed,
        audits=audits,
    )
    state = _with(state, key, stratum)
    return (_reset(state, [key]), True) if alarm else (state, False)


def _without_label(state: RiskState, label: Label, key: str) -> RiskState:
    """An audit that could not be done is an un-judged delivery after all; a refused escalation earns nothing."""
    if label.ruling is not None and label.ruling.action == "audit":
        missed = replace(state.certificate, unaudited=state.certificate.unaudited + 1)
        return _charge(replace(state, certificate=missed), key)
    return state if label.accepted else replace(state, items=state.items - 1)


def _with(state: RiskState, key: str, stratum: Stratum) -> RiskState:
    return replace(state, strata={**state.strata, key: stratum})


def _charge(state: RiskState, key: str) -> RiskState:
    stratum = state.strata[key]
    state = replace(state, charged=state.charged + stratum.bound)
    return _with(state, key, replace(stratum, unjudged=stratum.unjudged + 1))


def _affordable(state: RiskState, key: str, policy: RiskPolicy) -> bool:
    budget = policy.eps * (state.items + 1)
    if policy.gate == "strict":
        return state.charged + state.strata[key].bound <= budget
    if (state.strata[key].n + sum(_PRIORS[state.strata[key].strong])) * policy.eps < policy.least:
        return False
    mean, variance = _charge(state, key).expected()
    return bool(mean + policy.safety * variance**0.5 <= budget)


def _audit_chance(state: RiskState, stratum: Stratum, policy: RiskPolicy) -> float:
    rate = stratum.bound if policy.gate == "strict" else stratum.moments[0]
    budget = policy.eps * (state.items + 1)
    used = min(1.0, stratum.unjudged * rate / budget) if budget > 0 else 1.0
    chance = policy.audit_gain * used * policy.audit_half / (policy.audit_half + stratum.n)
    return min(1.0, max(policy.audit_floor, chance))


def _watch_disagreement(state: RiskState, evidence: Evidence, policy: RiskPolicy) -> tuple[RiskState, bool]:
    group = evidence.group
    if group is None:
        return state, False
    seen, alarm = watch(
        state.groups.get(group, Watch()), bad=evidence.disagreed, patience=policy.drift_patience
    )
    state = replace(state, groups={**state.groups, group: seen})
    if not alarm:
        return state, False
    touched = [
        key
        for key in state.strata
        if key.split("|")[0] == evidence.use_case and all(model in key for model in evidence.pair)
    ]
    return _reset(state, touched), True


_RECENT = 25
"""Un-judged deliveries before an alarm that are charged as if they had all been hopeless."""


def _reset(state: RiskState, keys: list[str]) -> RiskState:
    """Forget what `keys` have earned; what they delivered stays charged, the latest at the worst rate."""
    mean, variance = state.frozen_mean, state.frozen_variance
    strata, made = dict(state.strata), state.made
    for key in keys:
        stratum = strata[key]
        p, v = stratum.moments
        recent = min(stratum.unjudged, _RECENT)
        older = stratum.unjudged - recent
        mean += older * p + recent * max(p, _HOPELESS)
        variance += older**2 * v + stratum.unjudged * p * (1 - p)
        made += 1
        strata[key] = Stratum(
            order=made,
            # Agreement that has just failed has no claim to a friendly prior.
            strong=False,
            labelled=stratum.labelled,
            disowned=stratum.disowned,
        )
    return replace(
        state,
        made=made,
        strata=strata,
        frozen_mean=mean,
        frozen_variance=variance,
        alarms=state.alarms + 1,
    )
