"""What a task cost against what it would have cost, from observed tokens and list prices. Pure, exact decimals.

Baseline: the orchestrator model alone does the same task at its list price: the prompt tokens observed and the output
tokens of its own answer where it gave one. Else it counts as many output tokens as were delivered, but not more than
the orchestrator's answers are known to have: a verbose model must not make a saving look larger. On our side everything
counts: plans, verdicts, audits, failed attempts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal

from tta_dev_primitives.config import OrchestrationConfig
from tta_dev_primitives.config.models.targets import Price, Target, Usage
from tta_dev_primitives.flows.tasks.item import Item
from tta_dev_primitives.flows.tasks.result import Attempt, PaidFrom, Role
from tta_dev_primitives.flows.validation.case import Candidate
from tta_dev_primitives.flows.validation.opinion_costs import LengthRatios

_NONE = LengthRatios()
_INVALID = "wrong_format"
"""Outcome of an answer that came and was no data of the asked type."""


@dataclass(frozen=True, slots=True)
class Savings:
    """Cost and baseline in USD."""

    cost_usd: Decimal
    baseline_usd: Decimal

    @property
    def ratio(self) -> float:
        """1 - cost / baseline: 1 for free work, negative when we cost more; 0 when there is nothing to compare."""
        if self.baseline_usd == 0:
            return 0.0
        return float(1 - self.cost_usd / self.baseline_usd)

    def __add__(self, other: Savings) -> Savings:
        return Savings(self.cost_usd + other.cost_usd, self.baseline_usd + other.baseline_usd)


def total(parts: Iterable[Savings]) -> Savings:
    """The savings of many tasks together: of the sums, never a mean of ratios."""
    return sum(parts, Savings(Decimal(0), Decimal(0)))


def paid_from(role: Role, target: Target, orchestrator: Target, config: OrchestrationConfig) -> PaidFrom:
    """What pays for a call of `target` in this role."""
    if target.billing == "free":
        return "free"
    if role == "plan" and target.key == orchestrator.key:
        return "choice" if config.planning == "always" else "savings"
    if role == "validate" and target.key == orchestrator.key:
        return "choice" if config.validation.mode == "always" else "savings"
    if target.key == orchestrator.key:
        return "baseline"
    share = Candidate.of(target).share_of(Candidate.of(orchestrator))
    return "choice" if share is None or share >= 1.0 else "credit"


def baseline(
    attempts: Sequence[Attempt],
    delivered_by: str,
    orchestrator: str,
    price: Price | None,
    ratios: LengthRatios = _NONE,
) -> Decimal:
    """The baseline of one task, USD; 0 when the orchestrator's price is unknown or nothing was answered.

    Args:
        ratios: How long its answers are against those of the executors.
    """
    if price is None:
        return Decimal(0)
    answered = [a for a in attempts if a.role == "execute" and a.outcome == "ok"]
    own = next((a for a in answered if a.model == orchestrator), None)
    if own is not None:
        # Without a usage it was charged at its bound, and alone it would have been charged the same.
        return max(price.cost(Usage(own.input_tokens, output_tokens=own.output_tokens)), own.cost_usd)
    measured = next((a for a in answered if a.model == delivered_by), None)
    if measured is None:
        return Decimal(0)
    wrote = int(measured.output_tokens * ratios.lower(measured.output_tokens))
    return price.cost(Usage(measured.input_tokens, output_tokens=wrote))


def own_answers_cost(attempts: Sequence[Attempt], orchestrator: str) -> Decimal:
    """What the orchestrator's own answers cost, USD: the baseline of a task that ended without an answer."""
    answered = ("ok", _INVALID)
    own = (a for a in attempts if a.role == "execute" and a.model == orchestrator and a.outcome in answered)
    return next((a.cost_usd for a in own), Decimal(0))


def earned(
    attempts: Sequence[Attempt],
    baseline_usd: Decimal,
    delivered_by: str,
    source: Callable[[Attempt], PaidFrom],
    *,
    since: float,
) -> Decimal:
    """What a delivered task adds to the month's savings: its baseline less what no savings have paid for already.

    Args:
        source: What paid for an attempt.
        since: When the month began, seconds since the epoch: what an extra cost before it is paid from this month.
    """
    amount, chosen, repaired = baseline_usd, Decimal(0), False
    for attempt in attempts:
        pays: PaidFrom = "savings" if repaired and source(attempt) == "baseline" else source(attempt)
        if pays == "baseline" and attempt.outcome == _INVALID:
            # It was asked again, from savings.
            amount, repaired = amount - attempt.cost_usd, True
        if pays == "choice":
            chosen += attempt.cost_usd
        elif pays in ("savings", "credit"):
            amount -= attempt.cost_usd if attempt.started_at < since else Decimal(0)
        elif pays == "free" or attempt.outcome == "ok":
            # A stored answer was paid by the run that asked for it; failed calls of the orchestrator do not count.
            paid_before = attempt.list_value_usd if attempt.reused and pays == "baseline" else Decimal(0)
            amount -= max(attempt.cost_usd, paid_before)
    delivered = [a for a in attempts if a.role == "execute" and a.outcome == "ok" and a.model == delivered_by]
    if any(a.reused for a in delivered):
        # The task was done before: it saves nothing a second time.
        amount = min(amount, Decimal(0))
    return min(amount, max(Decimal(0), amount - chosen)) if chosen else amount


def savings_of(item: Item, index: int, orchestrator: Target) -> Savings:
    """The savings of an ended item whose answer `index` was delivered."""
    case = item.open_case
    ratios = _NONE if case.costs is None else case.costs.ratios
    delivered = case.answers[index]
    if delivered.fields is None:
        by, alone = delivered.by.model, orchestrator.name
        return Savings(item.cost_usd, baseline(item.attempts, by, alone, orchestrator.price, ratios))
    # Asked for some fields only: alone, the orchestrator would have read as much and written the whole.
    whole = next(case.answers[i].by.model for i in case.usable if case.answers[i].fields is None)
    least = own_answers_cost(item.attempts, orchestrator.name)
    whole_usd = baseline(item.attempts, whole, "", orchestrator.price, ratios)
    return Savings(item.cost_usd, max(whole_usd, least))
