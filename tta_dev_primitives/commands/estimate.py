"""`tta estimate`: what a file of tasks will cost and how long it takes, and what would make it cheaper."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from tta_dev_primitives.blocks.ledger.ledger import Ledger
from tta_dev_primitives.blocks.ledger.task_records import stored_decisions
from tta_dev_primitives.blocks.quotas.availability import Availability
from tta_dev_primitives.blocks.quotas.quota import Quota
from tta_dev_primitives.blocks.wire.batches.formats import batch_factor
from tta_dev_primitives.commands._options import Config, Flag, Json
from tta_dev_primitives.commands._output import console, counted, print_json, table, usd
from tta_dev_primitives.commands._schema import read_schema
from tta_dev_primitives.commands.ledger import open_ledger
from tta_dev_primitives.config import OrchestrationConfig
from tta_dev_primitives.config.errors import ConfigError, MissingKeyError
from tta_dev_primitives.config.models.resolve import resolve_targets
from tta_dev_primitives.config.models.targets import Target
from tta_dev_primitives.config.reading.api_keys import find_api_key, key_id
from tta_dev_primitives.flows.answers.output_type import OutputType
from tta_dev_primitives.flows.bulk.arguments import whole
from tta_dev_primitives.flows.bulk.estimate import Estimate, Facts
from tta_dev_primitives.flows.bulk.estimate import estimate as add_up
from tta_dev_primitives.flows.bulk.quota_wait import span_text
from tta_dev_primitives.flows.bulk.reader import BrokenLine, Record, input_size, read_records
from tta_dev_primitives.flows.planning.plan_model import default_plan, typed_plan
from tta_dev_primitives.flows.routing.candidates import configured_use_cases
from tta_dev_primitives.flows.tasks.item import Item
from tta_dev_primitives.flows.tasks.same_task import settings_digest, task_key
from tta_dev_primitives.flows.validation.case import Policy
from tta_dev_primitives.flows.validation.risk_store import RiskStore


def estimate(
    tasks: Path,
    /,
    *,
    config: Config = None,
    concurrency: Annotated[int, Parameter(name=["--concurrency", "-n"])] = 50,
    allow_extra: Flag = False,
    schema: str | None = None,
    samples: int = 1,
    json: Json = False,
) -> int:
    """Cost, tokens, time under the free quotas, and the share of paid tasks; nothing is sent or spent.

    Args:
        tasks: The file that `tta bulk` would run.
        concurrency: As for `tta bulk`.
        allow_extra: As for `tta bulk`.
        schema: As for `tta bulk`: a JSON Schema file, or module:Model.
        samples: As for `tta bulk`.
    """
    whole("--concurrency", concurrency)
    if input_size(tasks) == 0:
        raise ConfigError(f'{tasks}: it is empty. Expected lines such as {{"id": "1", "task": "..."}}.')
    lines = _Lines(tasks, read_schema(schema), allow_extra, whole("--samples", samples))
    document = asyncio.run(_estimate(lines, config, concurrency))
    if json:
        print_json(document)
    else:
        _show(document)
    return 0


async def _estimate(lines: _Lines, config_path: Path | None, concurrency: int) -> dict[str, Any]:
    config, ledger = open_ledger(config_path)
    targets = resolve_targets(config)
    found = await _facts(config, ledger, targets)
    found = replace(found, stored=await _stored(config, ledger, targets, lines))
    now = time.time()
    result = add_up(lines, config, targets, found, now=now, concurrency=concurrency)
    if not result.tasks:
        first = lines.named[0] if lines.named else None
        reason = (
            'it holds no task. Expected lines such as {"id": "1", "task": "..."}.'
            if first is None
            else f"none of its lines is a task. The first: line {first.number}: {first.reason}"
        )
        raise ConfigError(f"{lines.path}: {reason}")
    left = (await ledger.balance()).left(config.cost_tracking.limit)
    return _document(result, lines, found, left, batch_factor(targets[config.orchestrator.model]))


_MOST_NAMED = 20
"""Broken lines that are listed; the others are counted."""


class _Lines:
    """The tasks of the file; counts the lines that are none."""

    def __init__(self, path: Path, output: OutputType | None, allow_extra: bool, samples: int) -> None:
        self.path, self._output, self._allow_extra, self._samples = path, output, allow_extra, samples
        self.broken = self.duplicates = 0
        self.named: list[BrokenLine] = []

    def __iter__(self) -> Iterator[Record]:
        seen: set[str] = set()
        self.broken = self.duplicates = 0
        self.named.clear()
        repeated = 0
        for record in read_records(
            self.path, output=self._output, allow_extra=self._allow_extra, samples=self._samples
        ):
            if isinstance(record, Record) and record.id not in seen:
                seen.add(record.id)
                yield record
                continue
            if isinstance(record, BrokenLine):
                self.broken += 1
            elif record.number == repeated:
                continue  # another sample of the same line
            else:
                repeated = record.number
                self.duplicates += 1
                reason = f"the id stands on an earlier line: {record.id}"
                record = BrokenLine(record.number, reason, record.id)
            if len(self.named) < _MOST_NAMED:
                self.named.append(record)


async def _stored(
    config: OrchestrationConfig, ledger: Ledger, targets: dict[str, Target], lines: Iterable[Record]
) -> frozenset[str]:
    """Ids of the tasks whose answers are known: the same task with the same settings was done before."""
    settings = settings_digest(config, targets[config.orchestrator.model].key)
    allowed = configured_use_cases(config)
    keys: dict[str, str] = {}
    for record in lines:
        plan = default_plan(record.task, record.use_case, allowed=allowed, system=record.system)
        item = Item(
            record.id,
            record.task,
            use_case=record.use_case,
            system=record.system,
            plan=plan if record.output is None else typed_plan(plan),
            output=record.output,
            seed=record.seed,
        )
        keys[record.id] = task_key(item, settings) or ""
    found = await stored_decisions(ledger, list(dict.fromkeys(keys.values())))
    return frozenset(name for name, key in keys.items() if key in found and found[key].answer is not None)


async def _facts(config: OrchestrationConfig, ledger: Ledger, targets: dict[str, Target]) -> Facts:
    keyed: dict[str, tuple[Target, str]] = {}
    missing: set[str] = set()
    for name, target in targets.items():
        try:
            key = find_api_key(target.api_key_env)
        except MissingKeyError:
            key = None
        if key is None and not target.allow_private_hosts:
            missing.add(name)
        else:
            keyed[name] = (target, key_id(key))
    orchestrator = targets[config.orchestrator.model]
    store = RiskStore.of(ledger.database, orchestrator.key, Policy.of(config))
    books = await Quota(ledger.database).snapshot(list(keyed.values())) if keyed else []
    blocked = await Availability(ledger.database).blocked(list(keyed.values()))
    months = (await ledger.months())[-2:]
    rows = [row for month in months for row in await ledger.report_rows(month)]
    return Facts(
        rows=tuple(rows),
        risk=await store.state(),
        windows=dict(zip(keyed, books, strict=True)),
        blocked_until={n: blocked[t.key].until for n, (t, _) in keyed.items() if t.key in blocked},
        unreachable=frozenset(missing) if keyed else frozenset(),
        savings=(await ledger.savings()).left,
        lengths=await ledger.answer_lengths(orchestrator.key),
        latency_s=await ledger.mean_seconds(months[-1]) if months else None,
    )


def _micro(amount: Decimal) -> Decimal:
    return amount.quantize(Decimal("0.000001"))


def _costs(found: Estimate, factor: Decimal) -> dict[str, Decimal]:
    return {
        "expected_usd": _micro(found.expected_usd * factor),
        "worst_usd": _micro(found.worst_usd * factor),
        "paid_model_alone_usd": _micro(found.baseline_usd * factor),
    }


def _document(
    found: Estimate, lines: _Lines, facts: Facts, left: Decimal | None, factor: Decimal
) -> dict[str, Any]:
    """The estimate for programs; `factor` is what a batch costs, 1 where the paid model's provider has none."""
    binding = found.time.binding
    return {
        "tasks": found.tasks,
        "broken_lines": lines.broken,
        "broken": [{"line": line.number, "reason": line.reason, "id": line.id} for line in lines.named],
        "duplicates": lines.duplicates,
        "use_cases": dict(found.use_cases.most_common()),
        "input_tokens": round(found.input_tokens),
        "output_tokens": round(found.output_tokens),
        "output_tokens_from": found.output_source,
        "free_calls": math.ceil(found.free_calls),
        "paid_tasks": round(found.paid_tasks),
        "paid_share": round(found.paid_share, 4),
        "paid_share_from": found.paid_source,
        "stored_tasks": found.stored,
        "copies": found.copies,
        **_costs(found, Decimal(1)),
        "range_usd": [_micro(found.low_usd), _micro(found.high_usd)],
        "with_batch": None if factor == 1 else _costs(found, factor),
        "budget_left_usd": left,
        "seconds": None if math.isinf(found.time.seconds) else round(found.time.seconds, 1),
        "binding_limit": None if binding is None else {"model": binding.model, "limit": binding.kind},
        "calls_by_model": dict(found.time.share),
        "models_without_key": sorted(facts.unreachable),
        "no_key_at_all": not facts.windows,
        "recommendations": [
            {"change": one.change, "expected_usd": _micro(one.expected_usd)} for one in found.advice
        ],
    }


def _show(found: dict[str, Any]) -> None:
    seconds, binding = found["seconds"], found["binding_limit"]
    left, batch = found["budget_left_usd"], found["with_batch"]
    low, high = (usd(amount, 4) for amount in found["range_usd"])
    rows = [
        [
            "tasks",
            f"{found['tasks']:,}",
            ", ".join(f"{n} {count}" for n, count in found["use_cases"].items()),
        ],
        ["done before", f"{found['stored_tasks']:,}", "cost nothing again"],
        *([["copies", f"{found['copies']:,}", "same task, other id: paid once"]] if found["copies"] else []),
        ["input tokens", f"{found['input_tokens']:,}", ""],
        ["output tokens", f"{found['output_tokens']:,}", found["output_tokens_from"]],
        ["free calls", f"{found['free_calls']:,}", ""],
        [
            "tasks for the paid model",
            f"{found['paid_tasks']:,}",
            f"{found['paid_share']:.0%}; {found['paid_share_from']}",
        ],
        ["expected cost", usd(found["expected_usd"], 4), f"range {low} to {high}"],
        ["worst case", usd(found["worst_usd"], 4), "reserved at most; --max-cost lowers it"],
        ["paid model alone", usd(found["paid_model_alone_usd"], 4), ""],
        ["left of the month's budget", "no limit" if left is None else usd(left, 4), ""],
        [
            "time",
            "never" if seconds is None else span_text(seconds),
            "the quotas are too small"
            if seconds is None
            else "no known quota limits it"
            if binding is None
            else f"limited by {binding['limit']} of {binding['model']}",
        ],
    ]
    if batch is not None:
        alone = f"paid model alone {usd(batch['paid_model_alone_usd'], 4)}"
        said = f"at most {usd(batch['worst_usd'], 4)}; {alone}; answers within a day"
        rows.insert(-2, ["with --batch", usd(batch["expected_usd"], 4), said])
    out = console()
    out.print(table("Estimate", ["", "figure", "from"], rows, right=["figure"]))
    for line in found["broken"]:
        out.print(f"line {line['line']}: {line['reason']} (not counted)")
    uncounted = found["broken_lines"] + found["duplicates"]
    if uncounted > len(found["broken"]):
        out.print(f"... {counted(uncounted, 'line')} not counted in all")
    if found["no_key_at_all"]:
        out.print("no key is set: estimated as with a key for each model")
    if found["models_without_key"]:
        out.print(f"no key, not counted: {', '.join(found['models_without_key'])}")
    if left is not None and found["expected_usd"] > left:
        out.print("The expected cost is more than the budget left: the rest would be free models only.")
    if found["recommendations"]:
        changes = [[one["change"], usd(one["expected_usd"], 4)] for one in found["recommendations"]]
        out.print(
            table("What would change it", ["change", "expected cost"], changes, right=["expected cost"])
        )
