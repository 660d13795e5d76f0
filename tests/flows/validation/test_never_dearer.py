"""The promise: at every moment, the ended tasks of a month cost together at most what the orchestrator alone would.

The real ledger keeps the money; the product's own functions say what pays for a call, what a task would have cost, and
what it earns. Tasks interleave, calls fail and processes die, usage is missing, prices change, months end.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Coroutine
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Any, TypeVar

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule
from ledger_tools import Clock

from tta_dev_primitives.blocks.ledger.ledger import Ledger
from tta_dev_primitives.blocks.ledger.months import month_begin
from tta_dev_primitives.blocks.ledger.task_records import TaskRecord, record_results
from tta_dev_primitives.blocks.ledger.types import CallInfo
from tta_dev_primitives.config import OrchestrationConfig
from tta_dev_primitives.config.errors import SavingsShortError
from tta_dev_primitives.config.models.targets import Price, Target, Usage
from tta_dev_primitives.flows.tasks.result import Attempt, Role
from tta_dev_primitives.flows.tasks.savings import baseline, earned, own_answers_cost, paid_from
from tta_dev_primitives.flows.validation.opinion_costs import LengthRatios

T = TypeVar("T")
CALLS = st.tuples(
    st.sampled_from(["free", "own", "verdict", "verdict", "plan", "cheap", "compare"]),
    st.integers(1, 3000),
    st.integers(1, 2000),
    st.sampled_from(["ok"] * 8 + ["failed", "no usage", "killed", "released"]),
)
"""Who is asked for what, tokens read and written, and how it ends."""
PAIRS = st.tuples(st.integers(1, 4000), st.integers(1, 4000))
DAYS = st.sampled_from([0.01, 0.01, 0.01, 1, 20])
CONFIG = OrchestrationConfig()
LIMIT = Decimal(1000)


def target(name: str, billing: Any, read: str, wrote: str) -> Target:
    return Target(name, "p", name, billing, "K", name, Price(Decimal(read), Decimal(wrote)))


CLAUDE = target("claude", "paid", "3", "15")
CHEAP = target("cheap", "paid", "0.3", "1.5")
FREE = target("free", "free", "1", "4")


@dataclass(eq=False)
class Task:
    number: int
    orchestrator: Target
    attempts: list[Attempt] = field(default_factory=list)
    ended: bool = False


class Month(RuleBasedStateMachine):
    """Tasks under way, their calls in any order, and the books that are compared after each step."""

    tasks = Bundle("tasks")

    @initialize(credit=st.sampled_from(["0", "0.05"]))
    def open(self, credit: str) -> None:
        self.credit = Decimal(credit)
        self.folder = tempfile.mkdtemp(prefix="tta-never-dearer-")
        self.clock, self.loop = Clock(), asyncio.new_event_loop()
        self.ledger = Ledger.open(f"sqlite:///{self.folder}/ledger.db", clock=self.clock)
        self.orchestrator, self.ratios, self.started = CLAUDE, LengthRatios(), 0
        self.books: dict[str, tuple[Decimal, Decimal]] = {}

    def teardown(self) -> None:
        if hasattr(self, "loop"):
            self.run(self.ledger.database.aclose())
            self.loop.close()
            shutil.rmtree(self.folder)

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(work)

    @rule(target=tasks)
    def begin(self) -> Task:
        self.started += 1
        return Task(self.started, self.orchestrator)

    @rule(task=tasks, calls=st.lists(CALLS, min_size=1, max_size=5))
    def some_calls(self, task: Task, calls: list[tuple[str, int, int, str]]) -> None:
        for what, read, wrote, how in calls:
            if not task.ended:
                self.call(task, what, read, wrote, how)

    def call(self, task: Task, what: str, read: int, wrote: int, how: str) -> None:
        own = task.orchestrator
        model, role = {
            "free": (FREE, "execute"), "own": (own, "execute"), "verdict": (own, "validate"),
            "plan": (own, "plan"), "cheap": (CHEAP, "execute"), "compare": (CHEAP, "validate"),
        }[what]  # fmt: skip
        if what == "own" and any(a.model == own.name and a.role == "execute" for a in task.attempts):
            return  # the state machine asks for one answer of the orchestrator
        if model.billing == "free":
            task.attempts.append(self.attempt(model, role, read, wrote, Decimal(0)))
        else:
            self.pay(task, model, role, (read, wrote), how)

    def pay(self, task: Task, model: Target, role: Any, tokens: tuple[int, int], how: str) -> None:
        assert model.price is not None
        read, wrote = tokens
        pays = paid_from(role, model, task.orchestrator, CONFIG)
        cost, bound = model.price.cost(Usage(read, output_tokens=wrote)), model.price.most(2 * read, wrote)
        info = CallInfo(
            provider="p", model=model.name, role=role, deadline_s=30,
            extra=None if pays == "baseline" else pays,  # type: ignore[arg-type]
            credit=self.credit if pays == "credit" else Decimal(0),
        )  # fmt: skip
        try:
            hold = self.run(self.ledger.reserve(info, bound, LIMIT))
        except SavingsShortError:
            return
        if how == "killed":
            task.ended = True
        elif how == "released":
            self.run(self.ledger.release(hold, "no connection"))
        elif how == "ok":
            self.run(self.ledger.settle(hold, cost))
            task.attempts.append(self.attempt(model, role, read, wrote, cost))
        else:
            self.run(self.ledger.charge_at_bound(hold, "unknown"))
            missing = self.attempt(model, role, 0, 0, bound)
            failed = missing.model_copy(update={"outcome": "timeout"})
            task.attempts.append(missing if how == "no usage" else failed)

    def attempt(self, model: Target, role: Role, read: int, wrote: int, cost: Decimal) -> Attempt:
        return Attempt(
            role=role, model=model.name, provider="p", outcome="ok", input_tokens=read, output_tokens=wrote,
            cost_usd=cost, billing=model.billing, started_at=self.clock.now,
        )  # fmt: skip

    @rule(task=tasks, data=st.data())
    def end(self, task: Task, data: st.DataObject) -> None:
        if task.ended:
            return
        task.ended = True
        own, month = task.orchestrator, self.run(self.ledger.balance()).month
        answered = sorted({a.model for a in task.attempts if a.role == "execute" and a.outcome == "ok"})
        cost = sum((a.cost_usd for a in task.attempts), Decimal(0))
        models = {m.name: m for m in (own, CHEAP, FREE)}
        if answered:
            by = data.draw(st.sampled_from(answered))
            alone = baseline(task.attempts, by, own.name, own.price, self.ratios)
            gain = earned(
                task.attempts, alone, by, lambda a: paid_from(a.role, models[a.model], own, CONFIG),
                since=month_begin(month),
            )  # fmt: skip
        else:
            alone, gain = own_answers_cost(task.attempts, own.name), Decimal(0)
        record = TaskRecord(
            flow_run_id="f",
            item_id=str(task.number),
            use_case="simple",
            cost=cost,
            baseline=alone,
            earned=gain,
        )
        self.run(record_results(self.ledger, month, [record]))
        # Outside the promise: failed calls, and models that cost no less than the orchestrator.
        outside = Decimal(0)
        for a in task.attempts:
            pays = paid_from(a.role, models[a.model], own, CONFIG)
            if pays == "choice" or (pays == "baseline" and a.outcome != "ok"):
                outside += a.cost_usd
        spent, saved_on = self.books.get(month, (Decimal(0), Decimal(0)))
        self.books[month] = (spent + cost - outside, saved_on + alone)

    @rule(factor=st.sampled_from(["0.1", "1", "1", "2", "7"]), pairs=st.lists(PAIRS, max_size=2), days=DAYS)
    def the_world_changes(self, factor: str, pairs: list[tuple[int, int]], days: float) -> None:
        price = Price(Decimal(3) * Decimal(factor), Decimal(15) * Decimal(factor))
        # Tasks that are under way keep the price with which they began, as a run keeps its settings.
        self.orchestrator = replace(CLAUDE, price=price)
        for delivered, own in pairs:
            self.ratios = self.ratios.with_pair(delivered, own)
        self.clock.now += days * 86_400
        self.run(self.ledger.sweep())

    @invariant()
    def never_dearer(self) -> None:
        for month, (cost, alone) in getattr(self, "books", {}).items():
            assert cost <= alone + self.credit, month

    @invariant()
    def the_books_agree(self) -> None:
        if hasattr(self, "ledger"):
            assert self.run(self.ledger.verify()) == []


Month.TestCase.settings = settings(
    max_examples=60, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)
test_at_every_moment_ended_tasks_cost_no_more_than_the_orchestrator_alone = Month.TestCase


def test_a_verbose_free_model_mints_no_savings() -> None:
    """It writes 2,000 tokens where the orchestrator writes 200: after the first pairs that is what counts."""
    attempts = [
        Attempt(
            role="execute", model="free", provider="p", outcome="ok", input_tokens=100, output_tokens=2000
        )
    ]
    ratios = LengthRatios()
    first = baseline(attempts, "free", "claude", CLAUDE.price, ratios)
    for _ in range(20):
        ratios = ratios.with_pair(2000, 200)
    later = baseline(attempts, "free", "claude", CLAUDE.price, ratios)
    assert first == Decimal("0.0303")
    assert later <= Decimal("0.0303") / 8
    assert ratios.lower(50) == 1.0  # another length class


def test_the_orchestrators_answer_without_usage_is_its_own_baseline() -> None:
    """Charged at its bound; the orchestrator alone would have been charged the same, so nothing is lost or won."""
    attempts = [
        Attempt(role="execute", model="free", provider="p", outcome="ok", input_tokens=9, output_tokens=900),
        Attempt(role="execute", model="claude", provider="p", outcome="ok", cost_usd=Decimal("0.03")),
    ]
    alone = baseline(attempts, "claude", "claude", CLAUDE.price)
    assert alone == Decimal("0.03")
    models = {"free": FREE, "claude": CLAUDE}
    gain = earned(
        attempts, alone, "claude", lambda a: paid_from(a.role, models[a.model], CLAUDE, CONFIG), since=0.0
    )
    assert gain == 0
