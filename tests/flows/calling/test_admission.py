"""Who may call now: how many calls are open, where free quota is, and what happens when it is gone."""

from __future__ import annotations

import asyncio
import math
from contextlib import suppress
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tta_dev_primitives.blocks.ledger.database.protocol import database_for
from tta_dev_primitives.blocks.quotas.quota import Slot
from tta_dev_primitives.blocks.wire.types import ChatRequest, Message
from tta_dev_primitives.config import OrchestrationConfig
from tta_dev_primitives.config.errors import BudgetExceededError
from tta_dev_primitives.config.models.targets import Billing, Limits, Target, Usage
from tta_dev_primitives.config.provider_errors import ErrorClass, ProviderError
from tta_dev_primitives.config.reading.api_keys import key_id
from tta_dev_primitives.flows.bulk.call_order import BulkAdmission
from tta_dev_primitives.flows.bulk.progress import ModelLine, Progress, quota_eta
from tta_dev_primitives.flows.calling.admission import Admission, PostponedError
from tta_dev_primitives.flows.calling.call import Call
from tta_dev_primitives.flows.calling.job_budget import JobBudget
from tta_dev_primitives.flows.calling.services import Services

A_KEY = "a-key-of-no-provider"
MIDDAY = 1_795_435_200.0


class Clock:
    """Time that passes only when somebody sleeps."""

    def __init__(self) -> None:
        self.now = MIDDAY

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.now += seconds
        await asyncio.sleep(0)


class World:
    """The services of a process, on a real database and a clock of our own."""

    def __init__(self, folder: Path) -> None:
        self.clock = Clock()
        database = database_for(f"sqlite:///{folder / 'ledger.db'}")
        services = Services.of(OrchestrationConfig(), database)
        self.services = services.at(self.clock, self.clock.sleep)

    def admission(self, places: int = 10, **options: float) -> BulkAdmission:
        return BulkAdmission(places, clock=self.clock, sleep=self.clock.sleep, **options)  # type: ignore[arg-type]


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setenv("KEY", A_KEY)
    return World(tmp_path)


def model(name: str, billing: Billing = "free", **limits: int) -> Target:
    return Target(
        name=name,
        provider="groq",
        api_model=name,
        billing=billing,
        api_key_env="KEY",
        family=name,
        price=None,
        limits=Limits(**limits),  # type: ignore[arg-type]
    )


def ask(target: Target) -> ChatRequest:
    return ChatRequest((Message("user", "hello"),), max_output_tokens=10)


async def until_closed(world: World, admission: Admission, *targets: Target) -> list[str | None]:
    """Pass again and again until the admission is closed; the models that would have been called."""
    names: list[str | None] = []
    while len(names) < 100:
        try:
            names.append(await through(world, admission, *targets))
        except PostponedError:
            break
    return names


async def through(world: World, admission: Admission, *targets: Target, may_spend: bool = True) -> str | None:
    """Pass once; the name of the model that would be called."""
    async with admission.enter(world.services, call_of(*targets, may_spend=may_spend)) as permit:
        return permit.target.name if permit is not None else None


def call_of(*targets: Target, may_spend: bool = False) -> Call:
    return Call(targets=targets, request_of=ask, role="execute", use_case="simple", may_spend=may_spend)


async def test_no_more_calls_are_open_than_there_are_places(world: World) -> None:
    """Only an open request counts; a few more calls prepare meanwhile, what follows a reply holds no permit."""
    admission, most, now, prepared = world.admission(8), 0, 0, 0

    async def one() -> None:
        nonlocal most, now, prepared
        async with admission.enter(world.services, call_of(model("a"))) as permit:
            assert permit is not None
            prepared = max(prepared, admission.under_way)
            async with permit.connection():
                now += 1
                most = max(most, now)
                await asyncio.sleep(0.002)
                now -= 1
            await asyncio.sleep(0.002)
            async with permit.connection():  # a second try
                now += 1
                most = max(most, now)
                await asyncio.sleep(0.002)
                now -= 1

    await asyncio.gather(*(one() for _ in range(30)))
    assert (most, now, admission.under_way) == (8, 0, 0)
    assert prepared > 8


async def test_work_goes_to_the_first_free_model_with_quota(world: World) -> None:
    """A model whose minute is full is passed over for the next free one, not waited for."""
    admission, one, two = world.admission(patience_s=math.inf), model("one", rpm=10), model("two", rpm=10)
    names = [await through(world, admission, one, two) for _ in range(12)]
    assert set(names) == {"one", "two"}
    assert world.clock.now == MIDDAY


async def test_it_waits_for_the_next_minute_while_patience_lasts(world: World) -> None:
    """A short wait is sat out in the process, and counts against the patience."""
    admission, only = world.admission(patience_s=math.inf), model("only", rpm=5)
    names = [await through(world, admission, only, may_spend=False) for _ in range(12)]
    assert names == ["only"] * 12
    assert 100 < world.clock.now - MIDDAY < 240
    assert admission.waited_s == pytest.approx(world.clock.now - MIDDAY)


async def test_without_patience_the_paid_model_serves_at_once(world: World) -> None:
    """Patience 0: what finds no free quota is paid for."""
    admission, free, paid = world.admission(patience_s=0), model("free", rpm=5), model("paid", "paid")
    names = [await through(world, admission, free, paid) for _ in range(8)]
    assert "paid" in names
    assert world.clock.now == MIDDAY


async def test_patience_used_up_is_not_renewed(world: World) -> None:
    """Once the job has waited for as long as it may, the rest is paid for."""
    admission, free, paid = world.admission(patience_s=70), model("free", rpm=5), model("paid", "paid")
    names = [await through(world, admission, free, paid) for _ in range(20)]
    assert names.count("paid") > 5
    assert admission.waited_s <= 70


async def test_a_wait_of_hours_closes_the_gate_until_then(world: World) -> None:
    """No process sleeps for hours: the job is told when the quota is back, and others stop as well."""
    admission, only = world.admission(patience_s=math.inf), model("only", rpd=4, rpm=100)
    assert len(await until_closed(world, admission, only)) <= 4
    assert admission.opens_at is not None
    assert admission.opens_at - MIDDAY > 3600
    with pytest.raises(PostponedError):
        await through(world, admission, model("another"))


async def test_a_paid_model_is_never_taken_for_want_of_quota_when_patience_is_endless(world: World) -> None:
    """Patience without end: the job sleeps rather than spend."""
    admission, free, paid = (
        world.admission(patience_s=math.inf),
        model("free", rpd=2, rpm=50),
        model("paid", "paid"),
    )
    assert set(await until_closed(world, admission, free, paid)) == {"free"}


async def test_nothing_starts_after_the_deadline(world: World) -> None:
    """`until` closes the admission."""
    admission = world.admission(until=MIDDAY + 10)
    assert await through(world, admission, model("a")) == "a"
    world.clock.now += 11
    with pytest.raises(PostponedError, match="deadline"):
        await through(world, admission, model("a"))


async def test_closing_the_gate_wakes_those_who_wait(world: World) -> None:
    """An interrupted job does not sit out a quota wait."""
    asleep = asyncio.Semaphore(0)

    async def never(_: float) -> None:
        asleep.release()
        await asyncio.Event().wait()

    admission = BulkAdmission(10, patience_s=math.inf, in_process_s=math.inf, clock=world.clock, sleep=never)
    only = model("only", rpm=1)
    await through(world, admission, only)
    waiting = [asyncio.create_task(through(world, admission, only)) for _ in range(5)]
    await asleep.acquire()  # one waits for the time, the others for their turn
    admission.close("interrupted")
    ended = await asyncio.gather(*waiting, return_exceptions=True)
    assert all(isinstance(one, PostponedError) for one in ended)


async def test_a_model_that_its_provider_closed_is_waited_for_too(world: World) -> None:
    """A provider's own refusal counts like our own scheduler's: the admission looks at what is out."""
    admission, only = world.admission(patience_s=math.inf), model("only")
    assert await through(world, admission, only) == "only"
    error = ProviderError(
        "slow down",
        provider="groq",
        model="only",
        error_class=ErrorClass.RATE_LIMIT,
        status=429,
        retry_after_s=20.0,
        wait_s=20.0,
        reset_at=MIDDAY + 20,
    )
    assert admission.comes_back(only, error, 0)
    await world.services.availability.record_failure(only, key_id(A_KEY), error)
    assert await through(world, admission, only, may_spend=False) == "only"
    assert world.clock.now >= MIDDAY + 4


@settings(max_examples=60, deadline=None)
@given(
    limit=st.integers(0, 50),
    calls=st.lists(st.tuples(st.integers(1, 12), st.integers(0, 12)), min_size=1, max_size=30),
)
def test_a_job_never_spends_more_than_its_ceiling(limit: int, calls: list[tuple[int, int]]) -> None:
    """Under any interleaving: spent and held together stay within the ceiling, and holds end once."""

    async def scenario() -> Decimal:
        budget = JobBudget(Decimal(limit))

        async def call(bound: int, cost: int) -> None:
            with suppress(BudgetExceededError):
                await budget.hold(Decimal(bound))
                assert budget.spent + budget.held <= limit
                await asyncio.sleep(0)
                budget.settle(Decimal(bound), Decimal(min(bound, cost)))

        await asyncio.gather(*(call(*one) for one in calls))
        assert budget.held == 0
        return budget.spent

    assert asyncio.run(scenario()) <= limit


async def test_a_limit_that_nobody_wrote_down_counts_in_the_time_left_once_the_job_waits_for_it(
    world: World,
) -> None:
    """Ten requests a minute, learned from a reply: fifty more tasks take about five minutes, not what the pace says."""
    target = replace(model("a"), provider="openrouter")
    services = replace(world.services, targets={"a": target})
    key = key_id(await services.keys.key_of(target))
    slot = await services.quota.acquire(target, key, 10, priority="bulk")
    assert isinstance(slot, Slot)
    reset = str(int(1000 * (world.clock.now + 30)))
    headers = {"x-ratelimit-limit": "10", "x-ratelimit-remaining": "0", "x-ratelimit-reset": reset}
    await services.quota.done(slot, Usage(input_tokens=5, output_tokens=5), headers)
    progress = Progress(total=60, done=10, models={"a": ModelLine(calls=10, answers=10, tokens=100)})
    assert await quota_eta(services, progress, world.clock.now) is None
    progress.waiting_until = world.clock.now + 30
    progress.quota_eta_s = await quota_eta(services, progress, world.clock.now)
    assert progress.quota_eta_s == pytest.approx(300, rel=0.2)
    progress.waiting_until = None
    assert await quota_eta(services, progress, world.clock.now) == progress.quota_eta_s
    # Of the fifty, ten are on their way: their minute is paid for.
    progress.under_way = lambda: 10
    assert await quota_eta(services, progress, world.clock.now) == pytest.approx(240, rel=0.2)
    progress.under_way = lambda: 50
    assert await quota_eta(services, progress, world.clock.now) == 0.0
