"""A bulk job over four free keys, through two days of virtual time and the end of winter time."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from provider_model import ProviderModel, VirtualClock, Wire, target_of

from tta_dev_primitives.blocks.ledger.database.protocol import Database, database_for
from tta_dev_primitives.blocks.quotas.quota import Quota, Slot, Wait
from tta_dev_primitives.blocks.quotas.time_needed import time_needed
from tta_dev_primitives.config.models.targets import Limits, Usage
from tta_dev_primitives.config.provider_errors import ProviderError

TASKS = 5000
CONCURRENCY = 50
ASKED = 1400
"""The bound that is reserved for a request, in tokens; what it really uses is drawn from 500 to 1,300."""
PACIFIC = "America/Los_Angeles"


def four_free_keys(*, groq_counts: int | None) -> list[ProviderModel]:
    """Limits as free plans have them; each provider counts in its own way, on a clock of its own."""
    flash = Limits(rpm=10, tpm=250_000, rpd=250, reset_zone=PACIFIC)
    lite = Limits(rpm=15, tpm=250_000, rpd=1000, reset_zone=PACIFIC)
    groq = Limits(rpm=30, tpm=8000, rpd=1000, tpd=200_000)
    router = Limits(rpm=20, rpd=1000, pool="openrouter-free")
    first = _provider("gpt-oss-120b", "groq", groq, "bucket", skew_s=0.8)
    first.counts = groq_counts
    return [
        first,
        _provider("flash", "google-ai-studio", flash, "fixed", skew_s=-1.2),
        _provider("flash-lite", "google-ai-studio", lite, "fixed", skew_s=-1.2),
        _provider("gpt-oss:free", "openrouter", router, "sliding", skew_s=2.0),
    ]


def _provider(name: str, provider: str, limits: Limits, shape: str, *, skew_s: float) -> ProviderModel:
    return ProviderModel(
        target_of(name, provider, limits),
        shape,  # type: ignore[arg-type]
        rpm=limits.rpm,
        tpm=limits.tpm,
        rpd=limits.rpd,
        tpd=limits.tpd,
        zone=limits.reset_zone,
        skew_s=skew_s,
    )


@dataclass
class Call:
    """One request on its way to a provider or back."""

    slot: Slot
    used: int
    error: ProviderError | None = None
    arrived: bool = False
    headers: dict[str, str] = field(default_factory=dict)


class Job:
    """A bulk job: sends to whichever key has quota, sleeps when none has, is killed once."""

    def __init__(self, database: Database, clock: VirtualClock, providers: Sequence[ProviderModel]) -> None:
        self.database, self.clock = database, clock
        self.by_name = {p.target.name: p for p in providers}
        self.targets = [(p.target, "key") for p in providers]
        self.rng = random.Random(6)
        self.wire = Wire(self.rng)
        self.todo, self.done, self.in_flight, self.sent, self.tokens = TASKS, 0, 0, 0, 0
        self.free_at = 0.0
        self.etas: list[tuple[float, float]] = []

    async def run(self, *, kill_at: int) -> float:
        quota = Quota(self.database, clock=self.clock)
        tenth, killed = 1, False
        while self.done < TASKS:
            await self._receive(quota)
            if not killed and self.done >= kill_at:
                killed = True
                self._kill()
                quota = Quota(self.database, clock=self.clock)
            if self.done >= tenth * TASKS // 10 and tenth < 10:
                tenth = self.done * 10 // TASKS + 1
                self.etas.append((self.clock.now, await self._eta(quota)))
            await self._send(quota)
            self.clock.now = max(self.clock.now + 0.25, min(self.wire.next_at, self.free_at))
        return self.clock.now

    def _kill(self) -> None:
        """kill -9: what was on its way was counted by the provider, its answers are lost."""
        for _, call in self.wire.due(float("inf")):
            assert isinstance(call, Call)
            if not call.arrived:
                self.by_name[call.slot.target.name].answer(self.clock.now, call.used)
        self.todo += self.in_flight
        self.in_flight = 0

    async def _send(self, quota: Quota) -> None:
        room = min(CONCURRENCY - self.in_flight, self.todo)
        if room <= 0 or self.clock.now < self.free_at:
            if room <= 0:
                self.free_at = float("inf") if self.wire.next_at < float("inf") else self.clock.now
            return
        self.free_at = 0.0
        asking = [quota.acquire_first(self.targets, ASKED) for _ in range(room)]
        for got in await asyncio.gather(*asking):
            if isinstance(got, Wait):
                self.free_at = self.clock.now + got.seconds
                break
            call = Call(got, self.rng.randint(500, 1300))
            self.todo, self.in_flight, self.sent = self.todo - 1, self.in_flight + 1, self.sent + 1
            self.wire.at(self.clock.now + self.rng.uniform(0.02, 0.5), call)

    async def _receive(self, quota: Quota) -> None:
        back: list[Coroutine[Any, Any, None]] = []
        for moment, call in self.wire.due(self.clock.now):
            assert isinstance(call, Call)
            provider = self.by_name[call.slot.target.name]
            if not call.arrived:
                call.arrived = True
                call.error = provider.answer(moment, call.used)
                call.headers = provider.headers(moment)
                self.wire.at(moment + (0.05 if call.error else self.rng.uniform(0.5, 4.0)), call)
                continue
            self.in_flight -= 1
            usage = None if call.error else Usage(input_tokens=call.used - 100, output_tokens=100)
            back.append(quota.done(call.slot, usage, call.headers, error=call.error))
            if call.error:
                self.todo += 1
            else:
                self.done, self.tokens = self.done + 1, self.tokens + call.used
        if back:
            self.free_at = 0.0 if self.free_at == float("inf") else self.free_at
            await asyncio.gather(*back)

    async def _eta(self, quota: Quota) -> float:
        windows = await quota.snapshot(self.targets)
        names = [target.name for target, _ in self.targets]
        plan = time_needed(
            TASKS - self.done - self.in_flight,
            self.tokens / self.done,
            {target.name: target.limits for target, _ in self.targets},
            self.clock.now,
            windows=dict(zip(names, windows, strict=True)),
            latency_s=2.5,
            concurrency=CONCURRENCY,
        )
        return self.clock.now + plan.seconds


@pytest.mark.server
@pytest.mark.parametrize("groq_counts", [None, ASKED], ids=["tokens used", "tokens asked"])
async def test_a_job_of_5000_tasks_uses_the_free_quota_up_and_is_hardly_ever_refused(
    tmp_path: Path, groq_counts: int | None
) -> None:
    """Over four free keys and a restart: >= 95 % of each day's quota, <= 0.5 % refused, the ETA holds."""
    start = datetime(2026, 3, 7, 10, 0, tzinfo=UTC).timestamp()
    clock, providers = VirtualClock(start), four_free_keys(groq_counts=groq_counts)
    job = Job(database_for(f"sqlite:///{tmp_path / 'ledger.db'}"), clock, providers)

    end = await job.run(kill_at=1800)
    await job.database.aclose()

    whole_days = [(p, day) for p in providers for day in p.served if day != p.day(end)]
    assert len(whole_days) >= 4
    assert all(p.used_of_day(day) >= 0.95 for p, day in whole_days)
    assert sum(p.refused for p in providers) <= 0.005 * job.sent
    assert all(abs(eta - end) <= 0.1 * (end - at) for at, eta in job.etas)
