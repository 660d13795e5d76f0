"""Replay recorded answers through the real flow: what a configuration saves, and at which quality.

Everything but the models is real: the sandbox answers over HTTP with what was recorded, the bulk flow plans,
executes and validates, the ledger settles. Money is counted with the orchestrator's list price on recorded tokens.
"""

from __future__ import annotations

import os
import random
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import yaml

from tta_dev_primitives.config import OrchestrationConfig, load_orchestration_config
from tta_dev_primitives.config.errors import ConfigError
from tta_dev_primitives.config.models.resolve import resolve_targets
from tta_dev_primitives.config.models.targets import Target, Usage
from tta_dev_primitives.deployments.replay.recorded import Record, Recorded, Replay
from tta_dev_primitives.deployments.sandbox.sandbox import BASE_PATHS, Sandbox
from tta_dev_primitives.deployments.sandbox.scenario.scenario import Quota, Scenario
from tta_dev_primitives.flows.answers.closed_answers import agree, final_answer
from tta_dev_primitives.flows.planning.local_classifier import answer_format
from tta_dev_primitives.flows.tasks.result import OrchestrationResult
from tta_dev_primitives.flows.workflow import MultiModelWorkflow

_KEY = "TTA_REPLAY_KEY"
_ROOM = 1_000_000_000
"""Quota figures that a replay never comes near: it measures money and quality, not waiting."""
_LIKE = (
    (r"opus", r"claude.*opus"),
    (r"^claude", r"claude.*sonnet"),
    (r"^claude", r"claude"),
    (r"^gemini", r"^gemini.*pro(-\d+)?$"),
    (r"llama", r"llama-3.*70b"),
    (r"deepseek", r"deepseek"),
    (r"gpt-oss", r"gpt"),
)
"""Which recorded model stands in for which configured one; else the most accurate one that is left."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """One configuration on one set of records. Money in USD, shares 0..1."""

    scenario: str
    threshold: float
    tasks: int
    failed: int
    cost: Decimal
    paid_alone: Decimal
    """What the answers recorded for the orchestrator would have cost for the same tasks."""
    reported_baseline: Decimal
    """The sum of the results' own baselines."""
    accuracy: float
    paid_accuracy: float
    best_free_accuracy: float
    free_calls: int
    paid_calls: int
    evidence: Mapping[str, int]
    rejected: int
    """Delivered answers that differ from the orchestrator's own."""
    recorded_as: Mapping[str, str]
    missed_at_most: float
    """The certificate: with 95 % confidence, no more un-judged deliveries would have been rejected."""
    audits: int

    @property
    def saving(self) -> float:
        """1 - cost / cost of the paid model alone."""
        return float(1 - self.cost / self.paid_alone) if self.paid_alone else 0.0

    @property
    def relative(self) -> float:
        """Accuracy relative to the paid model alone."""
        return self.accuracy / self.paid_accuracy if self.paid_accuracy else 0.0

    @property
    def violated(self) -> bool:
        """More rejected deliveries than the threshold allows."""
        return self.rejected > (1 - self.threshold) * self.tasks

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; money as text."""
        return {
            "scenario": self.scenario, "threshold": self.threshold, "tasks": self.tasks, "failed": self.failed,
            "cost_usd": f"{self.cost:f}", "paid_alone_usd": f"{self.paid_alone:f}",
            "reported_baseline_usd": f"{self.reported_baseline:f}", "saving": round(self.saving, 4),
            "accuracy": round(self.accuracy, 4), "paid_accuracy": round(self.paid_accuracy, 4),
            "best_free_accuracy": round(self.best_free_accuracy, 4), "relative_accuracy": round(self.relative, 4),
            "free_calls": self.free_calls, "paid_calls": self.paid_calls, "evidence": dict(self.evidence),
            "rejected": self.rejected, "violated": self.violated, "audits": self.audits,
            "missed_at_most": round(self.missed_at_most, 2), "stand_ins": dict(self.recorded_as),
        }  # fmt: skip


def recorded_as(records: Sequence[Record], targets: Mapping[str, Target]) -> dict[str, str]:
    """A recorded model for each configured one, by family, else by accuracy.

    Raises:
        ConfigError: Fewer models are recorded than configured.
    """
    everywhere = set.intersection(*({n for n, a in r.models.items() if a.text is not None} for r in records))
    left = sorted(everywhere, key=lambda name: -_accuracy(records, name))
    chosen: dict[str, str] = {}
    # Those of the same family first: the best recorded model must not stand in for another before its own kin does.
    for kin in (True, False):
        for name in [t.name for t in targets.values() if t.name not in chosen]:
            found = _alike(name, left) if kin else next(iter(left), None)
            if found is None and not kin:
                raise ConfigError(
                    f"no recorded model is left to stand in for {name}: {len(everywhere)} have the text of an "
                    f"answer in every record, {len(targets)} are configured. Record more or configure fewer."
                )
            if found is not None:
                left.remove(found)
                chosen[name] = found
    return {target.name: chosen[target.name] for target in targets.values()}


def _alike(name: str, left: Sequence[str]) -> str | None:
    for configured, recorded in _LIKE:
        if re.search(configured, name, re.I):
            found = next((n for n in left if re.search(recorded, n, re.I)), None)
            if found is not None:
                return found
    return None


def _accuracy(records: Sequence[Record], name: str) -> float:
    return sum(r.models[name].right for r in records) / len(records)


async def replay_scenario(
    records: Sequence[Record],
    config_text: str,
    *,
    name: str,
    folder: Path,
    seed: int = 1,
    concurrency: int = 10,
) -> Outcome:
    """Run every record, in random order, under one configuration.

    Args:
        config_text: The configuration file's text; addresses and keys are pointed at the sandbox.
        folder: Where the ledger of this replay is kept; empty.
        seed: Of the order, and of the coins that choose audits.
        concurrency: Calls open at once.
    """
    targets = _targets(config_text, folder)
    recorded = recorded_as(records, targets)
    by_api = {target.api_model: recorded[model] for model, target in targets.items()}
    order = list(records)
    random.Random(seed).shuffle(order)  # noqa: S311 - an order, no secret
    os.environ[_KEY] = "replay-needs-no-key"
    with Sandbox(Scenario(quotas=_quotas()), answers=Replay(records, by_api)).start() as sandbox:
        workflow = MultiModelWorkflow(
            config_at_sandbox(sandbox, config_text, folder, _KEY), use_env_overrides=False
        )
        items = [
            {"id": str(n), "task": task, "use_case": record.use_case or "moderate"}
            for n, (task, record) in enumerate(zip(_tasks(order), order, strict=True))
        ]
        risk = (await workflow.ready()).risk
        await risk.secret(f"replay {seed}")
        results = await workflow.execute_bulk(items, concurrency=concurrency)
        state = await risk.state()
    return _outcome(name, workflow.config, order, results, targets, recorded, state)


def _tasks(records: Sequence[Record]) -> list[str]:
    """The prompts; a repeated one gets blanks at its end, or the store of results would answer it for nothing."""
    seen: Counter[str] = Counter()
    tasks = []
    for record in records:
        tasks.append(record.prompt + " " * seen[record.prompt])
        seen[record.prompt] += 1
    return tasks


def _quotas() -> tuple[Quota, ...]:
    return tuple(Quota(provider=name, rpm=_ROOM, rpd=_ROOM, tpm=_ROOM, tpd=_ROOM) for name in BASE_PATHS)


def _targets(config_text: str, folder: Path) -> dict[str, Target]:
    path = folder / "as-given.yaml"
    path.write_text(config_text, encoding="utf-8")
    return resolve_targets(load_orchestration_config(path, use_env_overrides=False))


def config_at_sandbox(sandbox: Sandbox, text: str, folder: Path, key_variable: str) -> Path:
    """Write a configuration with every address and key pointed at the sandbox; nothing else is changed.

    Args:
        text: The configuration as it was given.
        folder: Where it is written, and where its ledger is.
        key_variable: The variable of every key.
    """
    targets = _targets(text, folder)
    options = (yaml.safe_load(text) or {}).get("orchestration") or {}
    options["allow_private_hosts"] = True
    options.setdefault("cost_tracking", {})["ledger_url"] = f"sqlite:///{folder / 'ledger.db'}"
    orchestrator = options.setdefault("orchestrator", {})
    model = orchestrator.get("model", OrchestrationConfig().orchestrator.model)
    orchestrator |= {"api_key_env": key_variable, "base_url": sandbox.base_url(targets[model].provider)}
    executors = options.setdefault("executors", [])
    named = {executor["model"] for executor in executors} | {model}
    for target in targets.values():
        if target.name not in named:
            # Only the fallback list names it: an executor of a use case that no task has gives it an address.
            own = {"model": target.name, "provider": target.provider, "billing": target.billing}
            executors.append({**own, "use_cases": ["speed-critical"]})
    for executor in executors:
        executor |= {"api_key_env": key_variable, "base_url": sandbox.base_url(executor["provider"])}
    path = folder / "orchestration-config.yaml"
    path.write_text(yaml.safe_dump({"orchestration": options}, sort_keys=False), encoding="utf-8")
    return path


def _outcome(
    name: str,
    config: OrchestrationConfig,
    records: Sequence[Record],
    results: Sequence[OrchestrationResult],
    targets: Mapping[str, Target],
    recorded: Mapping[str, str],
    state: Any,
) -> Outcome:
    paid = targets[config.orchestrator.model]
    paid_name = recorded[paid.name]
    free = [recorded[t.name] for t in targets.values() if t.billing == "free"]
    correct = rejected = 0
    alone = Decimal(0)
    for record, result in zip(records, results, strict=True):
        theirs = record.models[paid_name]
        alone += _price(paid, theirs)
        if not result.model:
            continue
        delivered = record.models[recorded[result.model]]
        correct += delivered.right
        rejected += not _accepted(record, delivered, theirs)
    attempts = [a for result in results for a in result.attempts]
    return Outcome(
        scenario=name,
        threshold=config.quality_threshold,
        tasks=len(records),
        failed=sum(not r.model for r in results),
        cost=sum((r.cost_usd for r in results), Decimal(0)),
        paid_alone=alone,
        reported_baseline=sum((r.baseline_cost_usd for r in results), Decimal(0)),
        accuracy=correct / len(records),
        paid_accuracy=_accuracy(records, paid_name),
        best_free_accuracy=max((_accuracy(records, n) for n in free), default=0.0),
        free_calls=sum(a.billing == "free" for a in attempts),
        paid_calls=sum(a.billing == "paid" for a in attempts),
        evidence=Counter(r.evidence for r in results),
        rejected=rejected,
        recorded_as=dict(recorded),
        missed_at_most=state.audit_bound.missed(),
        audits=sum(r.evidence == "audit" for r in results),
    )


def _price(target: Target, recorded: Recorded) -> Decimal:
    if target.price is None:
        return Decimal(0)
    return target.price.cost(Usage(recorded.input_tokens or 0, output_tokens=recorded.output_tokens or 0))


def _accepted(record: Record, delivered: Recorded, paid: Recorded) -> bool:
    """Whether the orchestrator's own recorded answer says the same; without texts, whether both were right."""
    if delivered is paid:
        return True
    fmt = answer_format(record.prompt)
    if delivered.answer and paid.answer and fmt != "open":
        return agree(final_answer(delivered.answer, fmt), final_answer(paid.answer, fmt))
    return delivered.right or not paid.right
