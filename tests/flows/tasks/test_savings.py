"""Savings: what a task cost against the orchestrator alone, from observed tokens, with every sum written out."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from tta_dev_primitives.config.models.targets import Price
from tta_dev_primitives.flows.tasks.result import Attempt
from tta_dev_primitives.flows.tasks.savings import Savings, baseline, total

PRICE = Price(Decimal(3), Decimal(15))


def attempt(role: Any, model: str, read: int, wrote: int, cost: str = "0", outcome: str = "ok") -> Attempt:
    return Attempt(
        role=role,
        model=model,
        provider="p",
        outcome=outcome,
        input_tokens=read,
        output_tokens=wrote,
        cost_usd=Decimal(cost),
    )


def test_a_free_answer_is_measured_by_its_own_tokens() -> None:
    """1,000 prompt tokens at 3 and 200 output tokens at 15 USD a million: 0.003 + 0.003."""
    attempts = [attempt("execute", "gemini", 1000, 200), attempt("execute", "llama", 900, 300)]
    assert baseline(attempts, "gemini", "claude", PRICE) == Decimal("0.006")


def test_the_orchestrators_own_answer_is_the_better_measure() -> None:
    """An audited task: 1,100 x 3 + 100 x 15 USD a million, whichever answer was delivered."""
    attempts = [attempt("execute", "gemini", 1000, 200), attempt("execute", "claude", 1100, 100, "0.0048")]
    assert baseline(attempts, "gemini", "claude", PRICE) == Decimal("0.0048")


def test_failed_attempts_plans_and_verdicts_are_no_baseline() -> None:
    """They count on our side only."""
    attempts = [
        attempt("plan", "claude", 500, 50, "0.00225"),
        attempt("execute", "claude", 1000, 0, "0.003", "timeout"),
        attempt("execute", "gemini", 1000, 200),
        attempt("validate", "claude", 1300, 15, "0.004125"),
    ]
    assert baseline(attempts, "gemini", "claude", PRICE) == Decimal("0.006")


def test_costs_above_the_baseline_are_a_negative_saving() -> None:
    """0.009375 spent for what would have cost 0.006: 56.25 % more."""
    assert Savings(Decimal("0.009375"), Decimal("0.006")).ratio == -0.5625


def test_without_a_price_or_an_answer_there_is_nothing_to_compare() -> None:
    """Unknown is not a saving."""
    assert baseline([attempt("execute", "gemini", 1, 1)], "gemini", "claude", None) == 0
    assert baseline([], "gemini", "claude", PRICE) == 0
    assert Savings(Decimal(1), Decimal(0)).ratio == 0.0


@given(
    st.lists(
        st.tuples(st.decimals(0, 10, places=6), st.decimals("0.000001", 10, places=6)),
        min_size=1,
        max_size=20,
    )
)
def test_many_tasks_save_what_their_sums_say(parts: list[tuple[Decimal, Decimal]]) -> None:
    """The saving of a job is one minus the sum of costs over the sum of baselines."""
    both = total(Savings(cost, alone) for cost, alone in parts)
    assert both.cost_usd == sum(cost for cost, _ in parts)
    assert both.ratio == float(1 - both.cost_usd / sum(alone for _, alone in parts))
