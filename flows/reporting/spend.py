"""A month in figures: spending, savings, quality, failures and free quota. Reads the ledger; no Prefect.

report = await gather(config, ledger, "2026-11")
report.to_json()
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from tta_dev_primitives.blocks.ledger.ledger import Ledger
from tta_dev_primitives.blocks.ledger.report import MonthReport, month_report, spend_by_day
from tta_dev_primitives.blocks.ledger.task_records import ResultLine, result_lines
from tta_dev_primitives.blocks.ledger.types import ReportRow
from tta_dev_primitives.blocks.quotas.quota import Quota
from tta_dev_primitives.blocks.quotas.windows import Kind
from tta_dev_primitives.config import OrchestrationConfig
from tta_dev_primitives.config.errors import MissingKeyError
from tta_dev_primitives.config.models.resolve import resolve_targets
from tta_dev_primitives.config.models.targets import Target
from tta_dev_primitives.config.reading.api_keys import find_api_key, key_id
from tta_dev_primitives.flows.reporting.risk_budget_figures import AccountLine, accounts_of
from tta_dev_primitives.flows.routing.learned_order import Place, places
from tta_dev_primitives.flows.routing.model_score_store import ModelScoreStore
from tta_dev_primitives.flows.tasks.savings import Savings
from tta_dev_primitives.flows.validation.case import Policy
from tta_dev_primitives.flows.validation.risk_state import RiskState
from tta_dev_primitives.flows.validation.risk_store import RiskStore

_Z = 1.96
"""Standard deviations of a 95 % interval."""
_OFTEN = 0.2
"""Recorded paid models contradict two agreeing free families on 1 to 18 % of tasks; the one that does so on 38 %
(Claude 3 Opus on hard maths) is wrong where they are right in 10 of 13 cases."""
_ENOUGH = 5


def wilson(n: int, k: int) -> tuple[float, float]:
    """The 95 % interval of a share of which `k` of `n` were seen (Wilson)."""
    p = k / n
    middle, spread = p + _Z**2 / (2 * n), _Z * (p * (1 - p) / n + _Z**2 / (4 * n * n)) ** 0.5
    scale = 1 + _Z**2 / n
    return max(0.0, (middle - spread) / scale), min(1.0, (middle + spread) / scale)


@dataclass(frozen=True, slots=True)
class Saved:
    """The ended tasks of one group. Amounts in USD."""

    name: str
    tasks: int
    accepted: int
    failed: int
    reused: int
    """Tasks answered from the store alone: they cost nothing, and count neither as a cost nor as a saving."""
    cost: Decimal
    baseline: Decimal

    @property
    def ratio(self) -> float:
        """The saved share of the baseline; negative when we cost more."""
        return Savings(self.cost, self.baseline).ratio

    def to_json(self) -> dict[str, Any]:
        """The group as JSON values; money is a string."""
        return {
            "name": self.name,
            "tasks": self.tasks,
            "accepted": self.accepted,
            "failed": self.failed,
            "reused": self.reused,
            "cost_usd": f"{self.cost:f}",
            "baseline_usd": f"{self.baseline:f}",
            "saved_usd": f"{self.baseline - self.cost:f}",
            "savings_ratio": self.ratio,
        }


@dataclass(frozen=True, slots=True)
class Quality:
    """How often the paid model accepted free answers of one use case, over all time."""

    use_case: str
    labels: int
    accepted: int
    unjudged: int
    """Answers delivered on earned trust, without a paid verdict."""
    agreed: int = 0
    """Answers on which free models agreed and the orchestrator was asked all the same."""
    contradicted: int = 0
    """Of these, how many it answered otherwise. Which side was right was not judged."""

    @property
    def doubtful(self) -> bool:
        """Whether the orchestrator contradicts agreeing models so often that its own answers should be looked at."""
        return self.contradicted >= _ENOUGH and wilson(self.agreed, self.contradicted)[0] > _OFTEN

    @property
    def on_agreed(self) -> str:
        """One sentence on how often agreeing free models were contradicted; empty when none was looked at."""
        if not self.agreed:
            return ""
        low, high = wilson(self.agreed, self.contradicted)
        sentence = (
            f"{self.use_case}: where free models agreed, the orchestrator answered otherwise on {self.contradicted:,} "
            f"of {self.agreed:,} tasks (95 % interval {low:.0%}-{high:.0%}); which side was right was not judged."
        )
        if self.doubtful:
            sentence += (
                " That is often: compare some of them by hand, and try another `orchestrator.model`"
                " if it is the one that errs."
            )
        return sentence

    @property
    def rate(self) -> float:
        """The accepted share."""
        return self.accepted / self.labels

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval of the share (Wilson)."""
        return wilson(self.labels, self.accepted)

    def to_json(self) -> dict[str, Any]:
        """The line as JSON values."""
        return {
            "use_case": self.use_case,
            "labels": self.labels,
            "endorsed": self.accepted,
            "rate": self.rate,
            "interval": list(self.interval),
            "delivered_on_trust": self.unjudged,
            "agreed_and_asked": self.agreed,
            "agreed_but_contradicted": self.contradicted,
        }


@dataclass(frozen=True, slots=True)
class Cause:
    """Why calls of one model brought nothing."""

    model: str
    outcome: str
    calls: int


@dataclass(frozen=True, slots=True)
class FreeQuota:
    """Today's use of one daily limit of a free model."""

    model: str
    provider: str
    kind: Kind
    used: int
    limit: int
    resets_at: float
    """Epoch seconds; 0 when nothing was used yet."""


@dataclass(frozen=True, slots=True)
class BeyondBaseline:
    """What the promise "never dearer" leaves out, USD."""

    credit: Decimal
    """The learning credit of the month."""
    credit_used: Decimal
    """By how much extras exceed what the month has saved."""
    failed: Decimal
    """Charged for calls that brought nothing."""
    chosen: Decimal
    """Charged for `planning: always`, `validation.mode: always` and paid models dearer than the orchestrator."""

    @property
    def lines(self) -> tuple[str, ...]:
        """One line for each amount that is not 0."""
        left = max(Decimal(0), self.credit - self.credit_used)
        shown = (
            (
                self.credit_used,
                f"Learning credit of paid executors: {_usd(self.credit_used)} used, {_usd(left)} left.",
            ),
            (self.failed, f"Charged for calls that failed: {_usd(self.failed)}."),
            (
                self.chosen,
                f"Your own choice (planning, validation or dearer models always): {_usd(self.chosen)}.",
            ),
        )
        return tuple(line for amount, line in shown if amount)

    def to_json(self) -> dict[str, str]:
        """The amounts as JSON values."""
        return {
            "learning_credit_usd": f"{self.credit:f}",
            "learning_credit_used_usd": f"{self.credit_used:f}",
            "failed_calls_usd": f"{self.failed:f}",
            "own_choice_usd": f"{self.chosen:f}",
        }


def _usd(amount: Decimal) -> str:
    return f"${amount:.6f}"


@dataclass(frozen=True, slots=True)
class SpendReport:
    """Everything the reports show of one month."""

    money: MonthReport
    saved: Saved
    """All tasks; its cost is everything the month was charged, also for tasks that were killed."""
    saved_by_use_case: tuple[Saved, ...]
    days: dict[str, Decimal]
    quality: tuple[Quality, ...]
    accounts: tuple[AccountLine, ...]
    """The risk budget of each use case."""
    certificate: str
    """One sentence on the certificate, empty while it says less than the budget."""
    order: tuple[Place, ...]
    """With `routing: learned`, the executors of each use case in the order in which they are asked now."""
    causes: tuple[Cause, ...]
    quotas: tuple[FreeQuota, ...]
    beyond: BeyondBaseline
    timezone: str
    made_at: datetime

    @property
    def month(self) -> str:
        """YYYY-MM."""
        return self.money.balance.month

    def to_json(self) -> dict[str, Any]:
        """The report as JSON values; money is a string."""
        return {
            **self.money.to_json(),
            "savings": self.saved.to_json(),
            "beyond_baseline": self.beyond.to_json(),
            "savings_by_use_case": [one.to_json() for one in self.saved_by_use_case],
            "spent_by_day_usd": {day: f"{usd:f}" for day, usd in self.days.items()},
            "quality": [one.to_json() for one in self.quality],
            "accounts": [one.to_json() for one in self.accounts],
            "certificate": self.certificate,
            "routing": [one.to_json() for one in self.order],
            "failures": [{"model": c.model, "outcome": c.outcome, "calls": c.calls} for c in self.causes],
            "free_quota": [
                {
                    "model": q.model,
                    "provider": q.provider,
                    "limit": q.kind,
                    "used": q.used,
                    "of": q.limit,
                    "resets_at": datetime.fromtimestamp(q.resets_at, UTC).isoformat()
                    if q.resets_at
                    else None,
                }
                for q in self.quotas
            ],
            "timezone": self.timezone,
            "made_at": self.made_at.isoformat(),
        }


async def gather(
    config: OrchestrationConfig, ledger: Ledger, month: str, *, limit: Decimal | None
) -> SpendReport:
    """Read a month's report; calls of dead processes are charged first.

    Args:
        limit: The configured limit in USD, without approvals; None: no limit.

    Raises:
        ConfigError: The configuration contradicts itself.
    """
    await ledger.sweep()
    await ledger.sum_up()
    rows = await ledger.report_rows(month)
    money = month_report(
        await ledger.balance(month),
        rows,
        limit=limit,
        closed=await ledger.quarantines(),
        problems=await ledger.verify(),
    )
    targets = resolve_targets(config)
    tasks = await result_lines(ledger, month)
    policy = Policy.of(config)
    risk = await RiskStore.of(ledger.database, targets[config.orchestrator.model].key, policy).state()
    charged = money.total.charged
    return SpendReport(
        money=money,
        saved=_saved("all", tasks, cost=charged),
        saved_by_use_case=_groups(tasks),
        days=await spend_by_day(ledger, month),
        quality=quality_of(risk),
        accounts=accounts_of(risk, policy),
        certificate=_certificate(risk, policy.eps),
        order=await _order(config, ledger, targets),
        causes=causes_of(rows),
        quotas=await _quotas(ledger, targets.values()),
        beyond=BeyondBaseline(
            config.learning_credit,
            max(Decimal(0), -(await ledger.savings(month)).left),
            sum((row.charged for row in rows if row.outcome not in ("ok", "in_flight")), Decimal(0)),
            await ledger.charged_by_choice(month),
        ),
        timezone=ledger.timezone,
        made_at=datetime.now(UTC),
    )


def _certificate(state: RiskState, eps: float) -> str:
    known = state.audit_bound
    if not known.trusted or known.missed() >= eps * known.trusted:
        return ""
    return (
        f"Of {known.trusted:,} answers that were delivered or audited on earned trust at most {known.missed():,.0f} "
        "were wrong and unseen (95 % confidence, for any tasks and any drift)."
    )


async def _order(
    config: OrchestrationConfig, ledger: Ledger, targets: Mapping[str, Target]
) -> tuple[Place, ...]:
    if config.routing == "file" or not config.enabled:
        return ()
    key = targets[config.orchestrator.model].key
    scores = ModelScoreStore(ledger.database, key, config.quality_threshold)
    return places(config, targets, await scores.state())


def _saved(name: str, lines: Sequence[ResultLine], cost: Decimal | None = None) -> Saved:
    fresh = [line for line in lines if not line.reused]

    def count(which: Callable[[ResultLine], bool]) -> int:
        return sum(line.tasks for line in lines if which(line))

    return Saved(
        name,
        count(lambda line: True),
        count(lambda line: line.accepted),
        count(lambda line: line.outcome != "ok"),
        count(lambda line: line.reused),
        sum((line.cost for line in fresh), Decimal(0)) if cost is None else cost,
        sum((line.baseline for line in fresh), Decimal(0)),
    )


def _groups(lines: Sequence[ResultLine]) -> tuple[Saved, ...]:
    names = sorted({line.use_case for line in lines})
    groups = [_saved(name or "-", [line for line in lines if line.use_case == name]) for name in names]
    return tuple(sorted(groups, key=lambda one: (-one.tasks, one.name)))


def quality_of(state: RiskState) -> tuple[Quality, ...]:
    """What the audits have shown, by use case and signal (the first parts of a stratum's key)."""
    sums: dict[str, list[int]] = {}
    for key, stratum in state.strata.items():
        use_case, signal = key.split("|")[:2]
        of = sums.setdefault(use_case, [0, 0, 0, 0, 0])
        of[0] += stratum.labelled
        of[1] += stratum.labelled - stratum.rejected
        of[2] += stratum.unjudged
        if signal.startswith("agree"):
            of[3] += stratum.labelled
            of[4] += stratum.rejected
    return tuple(Quality(name, *of) for name, of in sorted(sums.items()) if of[0])


def causes_of(rows: Iterable[ReportRow]) -> tuple[Cause, ...]:
    """Failed calls by model and class of error, the most first."""
    sums: dict[tuple[str, str], int] = {}
    for row in rows:
        if row.outcome not in ("ok", "in_flight"):
            sums[row.model, row.outcome] = sums.get((row.model, row.outcome), 0) + row.calls
    found = [Cause(model, outcome, calls) for (model, outcome), calls in sums.items()]
    return tuple(sorted(found, key=lambda cause: (-cause.calls, cause.model, cause.outcome)))


async def _quotas(ledger: Ledger, targets: Iterable[Target]) -> tuple[FreeQuota, ...]:
    """Today's use of the daily limits; models whose key is not in this environment are left out."""
    keyed: list[tuple[Target, str]] = []
    for target in targets:
        if target.billing != "free":
            continue
        try:
            keyed.append((target, key_id(find_api_key(target.api_key_env))))
        except MissingKeyError:
            continue
    found: list[FreeQuota] = []
    books = await Quota(ledger.database).snapshot(keyed) if keyed else []
    kinds: tuple[Kind, ...] = ("rpd", "tpd")
    for book, (target, _) in zip(books, keyed, strict=True):
        for kind in kinds:
            cap = book.cap(kind, target.limits)
            if cap is not None:
                used = book.used_today(kind)
                found.append(FreeQuota(target.name, target.provider, kind, used, cap, book.day_ends()))
    return tuple(found)
