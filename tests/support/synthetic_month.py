"""A month of open tasks with known truth, driven through the product's own state machine and risk ledger, offline.

What is assumed of the models is in `World`; everything that is decided is decided by the product's code. The savings
account is the ledger's rule in three integers; the ledger's own tests prove that both agree.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from decimal import Decimal

from tta_dev_primitives.config.models.targets import Price, Usage
from tta_dev_primitives.flows.validation.case import Answer, Candidate, Case, Comparison, Policy, Verdict
from tta_dev_primitives.flows.validation.labels import compared_label, label_of
from tta_dev_primitives.flows.validation.next_step import next_step
from tta_dev_primitives.flows.validation.opinion_costs import LengthRatios, OpinionCosts
from tta_dev_primitives.flows.validation.risk_state import Label, RiskPolicy, RiskState
from tta_dev_primitives.flows.validation.rulings import TaskRow, learn_once, rule_once
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

__all__ = ["LENGTHS", "Account", "Month", "World", "run_month"]

PRICE = Price(Decimal(3), Decimal(15))
_BYTES = 4.5
"""Bytes of a token of English text: a call is held at one token a byte."""
_OVERHEAD, _SCHEMA = 300, 1200
_VERDICT_PROMPT, _VERDICT_OUTPUT, _VERDICT_CAP, _ANSWER_CAP = 169, 14, 40, 2048

Draw = Callable[[random.Random], tuple[int, int]]


def _spread(task: float, answer: float, width: float) -> Draw:
    def draw(rng: random.Random) -> tuple[int, int]:
        return (
            round(min(4000.0, max(8.0, task * rng.lognormvariate(0, 0.5)))),
            round(min(1800.0, max(8.0, answer * rng.lognormvariate(0, width)))),
        )

    return draw


LENGTHS: dict[str, Draw] = {
    "40 tokens": lambda _: (30, 40),
    "LLMBar": _spread(40, 95, 0.8),
    "MT-Bench": _spread(80, 320, 0.7),
}
"""Tokens of a task and of its answer."""


@dataclass(frozen=True)
class World:
    """What the models are like."""

    lengths: str = "40 tokens"
    free: int = 2
    """Free families."""
    shares: tuple[float, ...] = ()
    """Paid executors, each at this share of the orchestrator's price; the second compares what the first wrote."""
    failures: float = 0.05
    """Answers of an executor that the orchestrator would reject."""
    judge_passes: tuple[float, float] = (0.95, 0.6)
    """Good and bad answers that a free judge passes."""
    verdict_passes: tuple[float, float] = (0.95, 0.1)
    comparison_errs: float = 0.05
    verbosity: float = 1.0
    """Executors write this many times what the orchestrator writes."""
    credit: Decimal = Decimal("0.1")
    policy: Policy = field(default_factory=Policy)


class Account:
    """The month's savings as the ledger keeps them."""

    def __init__(self) -> None:
        self.earned = self.extra = Decimal(0)

    @property
    def left(self) -> Decimal:
        """What further extras may cost."""
        return self.earned - self.extra

    def pay(self, bound: Decimal, cost: Decimal, credit: Decimal = Decimal(0)) -> bool:
        """Reserve and settle one extra call; False when it is not covered."""
        if self.left + credit < bound:
            return False
        self.extra += cost
        return True


@dataclass
class Month:
    """What came of it."""

    world: World
    account: Account = field(default_factory=Account)
    ratios: LengthRatios = field(default_factory=LengthRatios)
    risk: RiskState = field(default_factory=RiskState)
    cost: Decimal = Decimal(0)
    baseline: Decimal = Decimal(0)
    alone: Decimal = Decimal(0)
    bad: int = 0
    running: list[tuple[Decimal, Decimal]] = field(default_factory=list)
    """Baseline less cost after each task: as the product counts it, and by what the orchestrator really would cost."""
    savings: list[float] = field(default_factory=list)
    alarms: int = 0

    @property
    def lowest(self) -> Decimal:
        """The lowest running saving, USD."""
        return min((counted for counted, _ in self.running), default=Decimal(0))


def run_month(world: World, tasks: int, rng: random.Random, *, promise: bool = True) -> Month:
    """Run the tasks in order. Without `promise`, extras are never refused (rule 1 alone)."""
    month = Month(world)
    for _ in range(tasks):
        _Task(month, rng, promise).run()
        month.running.append((month.baseline - month.cost, month.alone - month.cost))
        month.savings.append(float(1 - month.cost / month.baseline) if month.baseline else 0.0)
    return month


class _Task:
    def __init__(self, month: Month, rng: random.Random, promise: bool) -> None:
        self.month, self.world, self.rng, self.promise = month, month.world, rng, promise
        self.read, self.own = LENGTHS[self.world.lengths](rng)
        orchestrator = Candidate("claude", "claude", "paid", price=PRICE)
        free = [Candidate(f"free{n}", f"family{n}", "free") for n in range(self.world.free)]
        paid = [
            Candidate(f"paid{n}", f"cheap{n}", "paid", price=_price(share))
            for n, share in enumerate(self.world.shares)
        ]
        self.case = Case(
            "open", "moderate", (*free, *paid, orchestrator), orchestrator, self.world.policy,
            costs=OpinionCosts(PRICE, month.ratios), savings=month.account.left, coin=rng.random(),
        )  # fmt: skip
        self.good: dict[str, bool] = {orchestrator.model: True}
        self.by_name = {c.model: c for c in self.case.candidates}
        self.cost = self.base = Decimal(0)
        self.row, self.key, self.secret = TaskRow(), str(len(month.running)), f"{rng.random()}"

    def run(self) -> None:
        while not isinstance(step := next_step(self.case), Deliver | GiveUp):
            self._take(step)
        policy = RiskPolicy(self.world.policy.eps, self.world.policy.gate)
        end = label_of(self.case, step) or Label(
            self.case.ruling, None, isinstance(step, Deliver) and step.accepted
        )
        for label in (compared_label(self.case), end):
            if label is not None:
                marked = replace(label, task=self.key, use_case=self.case.use_case)
                alarm, self.month.risk, self.row = learn_once(self.month.risk, self.row, marked, policy)
                self.month.alarms += alarm
        self._count(step)

    def _take(self, step: Step) -> None:
        match step:
            case Answers(slots):
                for slot in slots:
                    any(self._answer(name) for name in slot)
            case PaidSolve(models, _):
                self._answer(models[0])
            case FreeJudge(index, models):
                passed = self._passes(self.case.answers[index], self.world.judge_passes)
                by = self.by_name[models[0]]
                self.case = self.case.with_verdict(Verdict(index, by, 0.95 if passed else 0.2))
            case FreeCompare(index, _, models):
                self._compare(index, self.by_name[models[0]])
            case PaidVerdict(index, _, _):
                self._verdict(index)
            case Consult(evidence):
                policy = RiskPolicy(self.world.policy.eps, self.world.policy.gate)
                ruling, self.month.risk, self.row = rule_once(
                    self.month.risk, self.row, self.key, evidence, policy, secret=self.secret, month="2026-11"
                )
                self.case = self.case.with_ruling(ruling)

    def _answer(self, name: str) -> bool:
        """Ask one model; False when the month's savings do not cover it."""
        by = self.by_name[name]
        wrote = self.own if by.family == "claude" else round(self.own * self.world.verbosity)
        if by.family == "claude":
            self.base += PRICE.cost(Usage(self.read, output_tokens=wrote))
            self.cost += PRICE.cost(Usage(self.read, output_tokens=wrote))
        elif by.price is not None:
            bound = _bound(by.price, self.read, 0, _ANSWER_CAP)
            if not self._extra(
                bound, by.price.cost(Usage(self.read, output_tokens=wrote)), self.world.credit
            ):
                self.case = self.case.without([name])
                return False
        if by.family != "claude":
            self.good[name] = self.rng.random() >= self.world.failures
        self.case = self.case.with_answer(Answer(by, "text", read=self.read, wrote=wrote))
        return True

    def _extra(self, bound: Decimal, cost: Decimal, credit: Decimal = Decimal(0)) -> bool:
        if not self.promise:
            self.month.account.extra += cost
        elif not self.month.account.pay(bound, cost, credit):
            return False
        self.cost += cost
        return True

    def _verdict(self, index: int) -> None:
        answer = self.case.answers[index]
        read = _VERDICT_PROMPT + self.read + answer.length
        bound = self.case.costs.verdict_bound(self.read, answer.length)
        if not self._extra(bound, PRICE.cost(Usage(read, output_tokens=_VERDICT_OUTPUT))):
            self.case = self.case.without_extras()
            return
        passed = self._passes(answer, self.world.verdict_passes)
        self.case = self.case.with_verdict(Verdict(index, self.case.orchestrator, 0.95 if passed else 0.2))

    def _compare(self, index: int, by: Candidate) -> None:
        answer = self.case.answers[index]
        if by.price is not None:
            read = _VERDICT_PROMPT + self.read + 2 * answer.length
            bound = _bound(by.price, read, _SCHEMA, _VERDICT_CAP)
            if not self._extra(bound, by.price.cost(Usage(read, output_tokens=20)), self.world.credit):
                self.case = self.case.without([by.model])
                return
        wrong = self.rng.random() < self.world.comparison_errs
        self.case = self.case.with_comparison(Comparison(index, by, self.good[answer.by.model] != wrong))

    def _passes(self, answer: Answer, rates: tuple[float, float]) -> bool:
        return self.rng.random() < rates[0 if self.good[answer.by.model] else 1]

    def _count(self, step: Step) -> None:
        month = self.month
        assert isinstance(step, Deliver)
        shown = self.case.answers[step.index]
        lower = month.ratios.lower(shown.wrote)
        baseline = self.base or PRICE.cost(Usage(self.read, output_tokens=int(shown.wrote * lower)))
        month.account.earned += baseline - self.base
        month.cost += self.cost
        month.baseline += baseline
        month.alone += PRICE.cost(Usage(self.read, output_tokens=self.own))
        month.bad += not self.good[shown.by.model]
        others = [a for a in self.case.answers if a.by.family != "claude"]
        if self.base and others:
            month.ratios = month.ratios.with_pair(others[0].wrote, self.own)


def _price(share: float) -> Price:
    return replace(
        PRICE,
        input_usd_per_mtok=PRICE.input_usd_per_mtok * Decimal(repr(share)),
        output_usd_per_mtok=PRICE.output_usd_per_mtok * Decimal(repr(share)),
    )


def _bound(price: Price, read: int, more: int, cap: int) -> Decimal:
    return price.most(round(read * _BYTES) + _OVERHEAD + more, cap)
