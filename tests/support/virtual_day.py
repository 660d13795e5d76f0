"""A bulk job over four free keys on a virtual clock: the real flow, ledger and HTTP; only the waiting is skipped.

Job, quota scheduler and sandbox share one `VirtualTime`. It stands still while anything works and jumps to the next
moment that somebody waits for when nothing does, so that two days of free quota pass in a minute.
"""

from __future__ import annotations

import asyncio
import functools
import heapq
import itertools
import json
import math
import random
import threading
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any
from unittest.mock import patch
from zoneinfo import ZoneInfo

from prefect.client.base import PrefectHttpxAsyncClient
from sandbox_runs import KEY, workflow_of

from tta_dev_primitives.blocks.ledger.database.sqlite import SqliteDatabase
from tta_dev_primitives.blocks.providers.client import ProviderClient
from tta_dev_primitives.deployments.sandbox import Sandbox, parse_scenario
from tta_dev_primitives.flows.bulk.bulk_flow import BulkReport, run_file
from tta_dev_primitives.flows.bulk.call_order import BulkAdmission
from tta_dev_primitives.flows.bulk.progress import Progress, quota_eta
from tta_dev_primitives.flows.bulk.runner import JobOptions
from tta_dev_primitives.flows.calling.job_budget import JobBudget
from tta_dev_primitives.flows.calling.runtime import Runtime, active
from tta_dev_primitives.flows.calling.services import Keys

__all__ = ["FOUR_KEYS", "Day", "FreeKey", "VirtualTime", "simulate"]

SKEW_S = 1.5
"""The providers' clock is ahead of ours by this much."""
_SETTLED = 30
"""Turns of the event loop without any work under way after which nobody will start more by itself."""


@dataclass(order=True)
class _Sleeper:
    at: float
    number: int
    loop: asyncio.AbstractEventLoop = field(compare=False)
    wake: asyncio.Future[None] = field(compare=False)
    works: bool = field(compare=False)


class VirtualTime:
    """A clock for several event loops. Epoch seconds."""

    def __init__(self, start: float) -> None:
        self.now = start
        self._sleepers: list[_Sleeper] = []
        self._lock = threading.Lock()
        self._numbers = itertools.count()
        self._working = 0
        self._begun = 0
        self.jumps = 0

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        """Wait as the job waits: it goes on when the time has come and nothing works."""
        await self._sleep(seconds, works=False)

    async def pass_by(self, seconds: float) -> None:
        """Wait inside of work that is counted elsewhere: the provider's latency."""
        await self._sleep(seconds, works=True)

    async def _sleep(self, seconds: float, *, works: bool) -> None:
        loop = asyncio.get_running_loop()
        sleeper = _Sleeper(self.now + seconds, next(self._numbers), loop, loop.create_future(), works)
        with self._lock:
            heapq.heappush(self._sleepers, sleeper)
            self._working -= works
        await sleeper.wake

    @contextmanager
    def work(self) -> Iterator[None]:
        """The clock stands still for the body, but for what `pass_by` waits for."""
        with self._lock:
            self._working, self._begun = self._working + 1, self._begun + 1
        try:
            yield
        finally:
            with self._lock:
                self._working -= 1

    def counted(self, method: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        """The same method, counted as work."""

        @functools.wraps(method)
        async def run(*given: Any, **named: Any) -> Any:
            with self.work():
                return await method(*given, **named)

        return run

    async def drive(self, look: Callable[[], Awaitable[bool]]) -> None:
        """Let the time pass, until cancelled. Runs in the loop of the job.

        `look` is called before each jump, and the time stands still: true when it has worked.
        """
        while True:
            begun = self._begun
            if await self._settled() and begun == self._begun and (await look() or self._jump()):
                continue
            await asyncio.sleep(0.0005)

    async def _settled(self) -> bool:
        for _ in range(_SETTLED):
            if self._working:
                return False
            await asyncio.sleep(0)
        await asyncio.sleep(0.0005)
        return not self._working

    def _jump(self) -> bool:
        with self._lock:
            while self._sleepers and self._sleepers[0].wake.cancelled():
                heapq.heappop(self._sleepers)
            if not self._sleepers or self._working:
                return False
            self.now = max(self.now, self._sleepers[0].at)
            self.jumps += 1
            while self._sleepers and self._sleepers[0].at <= self.now:
                sleeper = heapq.heappop(self._sleepers)
                self._working += sleeper.works
                sleeper.loop.call_soon_threadsafe(_wake, sleeper.wake)
            return True


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


@dataclass(frozen=True)
class FreeKey:
    """One model on a free plan with a key of its own."""

    model: str
    provider: str
    reset: str
    limits: Mapping[str, int]
    known: bool = True
    """Whether the configuration says the limits; else they are learned."""

    @property
    def zone(self) -> ZoneInfo:
        """Where its day begins."""
        return ZoneInfo("America/Los_Angeles" if self.reset == "pacific-day" else "UTC")


FOUR_KEYS = (
    FreeKey("openai/gpt-oss-120b", "groq", "utc-day", {"rpm": 30, "rpd": 1000, "tpm": 8000, "tpd": 200_000}),
    FreeKey("gemini-3.8-flash", "google-ai-studio", "pacific-day", {"rpm": 10, "tpm": 250_000, "rpd": 250}),
    FreeKey(
        "gemini-3.5-flash-lite", "google-ai-studio", "pacific-day", {"rpm": 15, "tpm": 250_000, "rpd": 1000}
    ),
    FreeKey("openai/gpt-oss-120b:free", "openrouter", "utc-day", {"rpm": 20, "rpd": 1000}),
)
"""Free plans as their providers publish them."""


@dataclass
class Day:
    """What the simulation has shown."""

    report: BulkReport
    start: float
    end: float
    calls: int
    refused: Counter[str]
    """Requests that were answered 429, by model and kind."""
    used: dict[tuple[str, str], float]
    """(model, day) -> share of the day's quota that the provider served, for the days before the last."""
    etas: list[tuple[float, float]]
    """(epoch seconds, promised seconds), from the first tenth on."""
    paid: int

    @property
    def least_used(self) -> float:
        """The lowest share of a day's quota that was used."""
        return min(self.used.values(), default=math.nan)

    @property
    def refused_share(self) -> float:
        """The share of the requests that were answered 429."""
        return self.refused.total() / self.calls

    @property
    def eta_errors(self) -> list[float]:
        """For each promise, how far it was from what came, as a share of the time that was left."""
        # Within a minute a promise is kept: nothing finer can be said of limits that count minutes.
        late = [(abs(at + eta - self.end), self.end - at) for at, eta in self.etas if at < self.end]
        return [0.0 if off <= 60 else off / left for off, left in late]


class _Watch:
    """Asks the job for its ETA each time another fiftieth is done."""

    def __init__(self, runtime: Runtime, time: VirtualTime) -> None:
        self._runtime = runtime.for_job(BulkAdmission(1), JobBudget(None), clock=time, sleep=time.sleep)
        self._time = time
        self._progress: Progress | None = None
        self._next = 5
        self.etas: list[tuple[float, float]] = []

    def see(self, progress: Progress) -> None:
        """Keep the job's live counts; the observer of its options."""
        self._progress = progress

    async def look(self) -> bool:
        """Write down the ETA when another fiftieth is done; whether it has."""
        progress = self._progress
        if progress is None or progress.total is None or progress.ended * 50 < self._next * progress.total:
            return False
        self._next = progress.ended * 50 // progress.total + 1
        if progress.left:
            with self._time.work():
                now = self._time()
                progress.quota_eta_s = await quota_eta(self._runtime.services, progress, now)
                eta = progress.eta_s
            if eta is not None:
                self.etas.append((now, eta))
        return True


async def simulate(
    folder: Path,
    *,
    tasks: int = 5000,
    keys: tuple[FreeKey, ...] = FOUR_KEYS,
    concurrency: int = 50,
    chunk_size: int | None = None,
    latency: tuple[float, float] = (0.5, 4.0),
    start: str = "2026-03-07T10:00:00+00:00",
    say: Callable[[str], None] | None = None,
) -> Day:
    """Run one job over all keys, with endless patience, on a virtual clock.

    Needs a Prefect server, and `TTA_TEST_SANDBOX_KEY` in the environment.
    """
    time = VirtualTime(datetime.fromisoformat(start).timestamp())
    began = time.now
    scenario = {
        "defaults": {"latency": list(latency)},
        "quotas": [{"provider": k.provider, "model": k.model, "reset": k.reset, **k.limits} for k in keys],
    }
    sandbox = Sandbox(
        parse_scenario(json.dumps(scenario)), clock=lambda: time.now + SKEW_S, sleep=time.pass_by
    )
    with sandbox.start(), _all_counted(time):
        workflow = workflow_of(_config(sandbox, folder, keys), folder)
        runtime = await workflow.ready()
        source = folder / "in.jsonl"
        _write(source, tasks)
        watch = _Watch(runtime, time)
        options = JobOptions(in_process_s=math.inf, clock=time, sleep=time.sleep, observer=watch.see)

        async def look() -> bool:
            if say is not None and time.jumps % 2000 == 0:
                at = datetime.fromtimestamp(time.now, ZoneInfo("UTC"))
                say(f"{at:%m-%d %H:%M:%S}  {len(sandbox.calls)} calls  {time.jumps} jumps")
            return await watch.look()

        with active(runtime):
            # A clock that fails ends the job, which would wait for it.
            async with asyncio.TaskGroup() as group:
                drive = group.create_task(time.drive(look))
                report = await run_file(
                    options,
                    input_path=str(source),
                    output_path=str(folder / "out.jsonl"),
                    concurrency=concurrency,
                    chunk_size=chunk_size,
                    patience_s=None,
                )
                drive.cancel()
    return _day(sandbox, keys, report, began, time.now, watch.etas)


@contextmanager
def _all_counted(time: VirtualTime) -> Iterator[None]:
    """Count database work, threads, calls to providers and to Prefect, so that the clock waits for them."""
    methods = [
        (ProviderClient, "exchange"),
        (Keys, "key_of"),
        (SqliteDatabase, "transact"),
        (SqliteDatabase, "read"),
        (PrefectHttpxAsyncClient, "send"),
        (asyncio, "to_thread"),
    ]
    patches = [patch.object(owner, name, time.counted(getattr(owner, name))) for owner, name in methods]
    for one in patches:
        one.start()
    try:
        yield
    finally:
        for one in patches:
            one.stop()


def _config(sandbox: Sandbox, folder: Path, keys: tuple[FreeKey, ...]) -> dict[str, Any]:
    executors = [
        {
            "model": key.model,
            "provider": key.provider,
            "billing": "free",
            "api_key_env": KEY,
            "base_url": sandbox.base_url(key.provider),
            "use_cases": ["moderate"],
            "max_output_tokens": 500,
            **({"limits": dict(key.limits)} if key.known else {}),
        }
        for key in keys
    ]
    return {
        "allow_private_hosts": True,
        "planning": "never",
        "orchestrator": {
            "model": "claude-sonnet-4.5",
            "api_key_env": KEY,
            "base_url": sandbox.base_url("anthropic"),
        },
        "executors": executors,
        "fallback_strategy": {"models": [key.model for key in keys]},
        "cost_tracking": {"ledger_url": f"sqlite:///{folder / 'ledger.db'}"},
        "validation": {"mode": "never"},
    }


def _write(path: Path, tasks: int) -> None:
    rng = random.Random(6)
    words = ("tea", "kettle", "leaf", "harvest", "garden", "steam", "morning", "cup", "hill", "rain")
    with path.open("w", encoding="utf-8") as lines:
        for number in range(tasks):
            note = " ".join(rng.choices(words, k=rng.randint(150, 450)))
            task = {"id": str(number), "task": f"Summarize note {number}: {note}", "use_case": "moderate"}
            lines.write(json.dumps(task) + "\n")


def _day(
    sandbox: Sandbox,
    keys: tuple[FreeKey, ...],
    report: BulkReport,
    start: float,
    end: float,
    etas: list[tuple[float, float]],
) -> Day:
    by_key = {(key.provider, key.model): key for key in keys}
    served: Counter[tuple[str, str]] = Counter()
    tokens: Counter[tuple[str, str]] = Counter()
    refused: Counter[str] = Counter()
    for call in sandbox.calls:
        key = by_key.get((call.provider, call.model))
        if key is None:
            continue
        if call.status == 429:
            refused[f"{call.model} {call.error}"] += 1
            continue
        day = (key.model, datetime.fromtimestamp(call.at, key.zone).date().isoformat())
        served[day] += 1
        # What the sandbox counts for Groq: the prompt and the asked maximum.
        tokens[day] += call.usage.input_tokens + int(call.body.get("max_completion_tokens") or 0)
    used = {}
    for model, day in served:
        key = next(k for k in keys if k.model == model)
        if day == datetime.fromtimestamp(end, key.zone).date().isoformat():
            continue
        shares = [served[model, day] / key.limits["rpd"]]
        if "tpd" in key.limits:
            shares.append(tokens[model, day] / key.limits["tpd"])
        used[model, day] = max(shares)
    return Day(
        report=report,
        start=start,
        end=end,
        calls=len(sandbox.calls),
        refused=refused,
        used=used,
        etas=etas,
        paid=sum(call.provider == "anthropic" for call in sandbox.calls),
    )
