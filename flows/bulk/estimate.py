"""What a file of tasks will cost, and how long it takes, before anything is sent. No Prefect, no provider is asked.

Facts and guesses are kept apart: token figures and the share of paid tasks come from what earlier runs recorded where
there is enough of that, else from stated priors. The worst case is no guess: the sum of what the ledger would reserve.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal

from tta_dev_primitives.blocks.ledger.cost_bound import bound_usd
from tta_dev_primitives.blocks.ledger.types import ReportRow
from tta_dev_primitives.blocks.quotas.plan import Plan, time_needed
from tta_dev_primitives.blocks.quotas.windows import Windows
from tta_dev_primitives.blocks.wire.types import ChatRequest, Message
from tta_dev_primitives.config import OrchestrationConfig
from tta_dev_primitives.config.models.targets import Target
from tta_dev_primitives.config.models.usage import Usage
from tta_dev_primitives.flows.answers.output_type import OutputType
from tta_dev_primitives.flows.bulk.reader import Record
from tta_dev_primitives.flows.planning.local_classifier import classify
from tta_dev_primitives.flows.planning.plan_model import Plan as TaskPlan
from tta_dev_primitives.flows.planning.plan_model import default_plan
from tta_dev_primitives.flows.routing.candidates import configured_use_cases, route
from tta_dev_primitives.flows.validation.risk import RiskState
from tta_dev_primitives.flows.validation.verdicts import verdict_request

__all__ = ["Estimate", "Facts", "estimate"]

_CHARS_A_TOKEN = 4.0
_OUTPUT_TOKENS = 300.0
_VERDICT_OVERHEAD, _VERDICT_OUTPUT = 250.0, 20.0
_LATENCY_S = 2.0
_LEARNING, _AUDITED, _REJECTED = 150, 0.10, 0.15
_ENOUGH_CALLS, _ENOUGH_RULINGS = 20, 30
PRIOR = (
    f"no recorded outcomes yet: the first {_LEARNING} tasks of each kind are checked by the paid model, "
    f"then {_AUDITED:.0%} of the rest"
)


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known before the job."""

    rows: tuple[ReportRow, ...] = ()
    """The ledger's calls, for measured tokens."""
    risk: RiskState = field(default_factory=RiskState)
    windows: Mapping[str, Windows] = field(default_factory=dict)
    blocked_until: Mapping[str, float] = field(default_factory=dict)
    unreachable: frozenset[str] = frozenset()
    """Models without a key."""


@dataclass(slots=True)
class Estimate:
    """The figures of one job. Amounts in USD."""

    tasks: int = 0
    use_cases: Counter[str] = field(default_factory=Counter)
    input_tokens: float = 0.0
    output_tokens: float = 0.0
    free_calls: float = 0.0
    paid_tasks: float = 0.0
    paid_source: str = PRIOR
    output_source: str = f"no measured answers yet: {_OUTPUT_TOKENS:.0f} tokens each"
    expected_usd: Decimal = Decimal(0)
    worst_usd: Decimal = Decimal(0)
    baseline_usd: Decimal = Decimal(0)
    time: Plan = field(default_factory=lambda: Plan(0.0, None, {}))

    @property
    def paid_share(self) -> float:
        """Share of tasks that will need a paid call."""
        return self.paid_tasks / self.tasks if self.tasks else 0.0


def estimate(
    records: Iterable[Record],
    config: OrchestrationConfig,
    targets: Mapping[str, Target],
    facts: Facts,
    *,
    now: float,
    concurrency: int = 50,
) -> Estimate:
    """Go through the tasks once and add up.

    Args:
        records: The tasks; read as a stream.
        config: The configuration.
        targets: Its models, resolved.
        facts: What is recorded.
        now: Epoch seconds.
        concurrency: As the job will have it.

    Raises:
        UnknownPriceError: A paid model of the configuration has no price.
    """
    return _Sum(config, targets, facts).of(records, now=now, concurrency=concurrency)


class _Sum:
    def __init__(self, config: OrchestrationConfig, targets: Mapping[str, Target], facts: Facts) -> None:
        self.config, self.targets, self.facts = config, targets, facts
        self.orchestrator = targets[config.orchestrator.model]
        self.paid_possible = self.orchestrator.name not in facts.unreachable
        self.output = Estimate()
        self.answer_tokens = self._measured_answer()
        self.kinds: Counter[tuple[str, bool]] = Counter()
        self.free_used: set[str] = set()
        self.unclear = False

    def of(self, records: Iterable[Record], *, now: float, concurrency: int) -> Estimate:
        found = self.output
        costs: dict[tuple[str, bool], tuple[int, Decimal]] = {}
        for record in records:
            kind, cost = self._add(record)
            count, total = costs.get(kind, (0, Decimal(0)))
            costs[kind] = (count + 1, total + cost)
        for kind, (count, total) in costs.items():
            share = self._paid_share(kind, count)
            found.paid_tasks += count * share
            found.expected_usd += total * Decimal(str(round(share, 6)))
        self._add_plan()
        found.time = self._time(now, concurrency)
        return found

    def _add(self, record: Record) -> tuple[tuple[str, bool], Decimal]:
        """Count one task; its kind, and what it costs if it needs the paid model."""
        found = self.output
        plan = default_plan(record.task, record.use_case, allowed=configured_use_cases(self.config))
        self.unclear = self.unclear or (record.use_case is None and not classify(record.task).sure)
        chosen = route(
            self.config,
            self.targets,
            plan.use_case,
            blocked=dict.fromkeys(self.facts.unreachable, "no key"),
        )
        free = chosen.free
        request = ChatRequest(
            (Message("user", record.task),),
            system=record.system,
            max_output_tokens=self.orchestrator.max_output_tokens,
        )
        size = (len(record.task) + len(record.system or "")) / _CHARS_A_TOKEN + 16
        families = len({target.family for target in free})
        answers = min(2, families) if plan.closed and families > 1 and self._adaptive else 1
        judged = self._adaptive and not plan.closed and families > 1
        found.tasks += 1
        found.use_cases[plan.use_case] += 1
        found.input_tokens += size
        found.output_tokens += self.answer_tokens
        if free:
            found.free_calls += answers + judged
            self.free_used.update(target.name for target in free)
        found.worst_usd += self._worst(request, plan, record)
        solve = self._price(size, self.answer_tokens)
        found.baseline_usd += solve
        if not free or plan.closed:
            cost = solve
        else:
            verdict = self._price(size + self.answer_tokens + _VERDICT_OVERHEAD, _VERDICT_OUTPUT)
            cost = verdict + solve * Decimal(str(_REJECTED))
        return (plan.use_case, bool(free)), cost

    @property
    def _adaptive(self) -> bool:
        return self.config.enabled and self.config.validation.mode == "adaptive"

    def _paid_share(self, kind: tuple[str, bool], count: int) -> float:
        """Share of the tasks of a kind that need the paid model."""
        use_case, free = kind
        if not self.paid_possible:
            return 0.0
        if not free or not self.config.enabled or self.config.validation.mode == "always":
            self.output.paid_source = "the configuration asks the paid model about every such task"
            return 1.0
        if self.config.validation.mode == "never":
            self.output.paid_source = "validation.mode never: only when every free model fails"
            return 0.0
        strata = [s for key, s in self.facts.risk.strata.items() if key.split("|", 1)[0] == use_case]
        labelled, unjudged = sum(s.labelled for s in strata), sum(s.unjudged for s in strata)
        if labelled + unjudged >= _ENOUGH_RULINGS:
            self.output.paid_source = (
                f"the share among {labelled + unjudged} recorded outcomes, which falls as trust grows"
            )
            return labelled / (labelled + unjudged)
        return min(1.0, (min(count, _LEARNING) + _AUDITED * max(0, count - _LEARNING)) / count)

    def _worst(self, request: ChatRequest, plan: TaskPlan, record: Record) -> Decimal:
        """What would be reserved if every check and every free model failed: two verdicts and a solution."""
        if not self.paid_possible or self.orchestrator.price is None:
            return Decimal(0)
        worst = bound_usd(self.orchestrator, request)
        if self.config.enabled and self.config.validation.mode != "never":
            answer = "x" * int(_CHARS_A_TOKEN * self.orchestrator.max_output_tokens)
            verdict, _ = verdict_request(_Task(record.task, plan), answer, self.orchestrator)
            worst += 2 * bound_usd(self.orchestrator, verdict)
        return worst

    def _price(self, input_tokens: float, output_tokens: float) -> Decimal:
        price = self.orchestrator.price
        if price is None:
            return Decimal(0)
        return price.cost(Usage(input_tokens=round(input_tokens), output_tokens=round(output_tokens)))

    def _add_plan(self) -> None:
        wanted = self.config.planning == "always" or (self.config.planning == "auto" and self.unclear)
        if wanted and self.config.enabled and self.paid_possible and self.output.tasks:
            self.output.expected_usd += self._price(1500, 150)
            self.output.worst_usd += 2 * self._price(8 * 1200, 1024)

    def _measured_answer(self) -> float:
        rows = [r for r in self.facts.rows if r.role == "execute" and r.outcome == "ok"]
        calls = sum(r.calls for r in rows)
        if calls < _ENOUGH_CALLS:
            return _OUTPUT_TOKENS
        self.output.output_source = f"the mean of {calls} recorded answers"
        return sum(r.output_tokens for r in rows) / calls

    def _time(self, now: float, concurrency: int) -> Plan:
        found = self.output
        calls = math.ceil(found.free_calls)
        free = {n: self.targets[n].limits for n in self.targets if n in self.free_used}
        each = (found.input_tokens + found.output_tokens) / found.tasks if found.tasks else 0.0
        latency = _LATENCY_S * (1 + found.paid_share)
        if not calls:
            return Plan(found.tasks * _LATENCY_S / concurrency, None, {})
        return time_needed(
            calls,
            each,
            free,
            now,
            windows=self.facts.windows,
            blocked_until=self.facts.blocked_until,
            latency_s=latency,
            concurrency=concurrency,
        )


@dataclass(frozen=True, slots=True)
class _Task:
    task: str
    plan: TaskPlan | None
    output: OutputType | None = None
