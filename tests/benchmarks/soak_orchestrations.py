"""A hundred orchestrations at a time while one provider call in ten goes wrong. `make soak-flows`, or

    python tests/benchmarks/soak_orchestrations.py [--minutes 30] [--concurrency 100]

One resident process runs flow after flow on a tuned Prefect server of its own; the sandbox provider is another process.
Prints memory in the first and the last third, runs that did not end, the ledger's proof, and the provider's own bill
against the books. Memory counts from the moment when as many runs have ended as go on at a time: until then modules
and caches are loaded. Exit 1 when memory grew by more than a tenth, a run is stuck, or a figure does not agree.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import itertools
import json
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))
from fixtures_prefect import temporary_environment
from sandbox_runs import CLAUDE, GEMINI, KEY, KEY_VALUE, LLAMA, executor, sandbox_config, workflow_of

from tta_dev_primitives.blocks.ledger.ledger import Ledger
from tta_dev_primitives.blocks.prefect_server.manager import server_environment, start_server, stop_server
from tta_dev_primitives.config.errors import OrchestrationError

FAULTS = (
    "error: server_error", "error: bad_gateway", "error: timeout",
    "status: 500, body: {error: {message: oops}}",
    "status: 502, body: {error: {message: gateway}}",
    "error: overloaded", "status: 429, retry_after: 0.1, body: {error: {message: slow down}}", "usage: missing",
)  # fmt: skip
_WORDS = "Describe in two sentences what pupil number"
GROWTH = 1.10
STUCK_S = 180.0


def scenario(share: float) -> str:
    """Every fault gets an equal part of `share` of the calls."""
    # Shares nest: the first rule whose share holds answers.
    rules = [
        f"  - {{name: fault {n}, match: {{share: {share * (n + 1) / len(FAULTS):.4f}}}, reply: {{{fault}}}}}"
        for n, fault in enumerate(FAULTS)
    ]
    verdict = '  - {match: {prompt: verdict}, reply: {json: {score: 0.93, reason: "complete"}}}'
    return "\n".join(["defaults: {latency: [0.02, 0.2]}", "rules:", *rules, verdict])


def _provider(pipe: Connection, text: str) -> None:
    from tta_dev_primitives.deployments.sandbox import Sandbox, parse_scenario

    with Sandbox(parse_scenario(text)).start() as sandbox:
        pipe.send(sandbox.port)
        pipe.recv()
        paid = [call for call in sandbox.calls if call.provider == "anthropic" and call.endpoint == "chat"]
        faulty = Counter(call.rule or "" for call in sandbox.calls if (call.rule or "").startswith("fault"))
        prices = sandbox.billed
        pipe.send((len(sandbox.calls), sum(faulty.values()), len(paid), prices("anthropic")))


@contextmanager
def provider(text: str) -> Iterator[tuple[int, Any]]:
    """The sandbox in a process of its own; yields its port and a function for its books."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_provider, args=(theirs, text), daemon=True)
    process.start()
    try:
        port = ours.recv()

        def books() -> tuple[int, int, int, Decimal]:
            ours.send("end")
            found: tuple[int, int, int, Decimal] = ours.recv()
            return found

        yield port, books
    finally:
        process.terminate()
        process.join(10)


class _Address:
    """What `sandbox_config` needs of a sandbox that is elsewhere."""

    def __init__(self, port: int) -> None:
        self._port = port

    def base_url(self, provider: str) -> str:
        tail = {"openrouter": "/api/v1", "openai-compatible": "/v1"}.get(provider, "")
        return f"http://127.0.0.1:{self._port}{tail}"


@dataclass
class Soak:
    """What one soak saw."""

    seconds: float = 0.0
    ended: Counter[str] = field(default_factory=Counter)
    stuck: int = 0
    rss_mb: list[float] = field(default_factory=list)
    warm_after_s: float = 0.0
    calls: int = 0
    faults: int = 0
    paid_calls: int = 0
    billed: Decimal = Decimal(0)
    spent: Decimal = Decimal(0)
    presumed: Decimal = Decimal(0)
    held: Decimal = Decimal(0)
    proof: list[str] = field(default_factory=list)
    running_in_prefect: int = 0

    @property
    def thirds(self) -> tuple[float, float]:
        """Median memory of the first and of the last third, MB."""
        third = len(self.rss_mb) // 3
        if not third:
            return 0.0, 0.0
        return statistics.median(self.rss_mb[:third]), statistics.median(self.rss_mb[-third:])

    def wrong(self, *, memory: bool = True) -> list[str]:
        """What is not as promised."""
        first, last = self.thirds
        found = [f"ledger: {line}" for line in self.proof]
        if memory and not first:
            found.append("too short to say anything about memory")
        if memory and last > first * GROWTH:
            found.append(f"memory grew from {first:.0f} to {last:.0f} MB")
        if self.stuck or self.running_in_prefect:
            found.append(f"{self.stuck} runs stuck here, {self.running_in_prefect} in Prefect")
        if self.held:
            found.append(f"{self.held} USD are still held")
        if not self.billed <= self.spent <= self.billed + self.presumed:
            found.append(f"billed {self.billed}, spent {self.spent}, of it presumed {self.presumed}")
        if self.ended["error"]:
            found.append(f"{self.ended['error']} runs ended with an unexpected error")
        return found

    def report(self) -> dict[str, Any]:
        """The figures."""
        first, last = self.thirds
        rate = round(self.ended.total() / self.seconds, 2)
        return {
            "seconds": round(self.seconds), "runs": dict(self.ended), "runs_per_s": rate,
            "provider_calls": self.calls, "faulty_calls": self.faults, "paid_calls": self.paid_calls,
            "warm_after_s": round(self.warm_after_s),
            "rss_first_third_mb": round(first, 1), "rss_last_third_mb": round(last, 1), "stuck": self.stuck,
            "running_in_prefect": self.running_in_prefect, "billed_usd": f"{self.billed:f}",
            "spent_usd": f"{self.spent:f}", "presumed_usd": f"{self.presumed:f}", "held_usd": f"{self.held:f}",
            "proof": self.proof, "wrong": self.wrong(),
        }  # fmt: skip


def _rss_mb() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


async def _load(workflow: Any, soak: Soak, seconds: float, concurrency: int) -> None:
    """Keep `concurrency` orchestrations under way for `seconds`, then let them end."""
    numbers, end = itertools.count(), time.monotonic() + seconds

    async def one_after_another() -> None:
        while time.monotonic() < end:
            task = (
                f"Describe in two sentences what pupil number {next(numbers)} of a village school may like."
            )
            try:
                async with asyncio.timeout(STUCK_S):
                    await workflow.execute(task, use_case="moderate")
                soak.ended["answered"] += 1
            except TimeoutError:
                soak.stuck += 1
            except OrchestrationError as failed:
                soak.ended[type(failed).__name__] += 1
            except Exception as failed:
                soak.ended["error"] += 1
                print(f"{type(failed).__name__}: {failed}", file=sys.stderr)

    async def watch() -> None:
        while True:
            await asyncio.sleep(max(0.5, seconds / 300))
            if soak.ended.total() < concurrency:
                soak.warm_after_s = time.monotonic() - end + seconds
                continue
            gc.collect()
            soak.rss_mb.append(_rss_mb())

    watcher = asyncio.create_task(watch())
    await asyncio.gather(*(one_after_another() for _ in range(concurrency)))
    watcher.cancel()


async def _books(url: str, soak: Soak) -> None:
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterState, FlowRunFilterStateName

    ledger = Ledger.open(url)
    balance = await ledger.balance()
    soak.spent, soak.presumed, soak.held = balance.spent, balance.presumed, balance.held
    soak.proof = await ledger.verify()
    await ledger.database.aclose()
    names = FlowRunFilterStateName(any_=["Running", "Pending", "Scheduled"])
    async with get_client() as client:
        runs = await client.read_flow_runs(
            flow_run_filter=FlowRunFilter(state=FlowRunFilterState(name=names))
        )
    soak.running_in_prefect = sum(run.name.startswith(_WORDS[:20]) for run in runs)


def run(seconds: float, *, concurrency: int, folder: Path, share: float = 0.1) -> Soak:
    """Soak against the Prefect server that this process is pointed at."""
    soak = Soak()
    os.environ[KEY] = KEY_VALUE
    with provider(scenario(share)) as (port, books):
        address: Any = _Address(port)
        everything = ["simple", "moderate", "complex", "expert", "speed-critical", "reasoning"]
        config = sandbox_config(
            address, folder,
            executors=[
                executor(model, kind, everything, timeout_s=20, limits={"rpm": 1_000_000})
                for model, kind in ((GEMINI, "google-ai-studio"), (LLAMA, "groq"))
            ],
            cost_tracking={"budget_limit_usd": 100_000},
        )  # fmt: skip
        assert CLAUDE in json.dumps(config["orchestrator"])
        workflow = workflow_of(config, folder)
        started = time.monotonic()
        asyncio.run(_load(workflow, soak, seconds, concurrency))
        soak.seconds = time.monotonic() - started
        asyncio.run(_books(config["cost_tracking"]["ledger_url"], soak))
        soak.calls, soak.faults, soak.paid_calls, soak.billed = books()
    return soak


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--concurrency", type=int, default=100)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="tta-soak-") as name:
        home = Path(name) / "home"
        home.mkdir(mode=0o700)
        os.environ["TTA_HOME"] = str(home)
        info = start_server(home=home, wait_s=100)
        try:
            with temporary_environment(server_environment(info)):
                soak = run(given.minutes * 60, concurrency=given.concurrency, folder=Path(name))
        finally:
            stop_server(home=home)
    print(json.dumps(soak.report(), indent=1))
    return 1 if soak.wrong() else 0


if __name__ == "__main__":
    sys.exit(main())
