"""What the risk ledger remembers: strata with their labels, budgets of use cases, rulings. Pure; `risk` decides.

Verdicts that are open count as rejections, or hold back the labels of later rulings, whichever leaves the lower bound:
both are the same confidence sequence at two moments. So quick verdicts cannot teach before slow ones.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from pydantic import TypeAdapter

from tta_dev_primitives.flows.validation.audit_bound import LEAST, AuditBound
from tta_dev_primitives.flows.validation.evidence import Evidence
from tta_dev_primitives.flows.validation.field_accounts import Accounts
from tta_dev_primitives.flows.validation.risk_budget import Account, Moments
from tta_dev_primitives.flows.validation.statistics import Watch, posterior, upper_bound, watch

Action = Literal["deliver", "audit", "escalate"]


_CONFIDENCE = 0.05
HOPELESS = 0.4
"""No stratum whose failure estimate is above this is ever delivered without a check."""
_GOOD, _POOR = (0.8, 10.0), (4.0, 5.0)
"""Failures and successes of the two kinds of strata: on recorded answers the orchestrator rejects 2 to 18 % of what two
families agree on, and 60 to 80 % of what they do not."""
_SHARE_POOR = {True: 0.1, False: 0.8}
"""How many strata of strong evidence, and of weak, are believed to be of the poor kind."""
PROVED = 8
"""Labels of its own after which comparisons no longer speak for a stratum."""
_COMPARED = {True: 2, False: 8}
"""Comparisons after which a strong or weak stratum is believed for a while."""
_UNPROVED = {True: (20, 4), False: (2, 2)}
"""Deliveries that comparisons may open before `PROVED` labels, and so many more for each label."""
_PRICE = 3.2
"""A stratum is delivered without a check while its estimate is below so many times `eps` (less below 0.1)."""
_LONGEST = 400
"""Labels that one open verdict can hold back; then it counts as a rejection."""
_AUDIT_PATIENCE = 1000.0


@dataclass(frozen=True, slots=True)
class RiskPolicy:
    """What the risk ledger is asked to keep."""

    eps: float
    gate: Literal["balanced", "strict"] = "balanced"
    audit_floor: float = LEAST
    """Every trusted item is audited with at least this probability; the certificate rests on it."""
    drift_patience: float = 1000.0

    def __post_init__(self) -> None:
        if not 0.0 <= self.eps <= 1.0:
            raise ValueError(f"eps must be within 0..1, not {self.eps}")
        if self.audit_floor < LEAST:
            raise ValueError(f"audit_floor must be at least {LEAST}, on which the certificate rests")

    @property
    def strict(self) -> bool:
        """Whether bounds are charged in place of expectations."""
        return self.gate == "strict"

    @property
    def worth(self) -> float:
        """The risk price: above this failure estimate a delivery without a check is not worth its saving."""
        return HOPELESS if self.strict else min(HOPELESS, _PRICE * self.eps * min(1.0, 10 * self.eps))


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
    put_off: bool = False
    """Nothing was decided or recorded: the words of checks that are under way may spare this one."""

    @property
    def checks(self) -> bool:
        """Whether the orchestrator's word on the answer is to come."""
        return self.action != "deliver" and self.evidence.auditable and not self.put_off


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

    def moments(self, key: str, *, strict: bool = False) -> Moments:
        """Mean and variance of the failure rate of a stratum; under gate `strict` its bound."""
        return self.basis(key, strict=strict)[0]

    def basis(self, key: str, *, strict: bool = False) -> tuple[Moments, float, int | None]:
        """The same, the labels that it rests on, and how many deliveries it may carry at most."""
        stratum = self.strata[key]
        n, k = stratum.counted
        if strict:
            return (stratum.bound, 0.0), n, None
        if n >= PROVED or stratum.compared < _COMPARED[stratum.strong]:
            return self._posterior(key, n, k, _SHARE_POOR[stratum.strong]), n, None
        # Verdicts are paid from savings, which only deliveries bring: comparisons open a few.
        first, more = _UNPROVED[stratum.strong]
        return self.by_comparisons(key), n + stratum.compared, first + int(more * n)

    def by_comparisons(self, key: str) -> Moments:
        """Mean and variance if comparisons with the orchestrator's own answers were labels; all wrong without any."""
        stratum = self.strata[key]
        if stratum.compared < _COMPARED[stratum.strong]:
            return 1.0, 0.0
        n, k = stratum.counted
        poor = 0.0 if stratum.strong else _SHARE_POOR[False]
        return self._posterior(key, n + stratum.compared, k + stratum.worse, poor)

    def _posterior(self, key: str, n: float, k: float, poor: float) -> Moments:
        """What k failures in n labels leave of the prior, whose good kind fails like others of its signal."""
        stratum, (bad, good) = self.strata[key], _GOOD
        if stratum.pooled:
            labels, failed = self.pools.get(key.split("|")[1], (0, 0))
            rate = (bad + failed - stratum.rejected) / (bad + good + labels - stratum.labelled)
            bad, good = rate * (bad + good), (1 - rate) * (bad + good)
        return posterior(n, k, ((1 - poor, bad, good), (poor, *_POOR)))

    def expected(self, use_case: str, *, window: bool = False, strict: bool = False) -> Moments:
        """Mean and variance of the rejected deliveries of a use case (gate `strict`: their bound), or of its window."""
        keys = {stratum.order: key for key, stratum in self.of(use_case)}
        return self.account(use_case).expected(
            lambda order: self.moments(keys[order], strict=strict), window=window
        )


_JSON = TypeAdapter(RiskState)
