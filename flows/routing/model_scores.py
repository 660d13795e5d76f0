"""Learned routing: which executor of a use case goes first, by what paid checks of its answers have shown. Pure.

    state = learned(state, outcomes_of(case, end))
    places = ranked(state, "moderate", keys, threshold=0.85, free=keys)    # in order, each with its reason

An outcome is the orchestrator's word on one answer, a failed local check, or a free judge's rejection. A task is
checked because of what the risk ledger knows of its kind, never because of the task, so weighing each word by how
seldom its kind is checked makes up for the tasks that were not. Only models that were asked before anything was known
of the task count; those that are asked after others failed see the hard tasks alone.

One model goes before another when the bounds of their acceptance rates (valid at every moment, 95 %) lie apart. What
was decided stays until the opposite is shown, so that the order does not flap. A model of which too little is known
keeps its place in the file, but goes before one that is known to miss the quality threshold: so it becomes known.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

from pydantic import TypeAdapter

from tta_dev_primitives.flows.validation.case import Case
from tta_dev_primitives.flows.validation.labels import orchestrator_accepts
from tta_dev_primitives.flows.validation.next_step import initial_answers
from tta_dev_primitives.flows.validation.statistics import upper_bound
from tta_dev_primitives.flows.validation.steps import Deliver, Step

T = TypeVar("T")
ENOUGH = 20
"""Outcomes below which a model is not compared."""
EXPLORED = 0.04
"""The share of tasks that a random executor answers first."""
_MANY = 400
"""After so many outcomes the older ones count half: providers change what stands behind a name."""
_SIDE = 0.025


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the orchestrator said of one answer."""

    use_case: str
    model: str
    """Identity of the model (`Target.key`)."""
    accepted: bool
    weight: float = 1.0
    """How many tasks it stands for: 1 / the probability with which it was checked."""


@dataclass(frozen=True, slots=True)
class Score:
    """What is known of one model in one use case."""

    seen: float = 0
    """Outcomes, halved with the rest when there are many."""
    weight: float = 0.0
    squares: float = 0.0
    accepted: float = 0.0

    def plus(self, outcome: Outcome) -> Score:
        """The score after one more outcome."""
        old, weight = (0.5 if self.seen >= _MANY else 1.0), outcome.weight
        return Score(
            old * self.seen + 1,
            old * self.weight + weight,
            old * self.squares + weight**2,
            old * self.accepted + weight * outcome.accepted,
        )

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


@dataclass(frozen=True, slots=True)
class ModelScores:
    """Everything that learned routing remembers of one scope (orchestrator, prompts, threshold)."""

    models: Mapping[str, Mapping[str, Score]] = field(default_factory=dict)
    """Use case -> model -> what is known."""
    before: Mapping[str, Sequence[tuple[str, str]]] = field(default_factory=dict)
    """Use case -> a model, and one that it goes before because it is accepted more often."""

    def to_json(self) -> str:
        """One line of JSON."""
        return _JSON.dump_json(self).decode()

    @classmethod
    def from_json(cls, text: str | None) -> ModelScores:
        """The scores that `to_json` wrote; empty ones for None."""
        return cls() if text is None else _JSON.validate_json(text)

    def of(self, use_case: str, model: str) -> Score:
        """What is known of a model; an empty score when nothing is."""
        return self.models.get(use_case, {}).get(model, Score())


_JSON = TypeAdapter(ModelScores)


def outcomes_of(case: Case, end: Step) -> list[Outcome]:
    """What the end of one task says about the models that were asked first.

    A failed local check and a free judge's rejection are always seen, so they stand for one task. The orchestrator's
    word stands for as many tasks as are checked once.
    """
    ruling = case.ruling
    asked = ruling.action != "deliver" if ruling is not None else case.policy.mode == "always"
    audit = ruling is not None and ruling.action == "audit"
    weight = 1.0 / ruling.probability if audit and ruling is not None and ruling.probability else 1.0
    found: list[Outcome] = []
    first = initial_answers(case.answer_format, case.policy, case.candidates)
    for i, answer in enumerate(case.answers[:first]):
        if answer.by.model == case.orchestrator.model:
            continue
        judge, said = case.verdict_of(i, paid=False), None
        if asked and isinstance(end, Deliver) and not answer.failures:
            said = orchestrator_accepts(case, i, whole=True)
        refused = judge is not None and not (judge.score or 0.0) >= case.policy.threshold
        name = answer.by.key or answer.by.model
        if said is not None:
            found.append(Outcome(case.use_case, name, said, weight))
        elif answer.failures or refused:
            found.append(Outcome(case.use_case, name, accepted=False))
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
    models = {use_case: dict(of) for use_case, of in state.models.items()}
    before = dict(state.before)
    for outcome in outcomes:
        of = models.setdefault(outcome.use_case, {})
        of[outcome.model] = of.get(outcome.model, Score()).plus(outcome)
        before[outcome.use_case] = _decided(of, before.get(outcome.use_case, ()))
    return replace(state, models=models, before=before)


def _decided(scores: Mapping[str, Score], before: Sequence[tuple[str, str]]) -> Sequence[tuple[str, str]]:
    """What the figures show about each pair; a pair of which they show nothing stays as it was decided."""
    bounds = {model: score.bounds for model, score in scores.items() if score.known}
    shown = [(a, b) for a in bounds for b in bounds if bounds[a][0] > bounds[b][1]]
    return [*(pair for pair in before if pair not in shown and pair[::-1] not in shown), *shown]


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
    for winner, loser in state.before.get(use_case, ()):
        if winner in first and loser in first:
            first[loser][winner] = "accepted more often"
    for at, model in enumerate(models):
        if scores[model].known and scores[model].bounds[1] < threshold:
            first[model] |= {
                other: f"to become known, since that one misses {threshold:g}"
                for other in models[at + 1 :]
                if not scores[other].known and other in free
            }
    order, left = list[str](), list(models)
    while left:
        ready = [m for m in left if not any(other in left for other in first[m])]
        # Verdicts of different times may contradict each other in a circle; then the file's order decides.
        order.append((ready or left)[0])
        left.remove(order[-1])
    return {
        model: _reason(model, models, order[at + 1 :], first, scores[model]) for at, model in enumerate(order)
    }


def _reason(
    model: str,
    file_order: Sequence[str],
    behind: Sequence[str],
    first: Mapping[str, Mapping[str, str]],
    score: Score,
) -> str:
    text = f"not known yet: {score.seen:.0f} of {ENOUGH} outcomes"
    if score.known:
        low, high = score.bounds
        text = f"accepted {score.rate:.0%} ({low:.0%}-{high:.0%}, {score.seen:.0f} outcomes)"
    for other in file_order[: file_order.index(model)]:
        if other in behind and model in first[other]:
            text += f"; before {other.rsplit('|', 1)[-1]}: {first[other][model]}"
    return text
