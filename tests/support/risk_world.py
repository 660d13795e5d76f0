"""A world of tasks whose answers fail at known rates, driven through the product's own rulings at any concurrency.

world = World(RiskPolicy(0.15, "strict"), seed=1)
world.run([Task("simple", 0.1)] * 400, concurrency=50, slow_rejections=30)
world.over        # tasks after which more deliveries were expected to be rejected than the budget allows
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace

from tta_dev_primitives.flows.validation.evidence import Evidence
from tta_dev_primitives.flows.validation.risk import compared, delivered, judged, unlabelled
from tta_dev_primitives.flows.validation.risk_state import Label, RiskPolicy, RiskState, Ruling
from tta_dev_primitives.flows.validation.rulings import TaskRow, learn_once, observe_once, rule_once

__all__ = ["Task", "World", "learn"]

_VERDICT, _VERDICT_HELD = 1.4, 6.0
"""What a verdict costs, and what must have been saved before it is asked for, in paid answers of 40 tokens."""


def learn(state: RiskState, label: Label, policy: RiskPolicy) -> tuple[RiskState, bool]:
    """Record a label and the end of its task, as if it were new; True when rejections raised a drift alarm."""
    ruling, alarm = label.ruling, False
    if ruling is not None and label.passed is not None:
        if label.proxy:
            state = compared(state, ruling, failed=not label.passed, policy=policy)
        else:
            state, alarm = judged(state, ruling, policy, failed=not label.passed)
    if label.ended:
        if ruling is not None and (label.passed is None or label.proxy):
            state, _ = unlabelled(state, label, ruling, policy)
        state = delivered(state, label) if label.accepted else state
    return state, alarm


@dataclass(frozen=True, slots=True)
class Task:
    """One task: how often such answers fail, and what speaks for them."""

    use_case: str
    rate: float
    signal: str = "agree2of2"
    models: tuple[str, ...] = ("a", "b")
    disagrees: float | None = None
    """How often the first two answers disagree; None: nothing is compared."""
    auditable: bool = True
    price_class: str = ""
    name: str = ""
    """Tasks of one name are the same task; empty: a task of its own."""
    strong: bool = True


@dataclass
class World:
    """One ledger, and what really happens."""

    policy: RiskPolicy
    seed: int
    comparer: tuple[float, float] | None = None
    """How often a comparison passes good and bad answers; None: every check is a verdict."""
    saved: float = 0.0
    """With comparisons: what deliveries without a check have saved, in paid answers."""
    kills: float = 0.0
    """How often a task is cut off after its ruling, and started again later."""
    abandons: float = 0.0
    """How often a task with a paid check is cut off and never started again."""
    state: RiskState = field(default_factory=RiskState)
    rows: dict[str, TaskRow] = field(default_factory=dict)
    delivered: list[tuple[str, float, bool]] = field(default_factory=list)
    """Use case, failure rate if not checked (else 0), and whether it was really wrong."""
    alarms: list[int] = field(default_factory=list)
    """Numbers of the tasks at which an alarm was raised."""
    rulings: list[Ruling] = field(default_factory=list)
    over: int = 0
    begun: int = 0

    def __post_init__(self) -> None:
        self.rng, self.secret = random.Random(self.seed), f"secret-{self.seed}"
        self._expected: dict[str, float] = {}
        self._count: dict[str, int] = {}

    def run(
        self,
        tasks: Iterable[Task],
        *,
        concurrency: int = 1,
        slow_rejections: float = 1.0,
        in_order: bool = True,
    ) -> World:
        """Start tasks in order, so many at once; a rejecting check takes `slow_rejections` times an accepting one."""
        source, clock, order = iter(tasks), 0.0, 0
        ends: list[tuple[float, int, Iterator[float]]] = []
        while True:
            while len(ends) < concurrency and (task := next(source, None)) is not None:
                order += 1
                heapq.heappush(ends, (clock, order, self._life(task, slow_rejections, in_order)))
            if not ends:
                return self
            clock, number, life = heapq.heappop(ends)
            wait = next(life, None)
            if wait is not None:
                heapq.heappush(ends, (clock + wait, number, life))

    def _life(self, task: Task, slow: float, in_order: bool) -> Iterator[float]:
        """One task; it yields for how long it is busy."""
        self.begun += 1
        number = self.begun
        key = task.name or str(number)
        wrong = random.Random(f"{self.seed}|{key}").random() < task.rate
        evidence = Evidence(
            task.use_case, task.signal, models=task.models, strong=task.strong,
            auditable=task.auditable, price_class=task.price_class, checks_saved=self._checks_saved,
        )  # fmt: skip
        if not in_order:
            yield self.rng.expovariate(1.0)
        if task.disagrees is not None:
            seen = replace(evidence, pair=task.models[:2], disagreed=self.rng.random() < task.disagrees)
            alarm, self.state, self._rows_of(key)[key] = observe_once(
                self.state, self._rows_of(key)[key], seen, self.policy
            )
            self._alarm(alarm, number)
        while True:
            ruling, self.state, self.rows[key] = rule_once(
                self.state,
                self._rows_of(key)[key],
                key,
                evidence,
                self.policy,
                secret=self.secret,
                month="2026-11",
            )
            if self.rng.random() >= self.kills:
                break
            yield self.rng.expovariate(0.02)
        self.rulings.append(ruling)
        if ruling.action == "deliver":
            self.saved += 1.0
            self._learn(Label(ruling, None), key, number)
            self._deliver(task.use_case, task.rate if not ruling.resumed or self.kills else 0.0, wrong)
            return
        if not task.auditable:
            self._learn(Label(ruling, None, accepted=False), key, number)
            return
        if self.rng.random() < self.abandons:
            return
        verdict = self.comparer is None or (ruling.check > 0 and self._checks_saved)
        yield self.rng.uniform(0.5, 1.5) * (slow if wrong and verdict else 1.0)
        if verdict:
            self.saved -= _VERDICT
            self._learn(Label(ruling, not wrong, ended=False), key, number)
            yield 0.1
            self._learn(Label(ruling, not wrong), key, number)
        else:
            assert self.comparer is not None
            passed = self.rng.random() < self.comparer[wrong]
            self._learn(Label(ruling, passed, proxy=True, ended=False), key, number)
            self._learn(Label(ruling, None), key, number)
        self._deliver(task.use_case, 0.0, False)

    @property
    def _checks_saved(self) -> bool:
        return self.comparer is None or self.saved >= _VERDICT_HELD

    def _rows_of(self, key: str) -> dict[str, TaskRow]:
        self.rows.setdefault(key, TaskRow())
        return self.rows

    def _alarm(self, alarm: bool, number: int) -> None:
        if alarm:
            self.alarms.append(number)

    def _learn(self, label: Label, key: str, number: int) -> None:
        assert label.ruling is not None
        label = replace(label, task=key, use_case=label.ruling.evidence.use_case)
        alarm, self.state, self.rows[key] = learn_once(self.state, self.rows[key], label, self.policy)
        self._alarm(alarm, number)

    def _deliver(self, use_case: str, rate: float, wrong: bool) -> None:
        self.delivered.append((use_case, rate, wrong and rate > 0))
        self._expected[use_case] = self._expected.get(use_case, 0.0) + rate
        self._count[use_case] = self._count.get(use_case, 0) + 1
        if self._count[use_case] >= 100:
            self.over += self._expected[use_case] > self.policy.eps * self._count[use_case]

    def share(self, use_case: str | None = None, last: int | None = None) -> float:
        """The share of really wrong answers among (the last) deliveries (of a use case)."""
        found = [wrong for name, _, wrong in self.delivered if use_case in (None, name)][-(last or 10**9) :]
        return sum(found) / max(1, len(found))

    def worst_window(self, size: int = 500) -> float:
        """The largest share of really wrong answers in any window of deliveries."""
        total, worst = 0, 0.0
        for at, (_, _, wrong) in enumerate(self.delivered):
            total += wrong
            if at >= size:
                total -= self.delivered[at - size][2]
            if at >= size - 1:
                worst = max(worst, total / size)
        return worst

    @property
    def missed(self) -> int:
        """Wrong answers that were delivered without a check."""
        return sum(wrong for _, _, wrong in self.delivered)

    @property
    def unchecked(self) -> float:
        """The share of rulings that were to deliver."""
        return sum(ruling.action == "deliver" for ruling in self.rulings) / max(1, len(self.rulings))
