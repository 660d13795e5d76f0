"""How far a job is: counts, rate, money, time left, by model. Pure but for the clock that is handed in."""

from __future__ import annotations

import math
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal

from tta_dev_primitives.blocks.quotas.time_needed import time_needed
from tta_dev_primitives.blocks.quotas.windows import limited
from tta_dev_primitives.config.errors import MissingKeyError
from tta_dev_primitives.config.models.targets import Target
from tta_dev_primitives.config.reading.api_keys import key_id
from tta_dev_primitives.flows.bulk.quota_wait import span_text
from tta_dev_primitives.flows.calling.services import Services
from tta_dev_primitives.flows.tasks.result import NO_PAID_CALL, OrchestrationResult, Usd

_WINDOW = 200
_MOST_PATH = 120


MOST_LISTED = 100
"""Lines of each kind that a report holds."""


@dataclass(frozen=True, slots=True)
class LineReport:
    """A line that was not run or has no answer, and why."""

    line: int
    reason: str
    id: str | None = None


@dataclass(slots=True)
class ModelLine:
    """What one model did for the job."""

    calls: int = 0
    failed: int = 0
    answers: int = 0
    tokens: int = 0
    cost_usd: Usd = Decimal(0)


@dataclass(slots=True)
class Progress:
    """The counts of one run of a job."""

    total: int | None = None
    """Tasks that this run has to do; None when the source does not say."""
    skipped: int = 0
    """Done by an earlier run."""
    done: int = 0
    accepted: int = 0
    reused: int = 0
    """Answered from the answer store, or with another task's answer."""
    unpaid: int = 0
    """Delivered without the paid call that they needed."""
    failed: int = 0
    postponed: int = 0
    broken: int = 0
    duplicates: int = 0
    cost_usd: Decimal = Decimal(0)
    baseline_usd: Decimal = Decimal(0)
    most_usd: Decimal | None = None
    """What the run may cost at most: the job's ceiling or what is left of the month, USD; None: no limit."""
    models: dict[str, ModelLine] = field(default_factory=dict)
    errors: Counter[str] = field(default_factory=Counter)
    """Failed tasks by the class of their error."""
    fields: dict[str, Counter[str]] = field(default_factory=dict)
    """Of typed tasks: each field's agreed, disputed, corrected and unchecked values."""
    waiting_until: float | None = None
    """Epoch seconds until which the job waits for free quota now."""
    quota_eta_s: float | None = None
    """Seconds that the quotas need for the rest, when they bind."""
    under_way: Callable[[], int] = int
    """How many calls are open: what they need of a quota is taken already."""
    batches: Callable[[], str | None] = lambda: None
    """How the batches at the providers are."""
    clock: Callable[[], float] = time.time
    _started: float = 0.0
    _ends: deque[float] = field(default_factory=lambda: deque(maxlen=_WINDOW))

    def start(self) -> None:
        """The run begins now."""
        self._started = self.clock()

    def add(self, result: OrchestrationResult, error_class: str | None) -> None:
        """Count one ended task."""
        self._ends.append(self.clock())
        if error_class is None:
            self.done += 1
            self.accepted += result.accepted
            self.reused += result.reused
            self.unpaid += NO_PAID_CALL in result.warnings
            self.model(result.model).answers += 1
            self._count_fields(result)
        else:
            self.failed += 1
            self.errors[error_class] += 1
        self.cost_usd += result.cost_usd
        if not result.reused:  # the same task was paid, and compared, before
            self.baseline_usd += result.baseline_cost_usd
        for attempt in result.attempts:
            if attempt.outcome == "budget":
                continue  # refused before it was sent
            line = self.model(attempt.model)
            line.calls += not attempt.reused
            line.failed += attempt.outcome != "ok"
            line.tokens += 0 if attempt.reused else attempt.input_tokens + attempt.output_tokens
            line.cost_usd += attempt.cost_usd

    def _count_fields(self, result: OrchestrationResult) -> None:
        solved = any(
            a.role == "execute" and a.billing == "paid" and a.outcome == "ok" for a in result.attempts
        )
        for path, status in result.fields.items():
            seen = self.fields.setdefault(path[:_MOST_PATH], Counter())
            seen[status] += 1
            seen["corrected"] += solved and status == "disputed"

    def model(self, name: str) -> ModelLine:
        """The line of one model."""
        return self.models.setdefault(name, ModelLine())

    @property
    def ended(self) -> int:
        """Tasks that have ended in this run, well or not."""
        return self.done + self.failed

    @property
    def left(self) -> int | None:
        """Tasks still to do."""
        return None if self.total is None else max(0, self.total - self.ended)

    @property
    def elapsed_s(self) -> float:
        """Seconds since the start."""
        return max(0.0, self.clock() - self._started)

    @property
    def rate(self) -> float:
        """Tasks a second, over the last ones."""
        span = self.clock() - (self._ends[0] if len(self._ends) == _WINDOW else self._started)
        return len(self._ends) / span if span > 0 else 0.0

    @property
    def eta_s(self) -> float | None:
        """Seconds until the job is done: by its pace, or by the quotas when they need longer; None when unknown."""
        if self.left is None or not self._ends:
            return None
        if self.quota_eta_s is not None:
            return self.quota_eta_s
        return self.left / self.rate if self.rate else math.inf

    @property
    def savings_ratio(self) -> float:
        """1 - cost / baseline of what this run did."""
        return float(1 - self.cost_usd / self.baseline_usd) if self.baseline_usd else 0.0

    @property
    def paid_rest_usd(self) -> Decimal | None:
        """What the tasks that are left cost by the paid model alone, as those before them; None when unknown."""
        if not self.left or not self.done or not self.baseline_usd:
            return None
        return self.left * self.baseline_usd / self.done

    @property
    def percent(self) -> float:
        """Share of the whole job that has ended, 0..100."""
        whole = self.skipped + (self.total if self.total is not None else self.ended)
        return 100.0 * (self.skipped + self.ended) / whole if whole else 0.0

    def line(self) -> str:
        """One plain line for logs and the progress artifact."""
        whole = "?" if self.total is None else str(self.skipped + self.total)
        parts = [
            f"{self.skipped + self.done}/{whole} done",
            f"{self.failed} failed",
            *([f"{self.rate:.1f}/s"] if self.ended else []),
            f"cost ${self.cost_usd:.4f}" + ("" if self.most_usd is None else f" of ${self.most_usd:.2f}"),
            *([f"saved {self.savings_ratio:.0%}"] if self.baseline_usd else []),
        ]
        if self.eta_s is not None and self.left:
            parts.append(f"{span_text(self.eta_s)} left")
        if self.waiting_until is not None:
            until = datetime.fromtimestamp(self.waiting_until).astimezone()
            span = span_text(max(0.0, self.waiting_until - self.clock()))
            now = "" if self.paid_rest_usd is None else f" (paid now: about ${self.paid_rest_usd:.4f})"
            parts.append(f"waiting {span} for free quota, until {until:%H:%M:%S}{now}")
        batches = self.batches()
        return " · ".join([*parts, batches] if batches else parts)


_ENOUGH = 5
"""Ended tasks from which calls and tokens a task are known well enough."""


async def quota_eta(services: Services, progress: Progress, now: float | None = None) -> float | None:
    """Seconds that the free quotas need for the rest of the job; None when they do not bind."""
    free = {name: target for name, target in services.targets.items() if target.billing == "free"}
    if progress.left is None or progress.ended < _ENOUGH:
        return None
    # Limits that stand nowhere show by a wait; from then on what was learned of them counts.
    waits = progress.waiting_until is not None or progress.quota_eta_s is not None
    if not waits and not all(limited(target.limits) for target in free.values()):
        return None
    used = {name: progress.models[name] for name in free if name in progress.models}
    calls = sum(line.calls for line in used.values())
    if not calls:
        return None
    keyed = await _keyed(services, free)
    if not keyed:
        return None
    at = time.time() if now is None else now
    books = await services.quota.snapshot(list(keyed.values()))
    if not all(limited(free[name].limits) or book.learned for name, book in zip(keyed, books, strict=True)):
        return None
    blocked = await services.availability.blocked(list(keyed.values()))
    to_send = math.ceil(progress.left * calls / progress.ended) - progress.under_way()
    if to_send <= 0:
        return None if progress.quota_eta_s is None else 0.0
    plan = time_needed(
        to_send,
        sum(line.tokens for line in used.values()) / calls,
        {name: free[name].limits for name in keyed},
        at,
        windows=dict(zip(keyed, books, strict=True)),
        blocked_until={name: blocked[free[name].key].until for name in keyed if free[name].key in blocked},
    )
    return plan.seconds if plan.binding is not None else None


async def _keyed(services: Services, targets: dict[str, Target]) -> dict[str, tuple[Target, str]]:
    found: dict[str, tuple[Target, str]] = {}
    for name, target in targets.items():
        try:
            found[name] = (target, key_id(await services.keys.key_of(target)))
        except MissingKeyError:
            continue
    return found
