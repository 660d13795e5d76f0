"""What a task cost against what it would have cost, from observed tokens and list prices. Pure, exact decimals.

Baseline: the orchestrator model alone does the same task at its list price: the prompt tokens observed and the output
tokens of its own answer where it gave one, else those of the delivered answer. On our side everything counts: plans,
verdicts, audits, failed attempts.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal

from tta_dev_primitives.config.models.targets import Price, Target
from tta_dev_primitives.config.models.usage import Usage
from tta_dev_primitives.flows.tasks.item import Item
from tta_dev_primitives.flows.tasks.result import Attempt

__all__ = ["Savings", "baseline", "savings_of", "total"]


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


def baseline(
    attempts: Sequence[Attempt], delivered_by: str, orchestrator: str, price: Price | None
) -> Decimal:
    """The baseline of one task, USD; 0 when the orchestrator's price is unknown or nothing was answered.

    Args:
        attempts: Every attempt of the task.
        delivered_by: The model whose answer was delivered.
        orchestrator: The orchestrator model's name.
        price: Its list price.
    """
    if price is None:
        return Decimal(0)
    answered = [a for a in attempts if a.role == "execute" and a.outcome == "ok"]
    measured = next((a for a in answered if a.model == orchestrator), None) or next(
        (a for a in answered if a.model == delivered_by), None
    )
    if measured is None:
        return Decimal(0)
    return price.cost(Usage(input_tokens=measured.input_tokens, output_tokens=measured.output_tokens))


def savings_of(item: Item, index: int, orchestrator: Target) -> Savings:
    """The savings of an ended item whose answer `index` was delivered."""
    by = item.open_case.answers[index].by.model
    return Savings(item.cost_usd, baseline(item.attempts, by, orchestrator.name, orchestrator.price))
