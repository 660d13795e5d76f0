"""Offline replay: the flow's own state machine and risk ledger on recorded answers, without HTTP or Prefect.

A configuration file gives route and policy. Recorded models stand in for the configured ones (`STAND_INS`). Tokens are
those stored with the answers, prices are list prices. A closed task is solved, not judged, so that every paid call is
one recorded answer of the paid model; the rare verdict that a task asks for is counted as a rejection at full price.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from pathlib import Path
from typing import Any, assert_never

from tta_dev_primitives.config.models.targets import Price, Usage
from tta_dev_primitives.config.orchestration_config import OrchestrationConfig, load_orchestration_config
from tta_dev_primitives.flows.answers.closed_answers import agree, final_answer
from tta_dev_primitives.flows.planning.local_classifier import answer_format, is_long
from tta_dev_primitives.flows.routing.candidates import candidate_names
from tta_dev_primitives.flows.validation.case import Answer, Candidate, Case, Policy, Verdict
from tta_dev_primitives.flows.validation.labels import label_of
from tta_dev_primitives.flows.validation.local_checks import check_text
from tta_dev_primitives.flows.validation.next_step import next_step
from tta_dev_primitives.flows.validation.opinion_costs import OpinionCosts
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

__all__ = ["Recorded", "Scenario", "Score", "load", "mix", "replay", "shuffled"]

GEMINI, LLAMA, DEEPSEEK = "gemini-2.5-pro", "llama-3.3-70b-versatile", "deepseek/deepseek-r1:free"
SONNET, OPUS = "claude-sonnet-4.5", "claude-opus-4"

STAND_INS = {
    GEMINI: ("gemini-1.5-pro",),
    LLAMA: ("Meta-Llama-3.1-70B-Instruct", "Meta-Llama-3-70B-Instruct"),
    DEEPSEEK: ("deepseek-v2.5-0908", "deepseek-v2-chat-0628"),
    SONNET: ("claude-3-5-sonnet-20241022", "claude-3-5-sonnet-20240620"),
    OPUS: ("claude-3-opus-20240229",),
}
MODELS = {
    GEMINI: Candidate(GEMINI, "gemini", "free"),
    LLAMA: Candidate(LLAMA, "llama", "free"),
    DEEPSEEK: Candidate(DEEPSEEK, "deepseek", "free"),
    SONNET: Candidate(SONNET, "claude", "paid"),
    OPUS: Candidate(OPUS, "claude", "paid"),
}
PRICES = {SONNET: Price(Decimal(3), Decimal(15)), OPUS: Price(Decimal(15), Decimal(75))}
MIX = (("gsm8k", 0.7), ("crux", 0.2), ("math_l5", 0.1))
"""Corpora of the mix, and the share of each."""


@dataclass(frozen=True)
class Scenario:
    """One operating point: a configuration file, and free models added behind its fallback list, if any."""

    name: str
    config: OrchestrationConfig
    extra: tuple[str, ...] = ()
    families: int | None = None
    """Free models that are kept, in route order; None: all."""

    @classmethod
    def of(cls, path: Path, *extra: str) -> Scenario:
        """The operating point of a configuration file."""
        config = load_orchestration_config(path, use_env_overrides=False)
        return cls(" + ".join((path.stem, *(e.split("/")[0] for e in extra))), config, extra)

    @property
    def policy(self) -> Policy:
        """As the flow reads it from the file."""
        validation = self.config.validation
        return Policy(
            self.config.quality_threshold,
            self.config.prefer_free_models,
            validation.mode,
            validation.gate,
            validation.agreement,
        )

    @property
    def orchestrator(self) -> Candidate:
        """The paid model that the file names."""
        return MODELS[self.config.orchestrator.model]

    def route(self, use_case: str) -> tuple[Candidate, ...]:
        """The flow's rule on the file's names."""
        names = dict.fromkeys([*candidate_names(self.config, use_case), *self.extra])
        route = [MODELS[name] for name in names]
        if self.families is not None:
            kept = [c for c in route if c.billing == "free"][: self.families]
            route = [c for c in route if c.billing == "paid" or c in kept]
        return tuple(sorted(route, key=lambda c: c.billing == "paid") if self.policy.prefer_free else route)


class Recorded:
    """One record of a corpus; answers are checked and read once."""

    def __init__(self, row: dict[str, Any]) -> None:
        self.use_case: str = row["use_case"]
        self.prompt: str = row["prompt"]
        self.format = answer_format(self.prompt)
        self.long = is_long(self.prompt)
        self._rows: dict[str, dict[str, Any]] = row["models"]
        self._read: dict[str, tuple[tuple[str, ...], str | None]] = {}

    def named(self, model: str, swaps: dict[str, str] | None = None) -> str:
        """The recorded model that stands in for `model`, or the one it was swapped for."""
        names = (swaps[model],) if swaps and model in swaps else STAND_INS[model]
        return next(name for name in names if name in self._rows)

    def __contains__(self, recorded: str) -> bool:
        return recorded in self._rows

    def row(self, recorded: str) -> dict[str, Any]:
        """What was recorded of one model."""
        return self._rows[recorded]

    def answer(self, by: Candidate, recorded: str) -> Answer:
        """The recorded answer, with its checks and its closed form, as `by` would have given it."""
        row = self._rows[recorded]
        if recorded not in self._read:
            finish = "length" if row.get("truncated") else "stop"
            failures = check_text(row["answer"], answer_format=self.format, finish=finish, task=self.prompt)
            self._read[recorded] = (failures, final_answer(row["answer"], self.format))
        failures, final = self._read[recorded]
        return Answer(by, row["answer"], failures, final)


@dataclass
class Score:
    """What a replay came to. `baseline` counts as a result does; `paid_alone` is the paid model on every task."""

    eps: float
    tasks: int = 0
    right: int = 0
    paid_right: int = 0
    cost: Decimal = Decimal(0)
    baseline: Decimal = Decimal(0)
    paid_alone: Decimal = Decimal(0)
    savings: list[float] = field(default_factory=list)
    """The saving after each task."""
    rejected: int = 0
    ever_over: bool = False
    """More rejected than the budget allows at some moment after the first 100 tasks."""
    alarms: list[int] = field(default_factory=list)
    """Numbers of the tasks on which a drift alarm was raised."""
    paid_calls: Counter[str] = field(default_factory=Counter)
    state: RiskState = field(default_factory=RiskState)

    @property
    def saving(self) -> float:
        """1 - cost / baseline."""
        return float(1 - self.cost / self.baseline)

    @property
    def relative_accuracy(self) -> float:
        """Right answers as a share of the paid model's right answers on the same tasks."""
        return self.right / self.paid_right

    @property
    def violated(self) -> bool:
        """More rejected deliveries than the threshold allows, when the run ended."""
        return self.rejected > self.eps * self.tasks


def replay(
    scenario: Scenario,
    records: Iterable[Recorded],
    rng: random.Random,
    *,
    risk: RiskPolicy | None = None,
    swaps: dict[str, str] | None = None,
    swap_from: int = 0,
) -> Score:
    """Run the tasks in order, one risk ledger for all; from task `swap_from` on other models stand in (a drift)."""
    policy = scenario.policy
    risk = risk or RiskPolicy(policy.eps, policy.gate)
    score, secret = Score(policy.eps), str(rng.random())
    for number, record in enumerate(records):
        one = _Task(scenario, record, swaps if number >= swap_from else None, score)
        one.run(secret, risk)
    return score


class _Task:
    """One recorded task on its way through the state machine."""

    def __init__(
        self, scenario: Scenario, record: Recorded, swaps: dict[str, str] | None, score: Score
    ) -> None:
        self.record, self.swaps, self.score = record, swaps, score
        self.key, self.row = str(score.tasks), TaskRow()
        self.orchestrator = scenario.orchestrator
        route = scenario.route(record.use_case)
        self.case = Case(
            record.format, record.use_case, route, self.orchestrator, scenario.policy, long=record.long
        )

    def run(self, secret: str, risk: RiskPolicy) -> None:
        while not isinstance(step := next_step(self.case), Deliver | GiveUp):
            self._take(step, secret, risk)
        label = label_of(self.case, step)
        if label is None and isinstance(step, Deliver):
            label = Label(self.case.ruling, None, step.accepted)
        if label is not None:
            label = replace(label, task=self.key, use_case=self.record.use_case)
            alarm, self.score.state, self.row = learn_once(self.score.state, self.row, label, risk)
            if alarm:
                self.score.alarms.append(self.score.tasks)
        self._count(step)

    def _take(self, step: Step, secret: str, risk: RiskPolicy) -> None:
        match step:
            case Answers(slots):
                for slot in slots:
                    for name in slot:
                        if not self._answer(name).failures:
                            break
            case PaidSolve(models, reason):
                self.score.paid_calls[reason] += 1
                self._answer(models[0])
            case Consult(evidence):
                ruling, self.score.state, self.row = rule_once(
                    self.score.state, self.row, self.key, evidence, risk, secret=secret, month="2026-11"
                )
                self.case = self.case.with_ruling(ruling)
                if ruling.drifted:
                    self.score.alarms.append(self.score.tasks)
            case FreeJudge(models=models) | FreeCompare(models=models):
                # No free judgement is recorded: an answer that cannot be read has nothing free that speaks for it.
                self.case = self.case.without(models)
            case PaidVerdict(index, models, reason):
                judged = self.record.row(self.record.named(self.case.answers[index].by.model, self.swaps))
                costs, tokens = (
                    OpinionCosts(PRICES[models[0]]),
                    (judged["input_tokens"], judged["output_tokens"]),
                )
                if self.score.baseline - self.score.cost < costs.verdict_bound(*tokens):
                    self.case = self.case.without_extras()
                    return
                self.score.paid_calls[f"verdict:{reason}"] += 1
                self.score.cost += costs.verdict(*tokens)
                self.case = self.case.with_verdict(Verdict(index, self.orchestrator, 0.0))
            case Deliver() | GiveUp():
                raise AssertionError(f"{step} ends a task")
            case _:
                assert_never(step)

    def _answer(self, name: str) -> Answer:
        recorded = self.record.named(name, self.swaps)
        answer = self.record.answer(MODELS[name], recorded)
        self.case = self.case.with_answer(answer)
        if name in PRICES:
            self.score.cost += self._price(name, recorded)
        return answer

    def _price(self, payer: str, recorded: str) -> Decimal:
        row = self.record.row(recorded)
        return PRICES[payer].cost(Usage(row["input_tokens"], output_tokens=row["output_tokens"]))

    def _count(self, step: Deliver | GiveUp) -> None:
        score, record = self.score, self.record
        score.tasks += 1
        own_name = record.named(self.orchestrator.model)
        own = record.row(own_name)
        score.paid_right += bool(own["correct"])
        score.paid_alone += self._price(self.orchestrator.model, own_name)
        solved = any(a.by.model == self.orchestrator.model for a in self.case.answers)
        shown = own
        if isinstance(step, Deliver):
            by = self.case.answers[step.index].by
            shown = record.row(record.named(by.model, self.swaps))
            score.right += bool(shown["correct"])
            if not solved:
                final = record.answer(self.orchestrator, own_name).final
                score.rejected += not agree(final, self.case.answers[step.index].final)
        measured = own if solved else shown
        usage = Usage(measured["input_tokens"], output_tokens=measured["output_tokens"])
        score.baseline += PRICES[self.orchestrator.model].cost(usage)
        score.savings.append(score.saving)
        score.ever_over |= score.tasks >= 100 and score.rejected > score.eps * score.tasks


def load(folder: Path, name: str) -> list[Recorded]:
    """The records of one corpus that have texts."""
    with (folder / f"{name}.jsonl").open(encoding="utf-8") as lines:
        return [Recorded(json.loads(line)) for line in lines]


def shuffled(records: Sequence[Recorded], rng: random.Random) -> list[Recorded]:
    """All records once, in random order."""
    return rng.sample(list(records), len(records))


def mix(corpora: dict[str, list[Recorded]], count: int, rng: random.Random) -> list[Recorded]:
    """70/20/10 of GSM8K, CRUX and MATH, drawn with replacement, in random order."""
    drawn = [rng.choice(corpora[name]) for name, share in MIX for _ in range(round(count * share))]
    rng.shuffle(drawn)
    return drawn
