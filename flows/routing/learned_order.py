"""The order in which `routing: learned` asks the executors of a use case, for runs and for the report. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

from tta_dev_primitives.config import OrchestrationConfig
from tta_dev_primitives.config.models.targets import Target
from tta_dev_primitives.flows.routing.candidates import configured_use_cases, executor_names
from tta_dev_primitives.flows.routing.model_scores import ModelScores, Score, ranked


@dataclass(frozen=True, slots=True)
class Place:
    """One executor's place in the order of a use case, and why it is there."""

    use_case: str
    number: int
    """From 1."""
    in_file: int
    """Its place in the order of the file, from 1."""
    model: str
    score: Score
    reason: str
    """What is known of it, and whom it goes before for that."""

    def to_json(self) -> dict[str, Any]:
        """The place as JSON values."""
        score = self.score
        return {
            "use_case": self.use_case,
            "place": self.number,
            "place_in_file": self.in_file,
            "model": self.model,
            "outcomes": round(score.seen),
            "endorsed": score.rate if score.seen else None,
            "interval": list(score.bounds) if score.seen else None,
            "reason": self.reason,
        }


def learned_names(
    config: OrchestrationConfig, targets: Mapping[str, Target], scores: ModelScores, use_case: str
) -> list[str]:
    """The executors of a use case in learned order; free ones first where the configuration prefers them."""
    return [place.model for place in _of(config, targets, scores, use_case)]


def places(
    config: OrchestrationConfig, targets: Mapping[str, Target], scores: ModelScores
) -> tuple[Place, ...]:
    """The order of every use case that has more than one executor."""
    found = (_of(config, targets, scores, use_case) for use_case in configured_use_cases(config))
    return tuple(chain.from_iterable(one for one in found if len(one) > 1))


def _of(
    config: OrchestrationConfig, targets: Mapping[str, Target], scores: ModelScores, use_case: str
) -> list[Place]:
    names = executor_names(config, use_case)
    by_key: dict[str, str] = {}
    for name in names:
        by_key.setdefault(targets[name].key, name)
    free = [key for key, name in by_key.items() if targets[name].billing == "free"]
    paid = [key for key in by_key if key not in free]
    groups: list[Sequence[str]] = [free, paid] if config.prefer_free_models else [list(by_key)]
    order: dict[str, str] = {}
    for group in groups:
        order |= ranked(scores, use_case, group, threshold=config.quality_threshold, free=free)
    return [
        Place(use_case, number, names.index(by_key[key]) + 1, by_key[key], scores.of(use_case, key), reason)
        for number, (key, reason) in enumerate(order.items(), start=1)
    ]
