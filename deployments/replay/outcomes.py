"""Recorded outcomes that ship with the product, through the real state machine: no model, no server, no network.

`outcomes.jsonl` holds figures only: which model was right on which task, which answers say the same, and their tokens.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from importlib.resources import files

from tta_dev_primitives.config import OrchestrationConfig
from tta_dev_primitives.config.errors import ConfigError
from tta_dev_primitives.config.models.resolve import resolve_targets
from tta_dev_primitives.config.models.targets import Target, Usage
from tta_dev_primitives.deployments.replay.run import Outcome
from tta_dev_primitives.flows.answers.closed_answers import AnswerFormat
from tta_dev_primitives.flows.bulk.chunk_sizes import chunk_sizes, whole_chunk
from tta_dev_primitives.flows.routing.candidates import route
from tta_dev_primitives.flows.validation.case import Answer, Candidate, Case, Policy
from tta_dev_primitives.flows.validation.dry_run import DryEnd, DryRun, DryTask
from tta_dev_primitives.flows.validation.steps import Deliver

_REFUSED = -2
_FAMILIES = {
    "claude": ("claude-3-5-sonnet-20241022", "claude-3-opus-20240229"),
    "gemini": ("gemini-1.5-pro",),
    "llama": ("Meta-Llama-3.1-70B-Instruct",),
    "deepseek": ("deepseek-v2.5-0908",),
}
"""Which recorded models stand in for those of a family; an Opus by its own."""


@dataclass(frozen=True, slots=True)
class Figures:
    """What one model did on one task."""

    right: bool
    group: int
    """Answers of one group say the same; -1: not comparable, -2: refused by a local check."""
    read: int
    wrote: int


@dataclass(frozen=True, slots=True)
class Recorded:
    """One task with the outcome of each recorded model."""

    use_case: str
    answer_format: AnswerFormat
    long: bool
    models: Mapping[str, Figures]


def recorded_outcomes(limit: int | None = None) -> list[Recorded]:
    """The outcomes that ship with the product, in their recorded order."""
    text = (
        files("tta_dev_primitives.deployments.replay").joinpath("outcomes.jsonl").read_text(encoding="utf-8")
    )
    head, *lines = text.splitlines()
    names = json.loads(head)["models"]
    found = []
    for line in lines[:limit]:
        _, use_case, form, long, *figures = json.loads(line)
        models = {name: Figures(bool(r), *rest) for name, (r, *rest) in zip(names, figures, strict=True)}
        found.append(Recorded(use_case, form, bool(long), models))
    return found


def _recorded_as(target: Target) -> str:
    known = _FAMILIES.get(target.family)
    if known is None:
        raise ConfigError(
            f"{target.name}: the outcomes that ship with the product hold no model of the family {target.family!r}. "
            f"Known: {', '.join(_FAMILIES)}. Give a file of your own records: tta replay DATA."
        )
    return known[-1] if "opus" in target.name else known[0]


@dataclass(frozen=True, slots=True)
class _Source:
    record: Recorded
    recorded_as: Mapping[str, str]

    def figures(self, by: Candidate) -> Figures:
        return self.record.models[self.recorded_as[by.model]]

    def answer(self, by: Candidate, fields: Sequence[str] = ()) -> Answer:
        known = self.figures(by)
        final = f"answer {known.group}" if known.group >= 0 else None
        failures = ("truncated",) if known.group == _REFUSED else ()
        return Answer(by, "", failures, final, known.read, known.wrote)

    def score(self, answer: Answer, by: Candidate) -> float | None:
        return 1.0 if self.figures(answer.by).right else 0.0

    def as_good(self, answer: Answer, own: Answer, by: Candidate) -> bool:
        return self.figures(answer.by).right or not self.figures(own.by).right


def replay_outcomes(
    records: Sequence[Recorded],
    config: OrchestrationConfig,
    *,
    name: str,
    seed: int | None = None,
    concurrency: int = 10,
) -> Outcome:
    """Run recorded outcomes under a configuration, with a ledger that knows nothing.

    Args:
        config: Route, threshold and gate are taken from it.
        concurrency: Decides how many tasks meet the risk ledger together.

    Raises:
        ConfigError: A model of the configuration belongs to no recorded family.
    """
    targets = resolve_targets(config)
    recorded_as = {target.name: _recorded_as(target) for target in targets.values()}
    order = list(records)
    if seed is not None:
        random.Random(seed).shuffle(order)  # noqa: S311 - an order, no secret
    orchestrator = Candidate.of(targets[config.orchestrator.model])
    routes: dict[str, tuple[Candidate, ...]] = {}
    tasks = []
    for number, record in enumerate(order):
        if record.use_case not in routes:
            chosen = route(config, targets, record.use_case)
            routes[record.use_case] = tuple(Candidate.of(target) for target in chosen.candidates)
        case = Case(
            record.answer_format, record.use_case, routes[record.use_case], orchestrator, Policy.of(config),
            long=record.long,
        )  # fmt: skip
        tasks.append(DryTask(str(number), case, _Source(record, recorded_as)))
    dry = DryRun(Policy.of(config), orchestrator, coins=f"outcomes {seed}")
    ends: list[DryEnd] = []
    for size in chunk_sizes(len(tasks), whole_chunk(concurrency), learns=True):
        ends += dry.run(tasks[len(ends) : len(ends) + size])
    return _outcome(name, config, order, ends, dry, recorded_as)


def _outcome(
    name: str,
    config: OrchestrationConfig,
    records: Sequence[Recorded],
    ends: Sequence[DryEnd],
    dry: DryRun,
    recorded_as: Mapping[str, str],
) -> Outcome:
    paid_name, price = recorded_as[config.orchestrator.model], dry.orchestrator.price
    correct = rejected = failed = 0
    alone = Decimal(0)
    evidence: Counter[str] = Counter()
    for record, end in zip(records, ends, strict=True):
        own = record.models[paid_name]
        alone += Decimal(0) if price is None else price.cost(Usage(own.read, output_tokens=own.wrote))
        if not isinstance(end.step, Deliver):
            failed += 1
            continue
        shown = record.models[recorded_as[end.case.answers[end.step.index].by.model]]
        evidence[end.step.evidence] += 1
        correct += shown.right
        rejected += shown is not own and (shown.group != own.group or shown.group < 0)
    free = {n for model, n in recorded_as.items() if model != config.orchestrator.model}
    count = len(records)
    return Outcome(
        scenario=name,
        threshold=config.quality_threshold,
        tasks=count,
        failed=failed,
        cost=dry.cost,
        paid_alone=alone,
        reported_baseline=dry.baseline,
        accuracy=correct / count,
        paid_accuracy=sum(r.models[paid_name].right for r in records) / count,
        best_free_accuracy=max((sum(r.models[n].right for r in records) / count for n in free), default=0.0),
        free_calls=sum(end.free_calls for end in ends),
        paid_calls=sum(end.paid_calls for end in ends),
        evidence=evidence,
        rejected=rejected,
        recorded_as=dict(recorded_as),
        missed_at_most=dry.state.audit_bound.missed(),
        audits=evidence["audit"],
    )
