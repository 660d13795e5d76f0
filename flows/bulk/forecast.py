"""What a job's tasks will cost: the real state machine runs over them with drawn answers, several times. Pure.

How often a free answer is rejected is drawn for each run from what the risk ledger has recorded of the use case, and
from a stated prior. So the spread of the runs holds both chance and ignorance. Nothing of the decisions is guessed.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from statistics import median

from tta_dev_primitives.flows.answers.closed_answers import AnswerFormat
from tta_dev_primitives.flows.bulk.chunk_sizes import chunk_sizes, whole_chunk
from tta_dev_primitives.flows.validation.case import Answer, Candidate, Case, Policy
from tta_dev_primitives.flows.validation.dry_run import DryEnd, DryRun, DryTask
from tta_dev_primitives.flows.validation.opinion_costs import LengthRatios
from tta_dev_primitives.flows.validation.risk_state import RiskState

_PRIOR = (0.5, 24.5)
"""Rejected and accepted answers of free models that are assumed before anything is recorded."""
_JUDGED = (0.95, 0.6)
"""How often a free judge accepts an answer that the orchestrator accepts, and one that it rejects."""
_SAME_MISTAKE = 0.3
_FIELD_MISTAKES = 0.03
"""Fields of a typed answer that one model alone gets wrong."""
_WORK, MOST_DRAWN, _RUNS = 6000, 2000, 11
"""Tasks that are drawn in all; of a longer job so many, whose last half stands for the rest; runs at most."""


@dataclass(frozen=True, slots=True)
class Sketch:
    """What is known of one task before it is asked."""

    use_case: str
    answer_format: AnswerFormat
    long: bool
    candidates: tuple[Candidate, ...]
    read: int
    """Prompt tokens."""
    wrote: int
    """Output tokens of a free answer."""
    schema: str = ""
    """Digest of the schema of a typed object; empty: the answer is no such."""
    fields: int = 0
    """Its fields."""
    schema_tokens: int = 0
    """The part of `read` that the schema takes."""


@dataclass(frozen=True, slots=True)
class Known:
    """What the ledger has learned."""

    risk: RiskState = field(default_factory=RiskState)
    savings: Decimal = Decimal(0)
    """What the month has saved and not spent, USD."""
    credit: Decimal = Decimal(0)
    ratios: LengthRatios = field(default_factory=LengthRatios)
    out: frozenset[str] = frozenset()
    """Models that cannot be called."""


@dataclass(frozen=True, slots=True)
class Forecast:
    """The runs of one job together. USD."""

    low: Decimal = Decimal(0)
    expected: Decimal = Decimal(0)
    """The median of the runs."""
    high: Decimal = Decimal(0)
    baseline: Decimal = Decimal(0)
    free_calls: float = 0.0
    paid_tasks: float = 0.0


def forecast(
    tasks: Sequence[Sketch],
    policy: Policy,
    orchestrator: Candidate,
    known: Known,
    *,
    total: int | None = None,
    concurrency: int = 50,
    runs: int = _RUNS,
) -> Forecast:
    """Run the job as often as its size allows.

    Args:
        tasks: In the order of the file; the first `MOST_DRAWN` are enough.
        policy: What the configuration says about trust.
        orchestrator: With its list price.
        known: What the ledger has learned.
        total: How many there are in all; each further one costs what the last half costs in the mean.
        concurrency: As the job will have it.
        runs: At most so many.
    """
    if not tasks:
        return Forecast()
    drawn = tasks[:MOST_DRAWN]
    count = max(3, min(runs, _WORK // len(drawn)))
    found = sorted(
        (_run(drawn, policy, orchestrator, known, concurrency, n) for n in range(count)), key=_cost
    )
    more = _Tail((len(tasks) if total is None else total) - len(drawn), len(drawn) // 2)
    costs = [more.whole(one.costs) for one in found]
    cut = max(0, count // 10)
    return Forecast(
        low=costs[cut],
        expected=median(costs),
        high=costs[-1 - cut],
        baseline=sum((more.whole(one.baselines) for one in found), Decimal(0)) / count,
        free_calls=sum(float(more.whole(one.free)) for one in found) / count,
        paid_tasks=sum(float(more.whole(one.paid)) for one in found) / count,
    )


@dataclass(frozen=True, slots=True)
class _Tail:
    """Adds the tasks that were not drawn: each as the mean of the last half of those that were."""

    left: int
    half: int

    def whole(self, figures: Sequence[Decimal]) -> Decimal:
        total = sum(figures, Decimal(0))
        if not self.left:
            return total
        late = figures[-self.half :] if self.half else figures
        return total + self.left * sum(late, Decimal(0)) / len(late)


@dataclass(frozen=True, slots=True)
class _Run:
    costs: list[Decimal]
    baselines: list[Decimal]
    free: list[Decimal]
    paid: list[Decimal]


def _cost(run: _Run) -> Decimal:
    return sum(run.costs, Decimal(0))


def _run(
    tasks: Sequence[Sketch],
    policy: Policy,
    orchestrator: Candidate,
    known: Known,
    concurrency: int,
    number: int,
) -> _Run:
    rng = random.Random(f"forecast {number}")  # noqa: S311 - a forecast, no secret
    rates = {use_case: _rate(known.risk, use_case, rng) for use_case in sorted({t.use_case for t in tasks})}
    dry = DryRun(
        policy,
        orchestrator,
        known.risk,
        known.savings,
        known.credit,
        known.ratios,
        coins=f"forecast {number}",
    )
    made = []
    for place, one in enumerate(tasks):
        case = Case(
            one.answer_format,
            one.use_case,
            one.candidates,
            orchestrator,
            policy,
            failed=known.out,
            long=one.long,
            schema=one.schema,
        )
        source = _Drawn(one, orchestrator.model, rates[one.use_case], known.ratios, rng)
        made.append(DryTask(str(place), case, source))
    ends: list[DryEnd] = []
    learns = policy.mode == "adaptive" and known.risk.items < 100
    for size in chunk_sizes(len(made), whole_chunk(concurrency), learns=learns):
        ends += dry.run(made[len(ends) : len(ends) + size])
    return _Run(
        [end.cost for end in ends],
        [end.baseline for end in ends],
        [Decimal(end.free_calls) for end in ends],
        [Decimal(end.paid_calls > 0) for end in ends],
    )


def _rate(risk: RiskState, use_case: str, rng: random.Random) -> float:
    """A rejection rate of free answers that what was recorded makes plausible."""
    strata = [stratum for _, stratum in risk.of(use_case)]
    seen = sum(s.labelled + s.compared for s in strata)
    bad = sum(s.rejected + s.worse for s in strata)
    return rng.betavariate(_PRIOR[0] + bad, _PRIOR[1] + seen - bad)


class _Drawn:
    """Answers of one task, drawn when they are asked for."""

    def __init__(
        self, task: Sketch, orchestrator: str, rate: float, ratios: LengthRatios, rng: random.Random
    ) -> None:
        self._task, self._orchestrator, self._rate, self._ratios, self._rng = (
            task, orchestrator, rate, ratios, rng,
        )  # fmt: skip
        self._good: dict[str, bool] = {}
        self._trap = f"f{rng.randrange(task.fields)}" if task.fields and rng.random() < rate else None
        """The field of a typed answer that all free models get wrong alike."""

    def answer(self, by: Candidate, fields: Sequence[str] = ()) -> Answer:
        own = by.model == self._orchestrator
        if self._task.schema:
            return self._typed(by, fields, own=own)
        good = self._good[by.model] = own or self._rng.random() >= self._rate
        same = self._rng.random() < _SAME_MISTAKE
        final = "right" if good else "a mistake" if same else f"the mistake of {by.model}"
        wrote = self._task.wrote
        if own:
            wrote = max(1, round(wrote * self._ratios.expected(wrote)))
        return Answer(
            by, "", (), final if self._task.answer_format != "open" else None, self._task.read, wrote
        )

    def _typed(self, by: Candidate, fields: Sequence[str], *, own: bool) -> Answer:
        """An object, or a part of it: short, and asked for by a schema as short."""
        task, names = self._task, [f"f{n}" for n in range(self._task.fields)]
        forms = dict.fromkeys(names, "right")
        for name in () if own else names:
            if name == self._trap:
                forms[name] = "a mistake"
            elif self._rng.random() < _FIELD_MISTAKES:
                forms[name] = f"the mistake of {by.model}"
        self._good[by.model] = set(forms.values()) == {"right"}
        share = len(fields) / task.fields if fields else 1.0
        read = task.read - round((1 - share) * task.schema_tokens)
        wrote = max(1, round(share * task.wrote))
        return Answer(by, "", (), json.dumps(forms), read, wrote, tuple(fields) or None)

    def score(self, answer: Answer, by: Candidate) -> float | None:
        good = self._good[answer.by.model]
        # The rate is that of the orchestrator's rejections.
        return float(good if by.model == self._orchestrator else self._rng.random() < _JUDGED[not good])

    def as_good(self, answer: Answer, own: Answer, by: Candidate) -> bool:
        return self._good[answer.by.model]


_FORM_TOKENS: Mapping[AnswerFormat, int] = {
    "number": 8, "choice": 4, "boolean": 4, "short": 12, "literal": 20, "json": 80, "open": 300,
}  # fmt: skip
_COUNTS: Mapping[str, int] = {
    "a": 1,
    "an": 1,
    "one": 1,
    "single": 1,
    "two": 2,
    "three": 3,
    "four": 4,
    "five": 5,
}
_LENGTH = re.compile(
    r"\b(a|an|one|single|two|three|four|five|\d{1,2})[- ](sentence|line|paragraph|word)s?\b", re.I
)
_EACH = {"word": 3, "line": 25, "sentence": 40, "paragraph": 120}
_LISTED = re.compile(r"\b(?:list|name|give|suggest)\s+(?:me\s+)?(two|three|four|five|\d{1,2})\s+[a-z]", re.I)
_POINT = 30
"""Tokens of one point of a list."""
_LONG_FORM = re.compile(
    r"\b(?:essay|story|article|report|letter|history|code|function|program|class|script|explain|describe|analy[sz]e|"
    r"compare|list|plan|prove|derive|step)",
    re.I,
)
_SHORT_WORDS, _SHORT_TOKENS = 15, 45


def output_prior(task: str, answer_format: AnswerFormat) -> int:
    """Output tokens that an answer is assumed to have before any was measured, from what the task asks for."""
    if answer_format != "open":
        return _FORM_TOKENS[answer_format]
    found, listed = _LENGTH.search(task), _LISTED.search(task)
    if found is not None:
        return max(4, _count(found[1]) * _EACH[found[2].lower()])
    if listed is not None:
        return _count(listed[1]) * _POINT
    short = len(task.split()) <= _SHORT_WORDS and not _LONG_FORM.search(task)
    return _SHORT_TOKENS if short else _FORM_TOKENS["open"]


def _count(word: str) -> int:
    return int(word) if word.isdigit() else _COUNTS[word.lower()]
