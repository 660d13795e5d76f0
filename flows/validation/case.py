"""What is known of one task while its answer is being chosen: values only.

    case = Case(plan, candidates, orchestrator, policy)
    case = case.with_answer(Answer(candidate, text, failures=(), final="42"))
    case = case.with_verdict(Verdict(0, candidate, 0.9)).with_ruling(ruling).without(["model-that-failed"])

Every method returns a new case, so a flow can be replayed step by step.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Literal

from tta_dev_primitives.config import OrchestrationConfig
from tta_dev_primitives.config.models.targets import Billing, Target
from tta_dev_primitives.flows.answers.closed_answers import AnswerFormat
from tta_dev_primitives.flows.validation.risk import Ruling

__all__ = ["Answer", "Candidate", "Case", "Mode", "Policy", "Verdict"]

Mode = Literal["adaptive", "always", "never"]
Gate = Literal["balanced", "strict"]

_FREE_ANSWERS = 3


@dataclass(frozen=True, slots=True)
class Candidate:
    """A model that may answer or judge: its name in the configuration, who trained it, and who pays."""

    model: str
    family: str
    billing: Billing
    key: str = ""
    """Identity of the model behind the name (`Target.key`); trust is earned by it, not by the name."""

    @classmethod
    def of(cls, target: Target) -> Candidate:
        """The candidate that `target` is."""
        return cls(target.name, target.family, target.billing, target.key)


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer with what its local checks found. `final` is its canonical closed answer, if it has one."""

    by: Candidate
    text: str
    failures: tuple[str, ...] = ()
    final: str | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """A judge's score (0..1) of `Case.answers[answer]`; None: no readable verdict, a rejection."""

    answer: int
    by: Candidate
    score: float | None


@dataclass(frozen=True, slots=True)
class Policy:
    """What the configuration says about trust."""

    threshold: float = 0.85
    prefer_free: bool = True
    mode: Mode = "adaptive"
    gate: Gate = "balanced"
    agreement: int = 2
    """How many families must give the same closed answer before that counts as agreement."""
    max_attempts: int = 6
    """Models that may be asked for an answer, the orchestrator as the last resort included."""

    @classmethod
    def of(cls, config: OrchestrationConfig) -> Policy:
        """The policy that a configuration asks for."""
        return cls(
            threshold=config.quality_threshold,
            prefer_free=config.prefer_free_models,
            mode=config.validation.mode if config.enabled else "never",
            gate=config.validation.gate,
            agreement=config.validation.agreement,
            max_attempts=config.fallback_strategy.max_attempts,
        )

    @property
    def eps(self) -> float:
        """The risk budget: the share of deliveries that the orchestrator may disown."""
        return 1.0 - self.threshold

    @property
    def first_answers(self) -> int:
        """Free answers gathered at once for a closed task; where quality leads, a third opinion too."""
        return self.agreement if self.prefer_free else max(self.agreement, _FREE_ANSWERS)

    @property
    def most_answers(self) -> int:
        """Answers gathered for one task before the orchestrator is asked."""
        return max(_FREE_ANSWERS, self.agreement)


@dataclass(frozen=True, slots=True)
class Case:
    """One task on its way to an answer."""

    answer_format: AnswerFormat
    use_case: str
    candidates: tuple[Candidate, ...]
    """The whole route, in order; who answered or failed is worked out from the rest."""
    orchestrator: Candidate
    policy: Policy = field(default_factory=Policy)
    answers: tuple[Answer, ...] = ()
    verdicts: tuple[Verdict, ...] = ()
    failed: frozenset[str] = frozenset()
    """Models that brought no answer or no verdict; they are not asked again."""
    ruling: Ruling | None = None
    long: bool = False
    """The task's text is long for its kind (`classify.is_long`): single answers to long tasks fail more often."""
    free_only: bool = False
    """The budget allows no paid call for this task."""

    @property
    def closed(self) -> bool:
        """True when two answers can be compared without a judge."""
        return self.answer_format != "open"

    def with_answer(self, answer: Answer) -> Case:
        """The case after one more answer."""
        return replace(self, answers=(*self.answers, answer))

    def with_verdict(self, verdict: Verdict) -> Case:
        """The case after one more verdict."""
        return replace(self, verdicts=(*self.verdicts, verdict))

    def with_ruling(self, ruling: Ruling) -> Case:
        """The case after the risk ledger has spoken; there is one ruling a task."""
        return replace(self, ruling=ruling)

    def without(self, models: Iterable[str]) -> Case:
        """The case after `models` failed to bring what they were asked for."""
        return replace(self, failed=self.failed | frozenset(models))

    def with_stand_in(self, gone: str, stand_in: Candidate) -> Case:
        """The case after another model has taken the place of one that its provider no longer serves."""
        names = {c.model for c in self.candidates}
        kept = [stand_in if c.model == gone else c for c in self.candidates]
        if stand_in.model in names:
            kept = [c for c in self.candidates if c.model != gone]
        orchestrator = stand_in if self.orchestrator.model == gone else self.orchestrator
        return replace(self, candidates=tuple(kept), orchestrator=orchestrator).without([gone])

    def without_paid(self) -> Case:
        """The case after the budget refused a paid call."""
        return replace(self, free_only=True)

    @property
    def usable(self) -> tuple[int, ...]:
        """Indices of the answers that passed their local checks."""
        return tuple(i for i, a in enumerate(self.answers) if not a.failures)

    @property
    def left(self) -> tuple[Candidate, ...]:
        """Candidates that may still be asked for an answer, in route order."""
        asked = {a.by.model for a in self.answers} | self.failed
        return tuple(
            c
            for c in self.candidates
            if c.model not in asked and not (self.free_only and c.billing == "paid")
        )

    @property
    def free_left(self) -> tuple[Candidate, ...]:
        """The free ones among `left`, those of families that have not answered yet first."""
        seen = {self.answers[i].by.family for i in self.usable}
        free = [c for c in self.left if c.billing == "free"]
        return tuple(sorted(free, key=lambda c: c.family in seen))

    @property
    def orchestrator_left(self) -> bool:
        """True when the orchestrator may be called for this task."""
        return not self.free_only and self.orchestrator.model not in self.failed

    @property
    def can_solve(self) -> bool:
        """True when the orchestrator may be asked for its own answer: it was not before, and an attempt is left."""
        asked = {a.by.model for a in self.answers} | (self.failed & {c.model for c in self.candidates})
        attempt_left = len(asked) < self.policy.max_attempts
        return self.orchestrator_left and attempt_left and self.orchestrator.model not in asked

    def judges_for(self, answer: int) -> tuple[Candidate, ...]:
        """Free models of another family than the writer that have not judged this answer, in route order."""
        writer = self.answers[answer].by.family
        asked = {v.by.model for v in self.verdicts if v.answer == answer} | self.failed
        return tuple(
            c for c in self.candidates if c.billing == "free" and c.family != writer and c.model not in asked
        )

    def verdict_of(self, answer: int, *, paid: bool) -> Verdict | None:
        """The last verdict on an answer by the orchestrator (`paid`) or by a free judge."""
        for verdict in reversed(self.verdicts):
            if verdict.answer == answer and (verdict.by.model == self.orchestrator.model) == paid:
                return verdict
        return None
