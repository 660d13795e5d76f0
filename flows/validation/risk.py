"""The risk ledger: how often answers may be delivered without a check, and what the checks have shown. Pure.

    ruling, state = rule(RiskState(), evidence, policy, coin)     # deliver | audit | escalate; coin uniform in [0, 1)
    state, alarm = judged(state, ruling, failed=False)     # the orchestrator's word on the answer
    state = delivered(state, Label(ruling, True))          # rulings.py does all three once a task

`eps = 1 - quality_threshold` is the share of deliveries that the orchestrator may reject, in each use case and in its
last 500 deliveries. A stratum is (use case, evidence signal, price class, models); it keeps n labels with k rejections.
Whether a task of a stratum is checked depends on the ledger and on the task's coin, never on the task.

gate `strict`: a time-uniform upper bound U of the stratum's failure rate is charged for a delivery without a check;
    the sum of charges stays below eps * t. With 95 % confidence, at every moment, the expected rejected deliveries
    are then within the budget, if strata are stationary.
gate `balanced`: the posterior mean of the rejected deliveries plus `safety` standard deviations stays below eps * t.

Verdicts that are open count as rejections, or hold back the labels of later rulings, whichever leaves the lower bound:
both are the same confidence sequence at two moments. So quick verdicts cannot teach before slow ones.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from pydantic import TypeAdapter

from tta_dev_primitives.flows.validation.accounts import Account, Moments
from tta_dev_primitives.flows.validation.audit_bound import LEAST, AuditBound
from tta_dev_primitives.flows.validation.evidence import Evidence
from tta_dev_primitives.flows.validation.field_accounts import Accounts, checked, labels_of, withheld
from tta_dev_primitives.flows.validation.statistics import Watch, exceeds, posterior, upper_bound, watch

Action = Literal["deliver", "audit", "escalate"]

_CONFIDENCE = 0.05
_HOPELESS = 0.4
"""No stratum whose failure estimate is above this is ever delivered without a check."""
_PRIORS = {True: (0.8, 10.0), False: (2.0, 2.0)}
"""Failures and successes that a stratum is believed to have had, for strong evidence and for weak, before anything of
its kind was seen: on recorded answers the orchestrator rejects 2 to 18 % of what two families agree on."""
_OWN, _PROVED = 5, 8
"""Labels of its own that a stratum needs; where comparisons speak for it, so many."""
_COMPARED = {True: 2, False: 8}
"""Comparisons after which a strong or weak stratum is believed for a while."""
_UNPROVED = {True: (20, 4), False: (2, 2)}
"""Deliveries that comparisons may open before `_PROVED` labels, and so many more for each label."""
_ALL_CHECKS, _CHECK = {"audit": 15, "escalate": 100}, 0.2
"""Below so many labels every check is a verdict, where savings cover it; then so large a share."""
_SAFETY, _FEW = 1.5, 30
"""Standard deviations kept between the expected rejected deliveries and the budget; below so many labels two standard
deviations are added to a stratum's estimate, then one (gate `balanced`)."""
_AUDIT_GAIN, _AUDIT_HALF = 0.1, 15.0
"""The part of the audit rate that risk adds, and after how many labels it has halved."""
_PRICE = 3.2
"""A stratum is delivered without a check while its estimate is below so many times `eps` (less below 0.1)."""
_LONGEST = 400
"""Labels that one open verdict can hold back; then it counts as a rejection."""
_AUDIT_PATIENCE = 1000.0
_TYPED_SAFETY = 2.2
"""`_SAFETY` of typed answers, where models often make the same mistake."""
_DOUBT_GAIN, _MOST_DOUBT = 0.6, 0.5
"""Typed answers: audits for each probability that the failure rate exceeds the budget, and the most of them."""
_CLEAN, _AT_FIRST = 0.02, 0.2
"""Typed answers: so many audits while even clean labels leave more than the first probability of too high a rate."""
_RECENT = 25
"""Deliveries before an alarm that are charged as if they had all been hopeless."""


@dataclass(frozen=True, slots=True)
class RiskPolicy:
    """What the risk ledger is asked to keep."""

    eps: float
    gate: Literal["balanced", "strict"] = "balanced"
    audit_floor: float = LEAST
    """Every trusted item is audited with at least this probability; the certificate rests on it."""
    drift_patience: float = 800.0

    def __post_init__(self) -> None:
        if not 0.0 <= self.eps <= 1.0:
            raise ValueError(f"eps must be within 0..1, not {self.eps}")
        if self.audit_floor < LEAST:
            raise ValueError(f"audit_floor must be at least {LEAST}, on which the certificate rests")

    @property
    def worth(self) -> float:
        """The risk price: above this failure estimate a delivery without a check is not worth its saving."""
        return min(_HOPELESS, _PRICE * self.eps * min(1.0, 10 * self.eps))


@dataclass(frozen=True, slots=True)
class Ruling:
    """What the risk ledger decided for one item."""

    action: Action
    evidence: Evidence
    quality: float
    """Lower bound of the share of the stratum's answers that the orchestrator accepts, 0..1."""
    estimate: float
    """Expected failure rate of the stratum."""
    probability: float = 0.0
    """With which probability this item was to be audited."""
    drifted: bool = False
    """An alarm was raised on this item: what was learned of its kind was reset first."""
    task: str = ""
    """The task's content key."""
    check: bool = False
    """A verdict is asked for, as far as savings cover it, also where the orchestrator's own answer is cheaper."""
    compare: bool = True
    """A comparison of this answer with the orchestrator's would teach something."""
    order: int = 0
    """Which incarnation of the stratum decided."""
    place: int = -1
    """The label's place in the stratum's order; -1: no label is expected."""
    withheld: Sequence[str] = ()
    """Fields of a typed answer that the orchestrator gives, whatever the models agree on."""
    resumed: bool = False
    """The same ruling was given before: the task was cut off, or is repeated."""


@dataclass(frozen=True, slots=True)
class Label:
    """What a check showed, or how a task ended.

    Without a ruling it is a delivery that the orchestrator made or judged without having been asked by the ledger.
    """

    ruling: Ruling | None
    passed: bool | None
    """The orchestrator's word on the answer; None: it could not be had. Of a `proxy`: whether the answer passed."""
    accepted: bool = True
    """Whether the delivered answer counts as accepted; one that does not earns no budget."""
    proxy: bool = False
    """A free model compared the answer with the orchestrator's own."""
    task: str = ""
    use_case: str = ""
    reused: bool = False
    """The orchestrator's word, or the whole task, came from the store."""
    fields: Mapping[str, bool] = field(default_factory=dict)
    """Fields that the models agreed on and the orchestrator gave: whether it gave the same value."""
    ended: bool = True
    """False: the word is known, the task is still on its way."""


@dataclass(frozen=True, slots=True)
class Stratum:
    """What is known of one kind of evidence since its last reset."""

    order: int
    """1 for the first stratum of the ledger: its share of the confidence is 0.05 / (order * (order + 1))."""
    strong: bool = False
    pooled: bool = True
    """Whether its prior is the rate of its kind of signal; not after an alarm."""
    n: float = 0
    k: float = 0
    """Labels in the order of their rulings, up to the first open one, and the rejections among them."""
    tail: str = ""
    """The labels from there on: `?` open, `0` accepted, `1` rejected, `-` none came."""
    base: int = 0
    """The place of the tail's first label."""
    unjudged: int = 0
    labelled: int = 0
    """Labels ever, also those before a reset."""
    rejected: int = 0
    audits: Watch = field(default_factory=Watch)
    alarmed: bool = False
    """Labels have raised a drift alarm; the next one resets the stratum."""
    fields: Accounts = field(default_factory=dict)
    """Accounts of the fields of typed answers."""
    compared: int = 0
    """Comparisons of free answers with the orchestrator's own, and those that failed."""
    worse: int = 0

    @property
    def delta(self) -> float:
        """This stratum's share of the confidence; the shares of any number of strata sum below 0.05."""
        return _CONFIDENCE / (self.order * (self.order + 1))

    @property
    def counted(self) -> tuple[float, float]:
        """Labels and rejections that count now; see the module's page on open verdicts."""
        if not self.tail:
            return self.n, self.k
        bad = self.k + self.tail.count("1") + self.tail.count("?")
        whole = (self.n + len(self.tail) - self.tail.count("-"), bad)
        return min((self.n, self.k), whole, key=lambda seen: upper_bound(*seen, self.delta))

    @property
    def bound(self) -> float:
        """Time-uniform upper bound on the failure rate."""
        return upper_bound(*self.counted, self.delta)

    def placed(self) -> tuple[int, Stratum]:
        """The place of a new label, and the stratum that waits for it."""
        return self.base + len(self.tail), replace(self, tail=self.tail + "?").advanced()

    def settled(self, place: int, found: str) -> Stratum:
        """The stratum after the label at a place has come (`0`, `1`) or never will (`-`)."""
        at = place - self.base
        if at < 0:
            # It was given up and counted as a rejection.
            return replace(self, k=self.k - (found != "1"), n=self.n - (found == "-"))
        return replace(self, tail=self.tail[:at] + found + self.tail[at + 1 :]).advanced()

    def advanced(self) -> Stratum:
        """The stratum with every label counted that no open one holds back."""
        end = max(0, len(self.tail) - _LONGEST)
        while end < len(self.tail) and self.tail[end] != "?":
            end += 1
        done = self.tail[:end]
        bad, gone = done.count("1") + done.count("?"), done.count("-")
        moved = replace(
            self, n=self.n + end - gone, k=self.k + bad, tail=self.tail[end:], base=self.base + end
        )
        for label in done.replace("-", ""):
            moved = moved.watched(label != "0")
        return moved

    def watched(self, bad: bool) -> Stratum:
        """The stratum after its drift detector has seen a label, in the order of the rulings."""
        if not self.unjudged:
            # A stratum that was never trusted has nothing to lose.
            return self
        audits, alarm = watch(self.audits, bad=bad, patience=_AUDIT_PATIENCE)
        return replace(self, audits=audits, alarmed=self.alarmed or alarm)


@dataclass(frozen=True, slots=True)
class RiskState:
    """Everything the risk ledger remembers of one scope (orchestrator, prompts, threshold)."""

    made: int = 0
    """Strata made so far, resets included; the next one's order."""
    strata: Mapping[str, Stratum] = field(default_factory=dict)
    groups: Mapping[str, Watch] = field(default_factory=dict)
    accounts: Mapping[str, Account] = field(default_factory=dict)
    """Use case -> its budget."""
    pools: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    """Signal -> labels ever, and rejections among them."""
    audit_bound: AuditBound = field(default_factory=AuditBound)

    @property
    def items(self) -> int:
        """Accepted deliveries of all use cases."""
        return sum(account.items for account in self.accounts.values())

    @property
    def alarms(self) -> int:
        """Drift alarms of all use cases."""
        return sum(account.alarms for account in self.accounts.values())

    def to_json(self) -> str:
        """One line of JSON."""
        return _JSON.dump_json(self).decode()

    @classmethod
    def from_json(cls, text: str | None) -> RiskState:
        """The state that `to_json` wrote; an empty one for None."""
        return cls() if text is None else _JSON.validate_json(text)

    def account(self, use_case: str) -> Account:
        """The budget of a use case; an empty one when nothing was delivered."""
        return self.accounts.get(use_case, Account())

    def of(self, use_case: str) -> Iterable[tuple[str, Stratum]]:
        """The strata of a use case."""
        return ((key, s) for key, s in self.strata.items() if key.split("|", 1)[0] == use_case)

    def moments(self, key: str) -> Moments:
        """Mean and variance of the failure rate of a stratum (gate `balanced`)."""
        return self.basis(key)[0]

    def basis(self, key: str) -> tuple[Moments, float, int | None]:
        """The same, the labels that it rests on, and how many deliveries it may carry at most."""
        stratum = self.strata[key]
        n, k = stratum.counted
        if n >= _PROVED or stratum.compared < _COMPARED[stratum.strong]:
            return posterior(n, k, self._prior(key, stratum)), n, None
        # Verdicts are paid from savings, which only deliveries bring: comparisons open a few.
        first, more = _UNPROVED[stratum.strong]
        return self.by_comparisons(key), n + stratum.compared, first + int(more * n)

    def by_comparisons(self, key: str) -> Moments:
        """Mean and variance if comparisons with the orchestrator's own answers were labels; all wrong without any."""
        stratum = self.strata[key]
        if stratum.compared < _COMPARED[stratum.strong]:
            return 1.0, 0.0
        n, k = stratum.counted
        return posterior(n + stratum.compared, k + stratum.worse, self._prior(key, stratum))

    def _prior(self, key: str, stratum: Stratum) -> tuple[float, float]:
        """The pooled rate of the kind of signal, without the stratum itself, with the weight of a few labels."""
        bad, good = _PRIORS[stratum.strong]
        if not stratum.pooled:
            return bad, good
        n, k = self.pools.get(key.split("|")[1], (0, 0))
        rate = (bad + k - stratum.rejected) / (bad + good + n - stratum.labelled)
        return rate * (bad + good), (1 - rate) * (bad + good)

    def expected(self, use_case: str) -> Moments:
        """Mean and variance of the rejected deliveries without a check of a use case."""
        account = self.account(use_case)
        mean, variance = account.mean, account.variance
        for key, stratum in self.of(use_case):
            if stratum.unjudged:
                p, v = self.moments(key)
                mean += stratum.unjudged * p
                variance += stratum.unjudged**2 * v + stratum.unjudged * p * (1 - p)
        return mean, variance

    def window_expected(self, use_case: str) -> Moments:
        """The same for the last deliveries."""
        keys = {stratum.order: key for key, stratum in self.of(use_case)}
        return self.account(use_case).window_expected(lambda order: self.moments(keys[order]))


_JSON = TypeAdapter(RiskState)


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
    return _reset(state, evidence.use_case, touched), True


def rule(
    state: RiskState,
    evidence: Evidence,
    policy: RiskPolicy,
    coin: float,
    *,
    check: float = 1.0,
    task: str = "",
) -> tuple[Ruling, RiskState]:
    """Decide one item and record the decision. What is delivered counts when it is delivered, not here.

    Args:
        evidence: What speaks for the answer.
        coin: Uniform in [0, 1), of this task alone: the audit's randomness, on which the certificate rests.
        check: An independent coin: whether the check is a verdict where an answer would be cheaper.
        task: The task's content key.
    """
    state = enrolled(state, evidence)
    key = evidence.stratum
    stratum = state.strata[key]
    (mean, variance), labels, most = state.basis(key)
    quality = 1.0 - (stratum.bound if policy.gate == "strict" else min(1.0, mean + 1.64 * variance**0.5))
    trusted = evidence.auditable and _affordable(state, key, policy)
    if policy.gate == "strict":
        trusted = trusted and stratum.counted[0] >= _OWN and mean <= _HOPELESS
    else:
        if most is None:
            doubt, enough = (2.0 if labels < _FEW else 1.0), labels >= _OWN
        else:
            doubt, enough = 0.0, stratum.unjudged < most or not evidence.checks_saved
        trusted = trusted and enough and mean + doubt * variance**0.5 <= policy.worth
        if evidence.auditable and not evidence.checks_saved and check < policy.eps / 2:
            # Checks have used up what was saved: so few tasks cannot break the budget, and earn the next check.
            trusted = trusted or state.by_comparisons(key)[0] <= _HOPELESS
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
    ruling = Ruling(action, evidence, quality, mean, chance, task=task, check=verdict)
    compare = policy.gate == "balanced" and not (trusted and stratum.counted[0] >= _PROVED)
    held = withheld(stratum.fields, evidence.schema)
    return replace(ruling, compare=compare, order=stratum.order, place=place, withheld=held), state


def compared(state: RiskState, ruling: Ruling, policy: RiskPolicy, *, failed: bool) -> RiskState:
    """Record how a free model compared an answer with the orchestrator's own; under `strict` that earns nothing."""
    stratum = state.strata[ruling.evidence.stratum]
    if stratum.order != ruling.order or policy.gate == "strict":
        return state
    stratum = replace(stratum, compared=stratum.compared + 1, worse=stratum.worse + failed)
    return _with(state, ruling.evidence.stratum, stratum)


def judged(state: RiskState, ruling: Ruling, *, failed: bool) -> tuple[RiskState, bool]:
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
    return (_reset(state, ruling.evidence.use_case, [key]) if alarm else state), alarm


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
    if not forgiven or policy.gate == "strict":
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
    lost = policy.gate == "strict" and not (label.accepted and ruling.evidence.price_class)
    found: Literal["-", "1"] = "1" if lost else "-"
    stratum = state.strata[key]
    if ruling.place < 0 or stratum.order != ruling.order:
        return state, found
    return _with(state, key, stratum.settled(ruling.place, found)), found


def _with(state: RiskState, key: str, stratum: Stratum) -> RiskState:
    return replace(state, strata={**state.strata, key: stratum})


def _charge(state: RiskState, key: str) -> RiskState:
    stratum, use_case = state.strata[key], key.split("|", 1)[0]
    account = state.account(use_case).charge(stratum.order, stratum.bound)
    state = replace(state, accounts={**state.accounts, use_case: account})
    return _with(state, key, replace(stratum, unjudged=stratum.unjudged + 1))


def _affordable(state: RiskState, key: str, policy: RiskPolicy) -> bool:
    """Whether one more delivery without a check is within the budget of its use case, and of the window."""
    use_case = key.split("|", 1)[0]
    after = _charge(state, key)
    account = after.account(use_case)
    budgets = (policy.eps * (account.items + 1), policy.eps * (account.window_items + 1))
    if policy.gate == "strict":
        return account.charged <= budgets[0] and account.window_charged <= budgets[1]
    spent = [after.expected(use_case)]
    if account.items > account.window_items:
        spent.append(after.window_expected(use_case))
    safety = _TYPED_SAFETY if state.strata[key].fields else _SAFETY
    return all(
        mean + safety * variance**0.5 <= budget
        for (mean, variance), budget in zip(spent, budgets, strict=False)
    )


def _audit_chance(state: RiskState, evidence: Evidence, policy: RiskPolicy) -> float:
    stratum = state.strata[evidence.stratum]
    rate = stratum.bound if policy.gate == "strict" else state.moments(evidence.stratum)[0]
    budget = policy.eps * (state.account(evidence.use_case).items + 1)
    used = min(1.0, stratum.unjudged * rate / budget) if budget > 0 else 1.0
    chance = _AUDIT_GAIN * used * _AUDIT_HALF / (_AUDIT_HALF + stratum.n)
    if evidence.schema:
        # Models may share their mistakes, and a lucky start hides it: audit while the rate may exceed the budget.
        seen = (stratum.counted, labels_of(stratum.fields, evidence.schema))
        doubt = max(exceeds(*labels, policy.eps) for labels in seen if labels is not None)
        if exceeds(stratum.counted[0], 0, policy.eps) > _CLEAN:
            chance = max(chance, _AT_FIRST)
        chance = max(chance, min(_MOST_DOUBT, _DOUBT_GAIN * doubt))
    return min(1.0, max(policy.audit_floor, chance))


def _reset(state: RiskState, use_case: str, keys: list[str]) -> RiskState:
    """Forget what `keys` have shown; what they delivered stays charged, the latest at the worst rate."""
    account = state.account(use_case)
    mean, variance = account.mean, account.variance
    strata, made = dict(state.strata), state.made
    for key in keys:
        stratum = strata[key]
        p, v = state.moments(key)
        recent = min(stratum.unjudged, _RECENT)
        older, worst = stratum.unjudged - recent, max(p, _HOPELESS)
        mean += older * p + recent * worst
        variance += older**2 * v + stratum.unjudged * p * (1 - p)
        account = account.freeze(stratum.order, p, worst, recent)
        made += 1
        # Agreement that has just failed has no claim to a friendly prior.
        strata[key] = Stratum(made, pooled=False, labelled=stratum.labelled, rejected=stratum.rejected)
    account = replace(account, mean=mean, variance=variance, alarms=account.alarms + 1)
    return replace(state, made=made, strata=strata, accounts={**state.accounts, use_case: account})
