"""What is known of one task while its answer is being chosen: values only.

    case = Case(plan, candidates, orchestrator, policy)
    case = case.with_answer(Answer(candidate, text, failures=(), final="42"))
    case = case.with_verdict(Verdict(0, candidate, 0.9)).with_ruling(ruling).without(["model-that-failed"])

Every method returns a new case, so a flow can be replayed step by step.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Literal

from tta_dev_primitives.config import OrchestrationConfig
from tta_dev_primitives.config.models.targets import Billing, Price, Target
from tta_dev_primitives.flows.answers.closed_answers import AnswerFormat
from tta_dev_primitives.flows.answers.fields import FieldStatus
from tta_dev_primitives.flows.validation.evidence import EvidenceName
from tta_dev_primitives.flows.validation.opinion_costs import OpinionCosts, tokens_of
from tta_dev_primitives.flows.validation.risk_state import Ruling

Mode = Literal["adaptive", "always", "never"]
Gate = Literal["balanced", "strict"]

_FREE_ANSWERS = 3
_LEARNING_SHARE = 0.04
"""A paid executor at this share of the orchestrator's price is tried on every task while it has saved nothing yet; a
dearer one on fewer: what is spent on learning stays near a tenth of the baseline."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A model that may answer or judge: its name in the configuration, who trained it, and who pays."""

    model: str
    family: str
    billing: Billing
    key: str = ""
    """Identity of the model behind the name (`Target.key`); trust is earned by it, not by the name."""
    price: Price | None = None
    """List price; None is unknown."""
    room_to_think: int = 0
    """See `Capabilities.room_to_think`."""

    @classmethod
    def of(cls, target: Target) -> Candidate:
        """The candidate that `target` is."""
        room = target.capabilities.room_to_think
        return cls(target.name, target.family, target.billing, target.key, target.price, room)

    def share_of(self, other: Candidate) -> float | None:
        """This model's price as a share of another's, on as many tokens read as written; None: not known."""
        if self.price is None or other.price is None:
            return None
        mine, whole = (float(p.input_usd_per_mtok + p.output_usd_per_mtok) for p in (self.price, other.price))
        return mine / whole if whole else None


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer with what its local checks found. `final` is its canonical closed answer, if it has one."""

    by: Candidate
    text: str
    failures: tuple[str, ...] = ()
    final: str | None = None
    read: int = 0
    """Prompt tokens that its usage shows; 0: not known."""
    wrote: int = 0
    """Output tokens that its usage shows; 0: not known."""
    fields: tuple[str, ...] | None = None
    """Fields of a typed answer that it was asked for; the rest of its text is other models'. None: all of it."""

    @property
    def length(self) -> int:
        """Its output tokens, guessed from the text where the usage is missing."""
        return self.wrote or tokens_of(self.text)


@dataclass(frozen=True, slots=True)
class Verdict:
    """A judge's score (0..1) of `Case.answers[answer]`; None: no readable verdict, a rejection."""

    answer: int
    by: Candidate
    score: float | None


@dataclass(frozen=True, slots=True)
class Comparison:
    """Whether a cheap model found `Case.answers[answer]` at least as good as the orchestrator's own answer."""

    answer: int
    by: Candidate
    passed: bool


@dataclass(frozen=True, slots=True)
class Decided:
    """How the same task ended before: whose answer was delivered, and on which evidence."""

    model: str
    evidence: EvidenceName
    quality: float | None = None
    judged_by: str | None = None
    fields: Mapping[str, FieldStatus] = field(default_factory=dict)


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
        """The risk budget: the share of deliveries that the orchestrator may reject."""
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
    comparisons: tuple[Comparison, ...] = ()
    failed: frozenset[str] = frozenset()
    """Models that brought no answer or no verdict; they are not asked again."""
    ruling: Ruling | None = None
    long: bool = False
    """The task's text is long for its kind (`classify.is_long`): single answers to long tasks fail more often."""
    free_only: bool = False
    """The budget allows no paid call for this task."""
    costs: OpinionCosts | None = None
    """What the orchestrator's opinions cost; None: not known."""
    extras: bool = True
    """The month's savings may cover a verdict; False once they did not."""
    savings: Decimal | None = None
    """USD that the month had saved when the task began; None: not known."""
    month_left: Decimal | None = None
    """USD of the month's budget that are not spent; None: no limit, or not known."""
    coin: float = 0.5
    """Uniform in [0, 1), drawn for this task alone: whether something is tried for what it teaches."""
    short_sighted: frozenset[str] = frozenset()
    """Models whose window cannot hold this task with an answer: they do not judge it."""
    schema: str = ""
    """Digest of the schema of typed objects, which are compared field by field; empty: the answers are no such."""
    decided: Decided | None = None
    """How the same task ended before: it ends so again."""

    @property
    def fielded(self) -> bool:
        """True when the answers are typed objects: they are compared field by field."""
        return bool(self.schema)

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

    def with_comparison(self, comparison: Comparison) -> Case:
        """The case after a cheap model has compared an answer with the orchestrator's."""
        return replace(self, comparisons=(*self.comparisons, comparison))

    def with_ruling(self, ruling: Ruling) -> Case:
        """The case after the risk ledger has spoken; there is one ruling a task."""
        return replace(self, ruling=ruling)

    def without(self, models: Iterable[str]) -> Case:
        """The case after `models` failed to bring what they were asked for."""
        return replace(self, failed=self.failed | frozenset(models))

    def with_replacement(self, retired: str, replacement: Candidate) -> Case:
        """The case after another model has taken the place of one that its provider no longer serves."""
        names = {c.model for c in self.candidates}
        kept = [replacement if c.model == retired else c for c in self.candidates]
        if replacement.model in names:
            kept = [c for c in self.candidates if c.model != retired]
        orchestrator = replacement if self.orchestrator.model == retired else self.orchestrator
        return replace(self, candidates=tuple(kept), orchestrator=orchestrator).without([retired])

    def without_paid(self) -> Case:
        """The case after the budget refused a paid call."""
        return replace(self, free_only=True)

    def without_extras(self) -> Case:
        """The case after the month's savings did not cover a verdict."""
        return replace(self, extras=False)

    def without_judges(self, models: Iterable[str]) -> Case:
        """The case after the text was too long for `models` to judge it whole."""
        return replace(self, short_sighted=self.short_sighted | frozenset(models))

    @property
    def usable(self) -> tuple[int, ...]:
        """Indices of the answers that passed their local checks."""
        return tuple(i for i, a in enumerate(self.answers) if not a.failures)

    @property
    def left(self) -> tuple[Candidate, ...]:
        """Candidates that may still be asked for an answer, in route order."""
        asked = {a.by.model for a in self.answers} | self.failed
        return tuple(c for c in self.candidates if c.model not in asked and self._may_ask(c))

    def _may_ask(self, candidate: Candidate) -> bool:
        """Whether the budget, and for a paid executor the month's savings or its coin, let it be asked."""
        if candidate.billing == "free":
            return True
        if self.free_only:
            return False
        share = candidate.share_of(self.orchestrator)
        if candidate.model == self.orchestrator.model or share is None or share >= 1.0:
            # The orchestrator is the baseline; a dearer model is the user's own choice.
            return True
        return self.savings is None or self.savings > 0 or self.coin * share < _LEARNING_SHARE

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
        asked = {v.by.model for v in self.verdicts if v.answer == answer} | self.failed | self.short_sighted
        return tuple(
            c for c in self.candidates if c.billing == "free" and c.family != writer and c.model not in asked
        )

    def comparers_for(self, answer: int) -> tuple[Candidate, ...]:
        """Cheap models that may compare this answer with the orchestrator's: free ones of another family first."""
        writer = self.answers[answer].by
        out = self.failed | self.short_sighted | {self.orchestrator.model}
        able = [
            c
            for c in self.candidates
            if c.model not in out
            and self._may_ask(c)
            and (c.billing == "free" or (c.share_of(self.orchestrator) or 1.0) < 1.0)
        ]
        return tuple(sorted(able, key=lambda c: (c.billing == "paid", c.family == writer.family)))

    def comparison_of(self, answer: int) -> Comparison | None:
        """The comparison of this answer with the orchestrator's, if there was one."""
        return next((c for c in self.comparisons if c.answer == answer), None)

    @property
    def can_judge(self) -> bool:
        """True when the orchestrator may be asked for a verdict, savings aside."""
        return self.orchestrator_left and self.orchestrator.model not in self.short_sighted

    def judged_by(self, answer: int) -> str | None:
        """Whose verdict on this answer counts: the orchestrator's, else the free judge's."""
        verdict = self.verdict_of(answer, paid=True) or self.verdict_of(answer, paid=False)
        return None if verdict is None else verdict.by.model

    def verdict_of(self, answer: int, *, paid: bool) -> Verdict | None:
        """The last verdict on an answer by the orchestrator (`paid`) or by a free judge."""
        for verdict in reversed(self.verdicts):
            if verdict.answer == answer and (verdict.by.model == self.orchestrator.model) == paid:
                return verdict
        return None
