"""Quotas in the ledger's database: shared by processes, kept over restarts, no work where no limit is known."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from provider_model import VirtualClock, target_of

from tta_dev_primitives.blocks.ledger.database.protocol import Database, Work, database_for
from tta_dev_primitives.blocks.quotas.quota import Quota, Slot, Wait, scope_of
from tta_dev_primitives.config.models.targets import Limits, Usage
from tta_dev_primitives.config.provider_errors import ErrorClass, ProviderError

START = datetime(2026, 11, 22, 12, 0, tzinfo=UTC).timestamp()
UNLIMITED = target_of("local", "openai-compatible", Limits())

RACER = """
import asyncio, json, sys
from tta_dev_primitives.blocks.ledger.database.protocol import database_for
from tta_dev_primitives.blocks.quotas.quota import Quota, Slot
from tta_dev_primitives.config.models.targets import Limits, Target
assert "prefect" not in sys.modules
target = Target("m", "groq", "m", "free", "K", "any", None, limits=Limits(rpd=150, rpm=120))
async def main():
    database = database_for(sys.argv[1])
    quota, got = Quota(database), 0
    while True:
        batch = await asyncio.gather(*(quota.acquire(target, "key", 1) for _ in range(3)))
        slots = [s for s in batch if isinstance(s, Slot)]
        got += len(slots)
        if not slots:
            break
    await database.aclose()
    print(json.dumps(got))
asyncio.run(main())
"""


class CountingDatabase:
    """A database that counts how often it is used."""

    def __init__(self, inner: Database) -> None:
        self.inner, self.uses = inner, 0

    async def transact(self, work: Work[Any], **options: Any) -> Any:
        self.uses += 1
        return await self.inner.transact(work, **options)

    async def read(self, work: Work[Any]) -> Any:
        self.uses += 1
        return await self.inner.read(work)


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'ledger.db'}"


@pytest.fixture
async def database(url: str) -> Any:
    opened = database_for(url)
    yield opened
    await opened.aclose()


def race(url: str) -> list[int]:
    """Three processes ask as fast as they can; what each was granted."""
    racers = [subprocess.Popen([sys.executable, "-c", RACER, url], stdout=subprocess.PIPE) for _ in range(3)]
    outputs = [racer.communicate(timeout=110)[0] for racer in racers]
    assert [racer.returncode for racer in racers] == [0, 0, 0]
    return [json.loads(out) for out in outputs]


@pytest.mark.server
def test_racing_processes_share_one_limit_to_the_last_request(url: str) -> None:
    """Three processes on one SQLite file are granted 120 requests of a minute together, not 121."""
    assert sum(race(url)) == 120


def test_racing_processes_share_one_limit_on_postgresql(postgres_url: str) -> None:
    """The same on PostgreSQL."""
    assert sum(race(postgres_url)) == 120


async def test_a_restart_forgets_nothing(database: Database) -> None:
    """What one scheduler granted binds the next one over the same database."""
    clock = VirtualClock(START)
    target = target_of("m", "groq", Limits(rpm=3))
    quota = Quota(database, clock=clock)
    first = [await quota.acquire(target, "k", 1) for _ in range(5)]
    assert [isinstance(got, Slot) for got in first] == [True, True, True, False, False]
    wait = await Quota(database, clock=clock).acquire(target, "k", 1)
    assert isinstance(wait, Wait)
    assert wait.limit == "rpm"
    assert 60 < wait.seconds < 62


async def test_acquire_waits_as_long_as_it_may_and_no_longer(database: Database) -> None:
    """A wait of a minute is sat out when two are allowed, and named at once when half a minute is."""
    clock = VirtualClock(START)
    quota = Quota(database, clock=clock, sleep=clock.sleep)
    target = target_of("m", "groq", Limits(rpm=1))
    assert isinstance(await quota.acquire(target, "k", 1), Slot)
    assert isinstance(await quota.acquire(target, "k", 1, max_wait_s=30), Wait)
    assert clock.now == START
    assert isinstance(await quota.acquire(target, "k", 1, max_wait_s=120), Slot)
    assert 60 < clock.now - START < 62


async def test_without_any_limit_a_thousand_slots_cost_one_look_at_the_database(url: str) -> None:
    """1,000 requests to a model without limits, and their replies, use the database once."""
    counting = CountingDatabase(database_for(url))
    quota = Quota(counting, clock=VirtualClock(START))  # type: ignore[arg-type]
    for _ in range(1000):
        slot = await quota.acquire(UNLIMITED, "k", 500, priority="bulk")
        assert isinstance(slot, Slot)
        await quota.done(slot, Usage(10, output_tokens=5), {"date": "Sun, 22 Nov 2026 12:00:00 GMT"})
    assert counting.uses == 1
    await counting.inner.aclose()


async def test_a_limit_that_nobody_wrote_down_is_learned_from_the_first_reply(database: Database) -> None:
    """Groq's headers name the day's requests and the minute's tokens; from then on they hold."""
    clock = VirtualClock(START)
    quota, target = Quota(database, clock=clock), target_of("m", "groq", Limits())
    slot = await quota.acquire(target, "k", 1000)
    assert isinstance(slot, Slot)
    headers = {
        "x-ratelimit-limit-requests": "1000",
        "x-ratelimit-remaining-requests": "999",
        "x-ratelimit-limit-tokens": "8000",
        "x-ratelimit-remaining-tokens": "900",
    }
    await quota.done(slot, Usage(600, output_tokens=400), headers)
    again = await quota.acquire(target, "k", 1000)
    assert isinstance(again, Wait)
    assert again.limit == "tpm"
    other = Quota(database, clock=clock)
    assert isinstance(await other.acquire(target, "k", 1000), Wait)


async def test_many_requests_go_to_the_first_model_with_quota_and_then_to_the_next(
    database: Database,
) -> None:
    """Five requests, two places at each of two models: one waits for whichever is free sooner."""
    quota = Quota(database, clock=VirtualClock(START))
    first, second = (target_of(name, "groq", Limits(rpm=2)) for name in ("a", "b"))
    got = [await quota.acquire_first([(first, "k"), (second, "k")], 1) for _ in range(5)]
    assert [g.target.name for g in got[:4]] == ["a", "a", "b", "b"]
    assert isinstance(got[4], Wait)


async def test_a_paid_model_without_limits_takes_what_the_free_ones_cannot(database: Database) -> None:
    """The last target knows no limit, so nothing waits."""
    quota = Quota(database, clock=VirtualClock(START))
    free = target_of("a", "groq", Limits(rpm=2))
    got = [await quota.acquire_first([(free, "k"), (UNLIMITED, "k")], 1) for _ in range(4)]
    assert [g.target.name for g in got if isinstance(g, Slot)] == ["a", "a", "local", "local"]


async def test_models_of_one_pool_draw_from_it_together_and_keys_apart(database: Database) -> None:
    """OpenRouter counts all free models of a key as one; another key has its own quota."""
    quota = Quota(database, clock=VirtualClock(START))
    limits = Limits(rpm=2, pool="openrouter-free")
    a, b = target_of("a:free", "openrouter", limits), target_of("b:free", "openrouter", limits)
    assert scope_of(a, "k") == scope_of(b, "k") != scope_of(a, "other")
    got = [await quota.acquire(t, k, 1) for t, k in ((a, "k"), (b, "k"), (a, "k"), (a, "other"))]
    assert [isinstance(g, Slot) for g in got] == [True, True, False, True]


async def test_a_slot_that_was_never_used_goes_back(database: Database) -> None:
    """When the budget refuses the call, the quota is as before."""
    quota, target = (
        Quota(database, clock=VirtualClock(START)),
        target_of("m", "groq", Limits(rpm=1, tpm=100)),
    )
    slot = await quota.acquire(target, "k", 100)
    assert isinstance(slot, Slot)
    await quota.give_back(slot)
    assert isinstance(await quota.acquire(target, "k", 100), Slot)


async def test_a_refusal_for_the_day_closes_the_model_until_the_reset_and_no_longer(
    database: Database,
) -> None:
    """A per-day 429 that our count did not foresee: nothing goes out before the reset, then it does."""
    clock = VirtualClock(START)
    quota, target = Quota(database, clock=clock), target_of("m", "groq", Limits(rpd=1000))
    slot = await quota.acquire(target, "k", 1)
    assert isinstance(slot, Slot)
    refusal = ProviderError(
        "quota exceeded: requests per day",
        provider="groq",
        model="m",
        error_class=ErrorClass.QUOTA,
        status=429,
        reset_at=START + 12 * 3600,
    )
    await quota.done(slot, error=refusal)
    waits = await quota.acquire(target, "k", 1)
    assert isinstance(waits, Wait)
    assert clock.now + waits.seconds == START + 12 * 3600
    clock.now = START + 12 * 3600 + 6
    assert isinstance(await quota.acquire(target, "k", 1), Slot)


async def test_slots_are_granted_to_many_tasks_at_once_without_passing_the_limit(database: Database) -> None:
    """Sixty tasks of one process asking at the same moment get exactly the forty places."""
    quota, target = Quota(database, clock=VirtualClock(START)), target_of("m", "groq", Limits(rpm=40))
    got = await asyncio.gather(*(quota.acquire(target, "k", 1) for _ in range(60)))
    assert sum(isinstance(g, Slot) for g in got) == 40
