"""The steps of one task: what the state machine (`next_step`) asks the flow, or the offline replay, to do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tta_dev_primitives.flows.validation.evidence import Evidence, EvidenceName

Reason = Literal["escalate", "audit", "always", "rejected", "no_free_answer", "disputed"]


@dataclass(frozen=True, slots=True)
class Answers:
    """Gather answers: one per slot, the slots at the same time; a slot walks its models until one answers."""

    slots: tuple[tuple[str, ...], ...]
    fields: tuple[str, ...] = ()
    """Only these fields of a typed answer are asked for; empty: the whole."""
    base: int = 0
    """The answer that they go into."""


@dataclass(frozen=True, slots=True)
class FreeJudge:
    """Ask the first of `models` that can for a terse verdict on `answers[answer]`."""

    answer: int
    models: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class FreeCompare:
    """Ask the first of `models` that can whether `answers[answer]` is at least as good as `answers[own]`."""

    answer: int
    own: int
    models: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Consult:
    """Ask the risk ledger whether this evidence may be delivered un-judged."""

    evidence: Evidence


@dataclass(frozen=True, slots=True)
class PaidVerdict:
    """Ask the orchestrator for a terse verdict on `answers[answer]`."""

    answer: int
    models: tuple[str, ...]
    reason: Reason


@dataclass(frozen=True, slots=True)
class PaidSolve:
    """Ask the orchestrator for its own answer to the task, or for some fields of a typed one as in `Answers`."""

    models: tuple[str, ...]
    reason: Reason
    fields: tuple[str, ...] = ()
    base: int = 0


@dataclass(frozen=True, slots=True)
class Deliver:
    """Hand out `answers[index]`."""

    index: int
    accepted: bool
    evidence: EvidenceName
    quality_score: float | None = None


@dataclass(frozen=True, slots=True)
class GiveUp:
    """No answer may be handed out; `index` is the least bad one for debugging, if any came."""

    index: int | None
    reason: str


Step = Answers | FreeJudge | FreeCompare | Consult | PaidVerdict | PaidSolve | Deliver | GiveUp
