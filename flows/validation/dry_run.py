"""Tasks through the real state machine and the real risk ledger, with answers that are known or drawn. Pure.

    dry = DryRun(policy, Candidate.of(orchestrator))
    ends = dry.run([DryTask("key", case, source)])     # one chunk; what is put off waits for its labels
    dry.cost, dry.baseline, dry.savings

Estimates draw the answers, recorded outcomes know them. No model is called, nothing is stored.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Protocol

from tta_dev_primitives.config.models.targets import Usage
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

_MONTH = "dry"


class Source(Protocol):
    """What models answer to one task."""

    def answer(self, by: Candidate, fields: Sequence[str] = ()) -> Answer:
        """The answer of a model, to these fields of a typed object or to all; its token counts are set."""

    def score(self, answer: Answer, by: Candidate) -> float | None:
        """The verdict of a judge on an answer."""

    def as_good(self, answer: Answer, own: Answer, by: Candidate) -> bool:
        """Whether a cheap model finds an answer at least as good as the orchestrator's own."""


@dataclass(slots=True)
class DryTask:
    """One task: its case before any answer, and what models answer."""

    key: str
    case: Case
    source: Source
    cost: Decimal = Decimal(0)
    held: Decimal = Decimal(0)
    free_calls: int = 0
    paid_calls: int = 0
    step: Step | None = None
    row: TaskRow = field(default_factory=TaskRow)


@dataclass(frozen=True, slots=True)
class DryEnd:
    """How one task ended. USD."""

    case: Case
    step: Deliver | GiveUp
    cost: Decimal
    baseline: Decimal
    free_calls: int
    paid_calls: int


@dataclass(slots=True)
class DryRun:
    """A job, or a month of tasks.

    Args:
        policy: What the configuration says about trust.
        orchestrator: With its list price; None counts as free.
        state: What the risk ledger knows.
        savings: What the month has saved and not spent, USD.
        credit: Learning credit for paid executors, USD.
        ratios: How long the orchestrator's answers are against the executors'.
        coins: What the coins are drawn from.
    """

    policy: Policy
    orchestrator: Candidate
    state: RiskState = field(default_factory=RiskState)
    savings: Decimal = Decimal(0)
    credit: Decimal = Decimal(0)
    ratios: LengthRatios = field(default_factory=LengthRatios)
    coins: str = "dry run"
    cost: Decimal = Decimal(0)
    baseline: Decimal = Decimal(0)
    ended: int = 0

    @property
    def _risk(self) -> RiskPolicy:
        return RiskPolicy(self.policy.eps, self.policy.gate)

    @property
    def _costs(self) -> OpinionCosts | None:
        by = self.orchestrator
        if by.price is None or by.billing == "free":
            return None
        return OpinionCosts(by.price, self.ratios, room_to_think=by.room_to_think)

    def run(self, tasks: Sequence[DryTask]) -> list[DryEnd]:
        """Run one chunk: what has to wait for the words of earlier checks goes on when these have ended."""
        ends: dict[str, DryEnd] = {}
        left = list(tasks)
        while left:
            costs, savings = self._costs, self.savings
            under_way: Counter[str] = Counter()
            for task in left:
                task.case = replace(task.case, costs=costs, savings=savings)
                self._advance(task)
            for task in left:
                if isinstance(task.step, Consult):
                    self._rule(task, task.step, under_way)
            going_on = [task for task in left if not isinstance(next_step(task.case), Consult)]
            for task in going_on:
                self._advance(task)
            ends |= {task.key: self._end(task) for task in going_on}
            left = [task for task in left if task.key not in ends]
        return [ends[task.key] for task in tasks]

    def _advance(self, task: DryTask) -> None:
        """Go on until the risk ledger is asked, or the end."""
        while not isinstance(step := next_step(task.case), Consult | Deliver | GiveUp):
            self._take(task, step)
        task.step = step

    def _rule(self, task: DryTask, step: Consult, under_way: Counter[str]) -> None:
        stratum = step.evidence.stratum
        ruling, self.state, task.row = rule_once(
            self.state,
            task.row,
            task.key,
            step.evidence,
            self._risk,
            secret=self.coins,
            month=_MONTH,
            under_way=under_way[stratum],
        )
        if not ruling.put_off:
            task.case = task.case.with_ruling(ruling)
            under_way[stratum] += ruling.checks

    def _take(self, task: DryTask, step: Step) -> None:
        case, source = task.case, task.source
        names = {c.model: c for c in (*case.candidates, case.orchestrator)}
        match step:
            case Answers(slots, fields):
                for slot in slots:
                    for name in slot:
                        if not self._answer(task, names[name], fields).failures:
                            break
            case PaidSolve(models, _, fields):
                self._answer(task, names[models[0]], fields)
            case FreeJudge(index, models):
                by = names[models[0]]
                task.free_calls += 1
                task.case = case.with_verdict(Verdict(index, by, source.score(case.answers[index], by)))
            case FreeCompare(index, own, models):
                by = names[models[0]]
                task.free_calls += 1
                good = source.as_good(case.answers[index], case.answers[own], by)
                task.case = case.with_comparison(Comparison(index, by, good))
            case PaidVerdict(index, models, reason):
                self._verdict(task, index, names[models[0]], extra=reason != "always")

    def _answer(self, task: DryTask, by: Candidate, fields: Sequence[str]) -> Answer:
        answer = task.source.answer(by, fields)
        price = _price(by, answer)
        if by.billing == "paid" and by.model != self.orchestrator.model and price:
            if self.savings + self.credit < price:
                task.case = task.case.without([by.model])
                return replace(answer, failures=("not paid",))
            self.savings -= price
        task.case = task.case.with_answer(answer)
        task.cost += price
        task.free_calls += by.billing == "free"
        task.paid_calls += by.billing == "paid"
        return answer

    def _verdict(self, task: DryTask, index: int, by: Candidate, *, extra: bool) -> None:
        """A verdict of the orchestrator; as an extra it is held at its bound until the chunk has ended."""
        answer, costs = task.case.answers[index], task.case.costs
        if costs is not None:
            bound = costs.verdict_bound(answer.read, answer.length)
            if extra and self.savings < bound:
                task.case = task.case.without_extras()
                return
            price = costs.verdict(answer.read, answer.length)
            task.cost += price
            if extra:
                self.savings -= bound
                task.held += bound - price
        task.paid_calls += 1
        task.case = task.case.with_verdict(Verdict(index, by, task.source.score(answer, by)))

    def _end(self, task: DryTask) -> DryEnd:
        step = task.step
        assert isinstance(step, Deliver | GiveUp)
        self._learn(task, step)
        own = next((a for a in task.case.answers if a.by.model == self.orchestrator.model), None)
        base = Decimal(0)
        if own is not None:
            base = _price(self.orchestrator, own if own.fields is None else task.source.answer(own.by))
            other = next(
                (a for a in task.case.answers if a.by.model != own.by.model and not a.failures), None
            )
            if other is not None and other.wrote and own.wrote:
                self.ratios = self.ratios.with_pair(other.wrote, own.wrote)
        elif isinstance(step, Deliver) and self.orchestrator.price is not None:
            shown = task.case.answers[step.index]
            wrote = int(shown.length * self.ratios.lower(shown.length))
            base = self.orchestrator.price.cost(Usage(shown.read, output_tokens=wrote))
        # Verdicts and paid executors were taken from the savings when they were asked.
        self.savings += task.held + (base if own is None else Decimal(0))
        self.cost, self.baseline, self.ended = self.cost + task.cost, self.baseline + base, self.ended + 1
        return DryEnd(task.case, step, task.cost, base, task.free_calls, task.paid_calls)

    def _learn(self, task: DryTask, step: Deliver | GiveUp) -> None:
        label = label_of(task.case, step)
        if label is None and isinstance(step, Deliver):
            label = Label(task.case.ruling, None, step.accepted)
        for one in (compared_label(task.case), label):
            if one is not None:
                marked = replace(one, task=task.key, use_case=task.case.use_case)
                _, self.state, task.row = learn_once(self.state, task.row, marked, self._risk)


def _price(by: Candidate, answer: Answer) -> Decimal:
    if by.billing == "free" or by.price is None:
        return Decimal(0)
    return by.price.cost(Usage(answer.read, output_tokens=answer.length))
