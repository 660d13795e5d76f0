"""What a file of tasks will cost, and how long it takes, before anything is sent. No Prefect, no provider is asked.

The expected cost comes from the real state machine (`forecast`), with what the ledger has learned: rejections, savings,
answer lengths, stored answers. Guesses are stated. The worst case is no guess: the sum of what would be reserved.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal

from tta_dev_primitives.blocks.ledger.cost_bound import bound_usd
from tta_dev_primitives.blocks.ledger.types import ReportRow
from tta_dev_primitives.blocks.quotas.time_needed import Plan, time_needed
from tta_dev_primitives.blocks.quotas.windows import Windows
from tta_dev_primitives.blocks.wire.types import ChatRequest, Message
from tta_dev_primitives.config import OrchestrationConfig
from tta_dev_primitives.config.models.targets import Target, Usage
from tta_dev_primitives.flows.answers.fields import field_paths
from tta_dev_primitives.flows.answers.json_schema import has_object_root
from tta_dev_primitives.flows.answers.output_type import OutputType
from tta_dev_primitives.flows.bulk.forecast import (
    MOST_DRAWN,
    Forecast,
    Known,
    Sketch,
    forecast,
    output_prior,
)
from tta_dev_primitives.flows.bulk.reader import Record
from tta_dev_primitives.flows.planning.local_classifier import is_long
from tta_dev_primitives.flows.planning.plan_model import Plan as TaskPlan
from tta_dev_primitives.flows.planning.plan_model import (
    default_plan,
    is_unclear,
    orchestrator_plans_job,
    typed_plan,
)
from tta_dev_primitives.flows.routing.candidates import Route, configured_use_cases, route
from tta_dev_primitives.flows.validation.case import Candidate, Policy
from tta_dev_primitives.flows.validation.opinion_costs import LengthRatios
from tta_dev_primitives.flows.validation.risk_state import RiskState
from tta_dev_primitives.flows.validation.verdicts import verdict_request

_CHARS_A_TOKEN, _CHAT_TOKENS = 4.0, 8
_FIELD_TOKENS = 10
_LATENCY_S = 2.0
_ENOUGH_CALLS = 20
_PLAN_TOKENS = (1500, 150)
_VARIANT_RUNS = 5
_UNMEASURED = 2
"""Answers may be so many times longer or shorter than assumed."""
_THRESHOLDS = (0.75, 0.95)
PRIOR = "no recorded outcomes yet: 2 % of the free answers are assumed to be rejected"


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
    savings: Decimal = Decimal(0)
    """What the month has saved and not spent, USD."""
    lengths: Mapping[int, tuple[int, float, float]] = field(default_factory=dict)
    """Lengths of the orchestrator's answers against the executors', as the ledger keeps them."""
    stored: frozenset[str] = frozenset()
    """Ids of tasks that were done before: they cost nothing."""
    latency_s: float | None = None
    """Mean seconds of a recorded call."""


@dataclass(frozen=True, slots=True)
class Advice:
    """One change, and what the job would be expected to cost with it, USD."""

    change: str
    expected_usd: Decimal


@dataclass(slots=True)
class Estimate:
    """The figures of one job. Amounts in USD."""

    tasks: int = 0
    stored: int = 0
    copies: int = 0
    """Tasks that are the same as an earlier one, under another id: they are paid once."""
    use_cases: Counter[str] = field(default_factory=Counter)
    input_tokens: float = 0.0
    output_tokens: float = 0.0
    free_calls: float = 0.0
    paid_tasks: float = 0.0
    paid_source: str = PRIOR
    output_source: str = "assumed by what each task asks for; the range allows for half and twice"
    low_usd: Decimal = Decimal(0)
    expected_usd: Decimal = Decimal(0)
    high_usd: Decimal = Decimal(0)
    worst_usd: Decimal = Decimal(0)
    baseline_usd: Decimal = Decimal(0)
    advice: tuple[Advice, ...] = ()
    time: Plan = field(default_factory=lambda: Plan(0.0, None, {}))

    @property
    def to_do(self) -> int:
        """Tasks that have to be answered."""
        return self.tasks - self.stored - self.copies

    @property
    def paid_share(self) -> float:
        """Share of tasks that will need a paid call."""
        return self.paid_tasks / self.tasks if self.tasks else 0.0


def _typed(sketch: Sketch, output: OutputType) -> Sketch:
    """The sketch of a typed task: disputed fields are asked for again alone."""
    fields = len(field_paths(output.schema))
    if not fields or not has_object_root(output.schema):
        return sketch
    tokens = round(len(output.digest) / _CHARS_A_TOKEN)
    return replace(sketch, schema=output.short_digest, fields=fields, schema_tokens=tokens)


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
        targets: Its models, resolved.
        now: Epoch seconds.
        concurrency: As the job will have it.

    Raises:
        UnknownPriceError: A paid model of the configuration has no price.
    """
    return _Sum(config, targets, facts, concurrency).of(records, now=now)


class _Sum:
    def __init__(
        self, config: OrchestrationConfig, targets: Mapping[str, Target], facts: Facts, concurrency: int
    ) -> None:
        self.config, self.targets, self.facts, self.concurrency = config, targets, facts, concurrency
        self.orchestrator = targets[config.orchestrator.model]
        self.paid_possible = self.orchestrator.name not in facts.unreachable
        self.output = Estimate()
        self.measured = self._measured()
        self.routes: dict[str, Route] = {}
        self.sketches: list[Sketch] = []
        self.free_used: set[str] = set()
        self.seen: set[str] = set()
        self.unclear = False

    def of(self, records: Iterable[Record], *, now: float) -> Estimate:
        found = self.output
        for record in records:
            self._add(record)
        made = self._forecast(Policy.of(self.config), self.facts.risk)
        plan = self._plan_cost()
        found.free_calls, found.paid_tasks, found.baseline_usd = (
            made.free_calls, made.paid_tasks, made.baseline,
        )  # fmt: skip
        wide = 1 if self.measured else _UNMEASURED
        found.low_usd, found.expected_usd, found.high_usd = (
            cost + plan for cost in (made.low / wide, made.expected, made.high * wide)
        )
        if plan:
            found.worst_usd += 2 * self._price(8 * 1200, 1024)
        self._say_source()
        found.time = self._time(now)
        found.advice = self._advice(plan)
        return found

    def _add(self, record: Record) -> None:
        """Count one task."""
        found = self.output
        found.tasks += 1
        plan = default_plan(
            record.task, record.use_case, allowed=configured_use_cases(self.config), system=record.system
        )
        if record.output is not None:
            plan = typed_plan(plan)
        found.use_cases[plan.use_case] += 1
        if record.id in self.facts.stored:
            found.stored += 1
            return
        if record.digest in self.seen:
            found.copies += 1
            return
        self.seen.add(record.digest)
        self.unclear = self.unclear or is_unclear(record.task, record.use_case)
        chosen = self._route(plan.use_case)
        request = ChatRequest(
            (Message("user", record.task),),
            system=record.system,
            max_output_tokens=self.orchestrator.max_output_tokens,
            json_schema=None if record.output is None else record.output.request_schema,
        )
        schema = "" if record.output is None else record.output.digest
        read = (
            round((len(record.task) + len(record.system or "") + len(schema)) / _CHARS_A_TOKEN) + _CHAT_TOKENS
        )
        wrote = self._output(plan, record)
        found.input_tokens += read
        found.output_tokens += wrote
        found.worst_usd += self._worst(request, plan, record)
        self.free_used.update(target.name for target in chosen.free)
        if len(self.sketches) < MOST_DRAWN:
            candidates = tuple(Candidate.of(target) for target in chosen.candidates)
            form = plan.answer_format
            sketch = Sketch(plan.use_case, form, is_long(record.task), candidates, read, wrote)
            self.sketches.append(sketch if record.output is None else _typed(sketch, record.output))

    def _route(self, use_case: str) -> Route:
        if use_case not in self.routes:
            blocked = dict.fromkeys(self.facts.unreachable, "no key")
            self.routes[use_case] = route(self.config, self.targets, use_case, blocked=blocked)
        return self.routes[use_case]

    def _forecast(self, policy: Policy, risk: RiskState, runs: int | None = None) -> Forecast:
        known = Known(
            risk,
            self.facts.savings,
            self.config.learning_credit,
            LengthRatios(self.facts.lengths),
            self.facts.unreachable,
        )
        return forecast(
            self.sketches,
            policy,
            Candidate.of(self.orchestrator),
            known,
            total=self.output.to_do,
            concurrency=self.concurrency,
            **({} if runs is None else {"runs": runs}),
        )

    def _advice(self, plan: Decimal) -> tuple[Advice, ...]:
        """What would make the job cheaper or better, each with its figure; the cheapest first."""
        found, policy = self.output, Policy.of(self.config)
        if not self.sketches or not self.paid_possible:
            return ()
        advice = []
        if self.unclear:
            advice.append(
                Advice("name the use_case of each task: no plan is needed", found.expected_usd - plan)
            )
        variants = {
            f"quality_threshold: {threshold:g} (what was learned at {policy.threshold:g} does not count)": replace(
                policy, threshold=threshold
            )
            for threshold in _THRESHOLDS
            if threshold != policy.threshold and policy.mode == "adaptive"
        }
        if policy.mode != "never":
            variants["validation.mode: never (local checks only)"] = replace(policy, mode="never")
        if policy.mode == "always":
            variants["validation.mode: adaptive"] = replace(policy, mode="adaptive")
        for change, other in variants.items():
            advice.append(Advice(change, self._forecast(other, RiskState(), _VARIANT_RUNS).expected + plan))
        return tuple(sorted(advice, key=lambda one: one.expected_usd))

    def _say_source(self) -> None:
        mode = self.config.validation.mode
        if not self.output.to_do:
            self.output.paid_source = "every task was done before; nothing is asked"
        elif not self.config.enabled or mode == "always":
            self.output.paid_source = "the configuration asks the paid model about every such task"
        elif not self.free_used:
            self.output.paid_source = "no free model serves these tasks"
        elif mode == "never":
            self.output.paid_source = "validation.mode never: only when every free model fails"
        else:
            strata = [s for use_case in self.output.use_cases for _, s in self.facts.risk.of(use_case)]
            seen = sum(s.labelled + s.compared for s in strata)
            if seen:
                bad = sum(s.rejected + s.worse for s in strata)
                self.output.paid_source = (
                    f"{bad} rejections in {seen} recorded outcomes, which falls as trust grows"
                )

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

    def _plan_cost(self) -> Decimal:
        """What one plan for the whole job costs: the caller's choice, or paid from savings when tasks are unclear."""
        if not self.config.enabled or not self.paid_possible or not self.sketches:
            return Decimal(0)
        cost = self._price(*_PLAN_TOKENS)
        wanted = self.config.planning == "auto" and self.unclear and self.facts.savings >= 4 * cost
        wanted = wanted and orchestrator_plans_job(self.config.planning, self.output.to_do)
        return cost if wanted or self.config.planning == "always" else Decimal(0)

    def _measured(self) -> dict[str | None, float]:
        """Mean output tokens of recorded answers, by use case; under None those of all."""
        sums: dict[str | None, tuple[int, int]] = {}
        for row in self.facts.rows:
            if row.role == "execute" and row.outcome == "ok":
                for key in {row.use_case, None}:
                    calls, tokens = sums.get(key, (0, 0))
                    sums[key] = (calls + row.calls, tokens + row.output_tokens)
        enough = {key: tokens / calls for key, (calls, tokens) in sums.items() if calls >= _ENOUGH_CALLS}
        if enough:
            self.output.output_source = f"the mean of {sums[None][0]} recorded answers"
        return enough

    def _output(self, plan: TaskPlan, record: Record) -> int:
        """Output tokens of an answer: measured in its use case, else by its fields, else as the task asks for."""
        known = self.measured.get(plan.use_case)
        if known is not None:
            return max(1, round(known))
        fields = [] if record.output is None else field_paths(record.output.schema)
        if fields:
            return _FIELD_TOKENS * len(fields)
        return output_prior(record.task, plan.answer_format)

    def _time(self, now: float) -> Plan:
        found = self.output
        calls = math.ceil(found.free_calls)
        free = {n: self.targets[n].limits for n in self.targets if n in self.free_used}
        latency = self.facts.latency_s or _LATENCY_S
        if not calls:
            return Plan(found.to_do * latency / self.concurrency, None, {})
        return time_needed(
            calls,
            (found.input_tokens + found.output_tokens) / found.to_do,
            free,
            now,
            windows=self.facts.windows,
            blocked_until=self.facts.blocked_until,
            latency_s=latency * (1 + found.paid_tasks / calls),
            concurrency=self.concurrency,
        )


@dataclass(frozen=True, slots=True)
class _Task:
    task: str
    plan: TaskPlan | None
    output: OutputType | None = None
