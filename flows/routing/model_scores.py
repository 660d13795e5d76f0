"""Learned routing: which executor of a use case goes first, by what paid checks of its answers have shown. Pure.

    state = learned(state, outcomes_of(case, end, latencies))
    places = ranked(state, "moderate", keys, threshold=0.85, free=keys)    # in order, each with its reason

An outcome is the orchestrator's word on one answer, a failed local check, or a free judge's rejection. A task is
checked because of what the risk ledger knows of its kind, never because of the task, so weighing each word by how
seldom its kind is checked makes up for the tasks that were not. Only models that were asked before anything was known
of the task count; those that are asked after others failed see the hard tasks alone.

One model goes before another when the bounds of their acceptance rates (valid at every moment, 95 %) lie apart,
or when both are accepted alike and one is clearly faster. What was decided stays until the opposite is shown, so
that the order does not flap. A model of which too little is known keeps its place in the file, but goes before
one that is known to miss the quality threshold: so it becomes known.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeVar

from tta_dev_primitives.flows.validation.case import Case
from tta_dev_primitives.flows.validation.labels import orchestrator_accepts
from tta_dev_primitives.flows.validation.next_step import initial_answers
from tta_dev_primitives.flows.validation.statistics import upper_bound
from tta_dev_primitives.flows.validation.steps import Deliver, Step

Why = Literal["endorsed", "faster"]
T = TypeVar("T")
ENOUGH = 20
"""Outcomes below which a model is not compared."""
EXPLORED = 0.04
"""The share of tasks that a random executor answers first."""
_MANY = 400
"""After so many outcomes the older ones count half: providers change what stands behind a name."""
_SIDE = 0.025
_ALIKE = 0.05
_FASTER = math.log(0.8)
_Z = 2.5


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the orchestrator said of one answer."""

    use_case: str
    model: str
    """Identity of the model (`Target.key`)."""
    accepted: bool
    weight: float = 1.0
    """How many tasks it stands for: 1 / the probability with which it was checked."""
    latency_s: float | None = None
    """Seconds that the answer took; None when it came from the store."""


@dataclass(frozen=True, slots=True)
class Score:
    """What is known of one model in one use case."""

    seen: float = 0
    """Outcomes, halved with the rest when there are many."""
    weight: float = 0.0
    squares: float = 0.0
    accepted: float = 0.0
    timed: float = 0
    logs: float = 0.0
    """Sum of the logarithms of latencies in seconds, and of their squares."""
    log_squares: float = 0.0

    def plus(self, outcome: Outcome) -> Score:
        """The score after one more outcome."""
        old = self._halved() if self.seen >= _MANY else self
        log = None if not outcome.latency_s else math.log(max(outcome.latency_s, 1e-3))
        return Score(
            old.seen + 1,
            old.weight + outcome.weight,
            old.squares + outcome.weight**2,
            old.accepted + outcome.weight * outcome.accepted,
            old.timed + (log is not None),
            old.logs + (log or 0.0),
            old.log_squares + (log or 0.0) ** 2,
        )

    def _halved(self) -> Score:
        return Score(*(getattr(self, name) / 2 for name in Score.__slots__))

    @property
    def known(self) -> bool:
        """Whether there are outcomes enough to compare it."""
        return self.seen >= ENOUGH

    @property
    def rate(self) -> float:
        """The share of answers that the orchestrator accepts, 0..1."""
        return self.accepted / self.weight if self.weight else 0.0

    @property
    def bounds(self) -> tuple[float, float]:
        """Between these the share lies, 95 % at every moment; outcomes of unequal weight count as fewer."""
        n = self.weight**2 / self.squares if self.squares else 0.0
        good = n * self.rate
        return 1.0 - upper_bound(n, n - good, _SIDE), upper_bound(n, good, _SIDE)

    @property
    def latency_s(self) -> float | None:
        """The typical (geometric mean) latency in seconds."""
        return math.exp(self.logs / self.timed) if self.timed else None

    def faster_than(self, other: Score) -> bool:
        """Whether it is faster beyond doubt, by a fifth at least."""
        if min(self.timed, other.timed) < ENOUGH:
            return False
        gap = self.logs / self.timed - other.logs / other.timed
        return gap + _Z * math.sqrt(self._log_error + other._log_error) < _FASTER

    @property
    def _log_error(self) -> float:
        mean = self.logs / self.timed
        return max(0.0, self.log_squares / self.timed - mean**2) / self.timed


@dataclass(frozen=True, slots=True)
class ModelScores:
    """Everything that learned routing remembers of one scope (orchestrator, prompts, threshold)."""

    models: Mapping[str, Mapping[str, Score]] = field(default_factory=dict)
    """Use case -> model -> what is known."""
    before: Mapping[str, Mapping[tuple[str, str], Why]] = field(default_factory=dict)
    """Use case -> (model, the model that it goes before) -> why."""

    def to_json(self) -> str:
        """One line of JSON."""
        body = {
            "models": {
                u: {m: [getattr(t, s) for s in Score.__slots__] for m, t in of.items()}
                for u, of in self.models.items()
            },
            "before": {u: [[*pair, why] for pair, why in of.items()] for u, of in self.before.items()},
        }
        return json.dumps(body, separators=(",", ":"), allow_nan=False)

    @classmethod
    def from_json(cls, text: str | None) -> ModelScores:
        """The scores that `to_json` wrote; empty ones for None."""
        if text is None:
            return cls()
        raw: dict[str, Any] = json.loads(text)
        return cls(
            {u: {m: Score(*figures) for m, figures in of.items()} for u, of in raw["models"].items()},
            {u: {(a, b): why for a, b, why in of} for u, of in raw["before"].items()},
        )

    def of(self, use_case: str, model: str) -> Score:
        """What is known of a model; an empty score when nothing is."""
        return self.models.get(use_case, {}).get(model, Score())


def outcomes_of(case: Case, end: Step, latencies: Mapping[str, float]) -> list[Outcome]:
    """What the end of one task says about the models that were asked first.

    A failed local check and a free judge's rejection are always seen, so they stand for one task. The orchestrator's
    word stands for as many tasks as are checked once.

    Args:
        latencies: Model name -> seconds of the call that brought its answer.
    """
    ruling = case.ruling
    asked = ruling.action != "deliver" if ruling is not None else case.policy.mode == "always"
    audit = ruling is not None and ruling.action == "audit"
    weight = 1.0 / ruling.probability if audit and ruling is not None and ruling.probability else 1.0
    found: list[Outcome] = []
    for i, answer in enumerate(
        case.answers[: initial_answers(case.answer_format, case.policy, case.candidates)]
    ):
        judge = case.verdict_of(i, paid=False)
        refused = judge is not None and not (judge.score or 0.0) >= case.policy.threshold
        said = (
            orchestrator_accepts(case, i, whole=True)
            if asked and isinstance(end, Deliver) and not answer.failures
            else None
        )
        certain = said is None and (bool(answer.failures) or refused)
        if (certain or said is not None) and answer.by.model != case.orchestrator.model:
            name = answer.by.key or answer.by.model
            seen = (False, 1.0) if certain else (bool(said), weight)
            found.append(Outcome(case.use_case, name, *seen, latencies.get(answer.by.model)))
    return found


def led_by_chance(models: Sequence[T], rivals: Collection[T], coin: float) -> list[T]:
    """The models in order, but for a few tasks a random one of `rivals` first: so a better one becomes known.

    The coin is of the task alone, so that these tasks are like all others.
    """
    if coin >= EXPLORED or len(rivals) < 2:
        return list(models)
    leader = [m for m in models if m in rivals][int(coin / EXPLORED * len(rivals))]
    return [leader, *(m for m in models if m != leader)]


def learned(state: ModelScores, outcomes: Iterable[Outcome]) -> ModelScores:
    """The scores after some outcomes."""
    touched: set[str] = set()
    models = {use_case: dict(of) for use_case, of in state.models.items()}
    for outcome in outcomes:
        of = models.setdefault(outcome.use_case, {})
        of[outcome.model] = of.get(outcome.model, Score()).plus(outcome)
        touched.add(outcome.use_case)
    before = {
        u: _decided(models[u], state.before.get(u, {})) if u in touched else state.before[u]
        for u in [*state.before, *sorted(touched - set(state.before))]
    }
    return replace(state, models=models, before=before)


def ranked(
    state: ModelScores, use_case: str, models: Sequence[str], *, threshold: float, free: Collection[str]
) -> dict[str, str]:
    """The models in the order in which they are asked, each with its reason.

    Args:
        models: Identities in the order of the file.
        threshold: `quality_threshold`: a model that is known to miss it lets unknown ones go first.
        free: Those that may go first to become known: that costs nothing.
    """
    scores = {model: state.of(use_case, model) for model in models}
    first: dict[str, dict[str, str]] = {model: {} for model in models}
    """Model -> those that go before it, with the reason."""
    for (winner, loser), why in state.before.get(use_case, {}).items():
        if winner in first and loser in first:
            first[loser][winner] = "accepted more often" if why == "endorsed" else "as good and faster"
    for at, model in enumerate(models):
        score = scores[model]
        if score.known and score.bounds[1] < threshold:
            first[model] |= {
                other: f"to become known, since that one misses {threshold:g}"
                for other in models[at + 1 :]
                if not scores[other].known and other in free
            }
    order: list[str] = []
    left = list(models)
    while left:
        ready = [m for m in left if not any(other in left for other in first[m])]
        # Verdicts of different times may contradict each other in a circle; then the file's order decides.
        order.append((ready or left)[0])
        left.remove(order[-1])
    return {model: _reason(model, models, order, first, scores) for model in order}


def _decided(
    scores: Mapping[str, Score], before: Mapping[tuple[str, str], Why]
) -> Mapping[tuple[str, str], Why]:
    """What the figures show about each pair; a pair of which they show nothing stays as it was decided."""
    found = dict(before)
    known = [(model, score, score.bounds) for model, score in scores.items() if score.known]
    for a, of_a, (low, top) in known:
        for b, of_b, (other_low, high) in known:
            why: Why | None = None
            if low > high:
                why = "endorsed"
            elif abs(of_a.rate - of_b.rate) <= _ALIKE and other_low <= top and of_a.faster_than(of_b):
                why = "faster"
            if why is not None and a != b:
                found[a, b] = why
                found.pop((b, a), None)
    return found


def _reason(
    model: str,
    file_order: Sequence[str],
    order: Sequence[str],
    first: Mapping[str, Mapping[str, str]],
    scores: Mapping[str, Score],
) -> str:
    score = scores[model]
    if score.known:
        low, high = score.bounds
        text = f"accepted {score.rate:.0%} ({low:.0%}-{high:.0%}, {score.seen:.0f} outcomes)"
        text += f", {score.latency_s:.2g} s" if score.latency_s is not None else ""
    else:
        text = f"not known yet: {score.seen:.0f} of {ENOUGH} outcomes"
    at, place = file_order.index(model), order.index(model)
    passed = [m for m in file_order[:at] if m in order[place + 1 :] and model in first[m]]
    for other in passed:
        text += f"; before {_short(other)}: {first[other][model]}"
    return text


def _short(key: str) -> str:
    return key.rsplit("|", 1)[-1]
