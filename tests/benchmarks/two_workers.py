"""Several machines, proven on one: PostgreSQL, Redis, Prefect's API and services apart, two workers with own homes.

    python tests/benchmarks/two_workers.py [--runs 500] [--no-kill] [--outage 60]
    python tests/benchmarks/two_workers.py --runs 24 --outage 20     # the short one: some minutes

Deployed `orchestrate` runs go to a work pool. Half-way one worker and everything it started is killed with SIGKILL;
later the Prefect API is stopped for a while. Then: has every run completed, was a run set to Crashed that was not
killed, does the ledger add up to what the provider billed, and was anything paid twice? Needs Debian's postgresql and
redis-server, and the extra `machines`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any
from uuid import UUID

import yaml

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))
from postgres_server import PostgresServer
from sandbox_runs import KEY, KEY_VALUE, sandbox_config

from tta_dev_primitives.deployments.sandbox import Sandbox, parse_scenario

POOL = "machines"
SCENARIO = """
defaults: {latency: [0.1, 0.4]}
rules:
  - {match: {model: gemini-2.5-pro, prompt: solve, share: 0.1}, reply: {error: overloaded}}
  - {match: {prompt: verdict}, reply: {json: {score: 0.95, reason: sound}}}
"""
PYTHON = str(Path(sys.executable).parent)


class Machines:
    """Every process of the set-up, each in a process group of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.postgres = PostgresServer()
        self.redis_port, self.api_port = free_port(), free_port()
        self.url = f"http://127.0.0.1:{self.api_port}/api"
        self.running: dict[str, subprocess.Popen[bytes]] = {}
        base = self.postgres.url.removesuffix("/postgres")
        redis = f"redis://127.0.0.1:{self.redis_port}"
        self.server_environment = {
            "PREFECT_SERVER_DATABASE_CONNECTION_URL": f"{base}/prefect".replace(
                "postgresql:", "postgresql+asyncpg:"
            ),
            "PREFECT_MESSAGING_BROKER": "prefect_redis.messaging",
            "PREFECT_MESSAGING_CACHE": "prefect_redis.messaging",
            "PREFECT_SERVER_EVENTS_CAUSAL_ORDERING": "prefect_redis.ordering",
            "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect_redis.lease_storage",
            "PREFECT_REDIS_MESSAGING_URL": f"{redis}/0",
            "PREFECT_SERVER_DOCKET_URL": f"{redis}/1",
            "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_BATCH_SIZE": "200",
            "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_READ_BATCH_SIZE": "200",
            "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_FLUSH_INTERVAL": "1",
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        }
        self.ledger_url = f"{base}/ledger"

    def start(self, name: str, command: list[str], **environment: str) -> None:
        home = self.folder / name
        home.mkdir(exist_ok=True)
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("PREFECT_", "TTA_"))}
        env = {**kept, "HOME": str(home), "PREFECT_HOME": str(home / "prefect"), "TTA_HOME": str(home / "tta"),
               "DO_NOT_TRACK": "1", **environment}  # fmt: skip
        with (self.folder / f"{name}.log").open("ab") as log:
            self.running[name] = subprocess.Popen(
                command, env=env, cwd=home, stdout=log, stderr=log, start_new_session=True
            )

    def kill(self, name: str, how: signal.Signals = signal.SIGKILL) -> int:
        """Kill a process and what it started; returns how many process groups it had started."""
        process = self.running.pop(name)
        started = children_groups(process.pid) - {process.pid}
        for group in {process.pid, *started}:
            try:
                os.killpg(group, how)
            except ProcessLookupError:
                continue
        process.wait(30)
        return len(started)

    def start_redis(self) -> None:
        self.start(
            "redis", ["redis-server", "--port", str(self.redis_port), "--save", "", "--bind", "127.0.0.1"]
        )

    def start_api(self) -> None:
        command = [f"{PYTHON}/prefect", "server", "start", "--no-services", "--host", "127.0.0.1"]
        self.start("api", [*command, "--port", str(self.api_port)], **self.server_environment)

    def start_services(self) -> None:
        self.start(
            "services", [f"{PYTHON}/prefect", "server", "services", "start"], **self.server_environment
        )

    def start_worker(self, name: str, limit: int) -> None:
        command = [
            f"{PYTHON}/prefect",
            "worker",
            "start",
            "--pool",
            POOL,
            "--name",
            name,
            "--limit",
            str(limit),
        ]
        self.start(
            name, command, PREFECT_API_URL=self.url, PREFECT_FLOWS_HEARTBEAT_FREQUENCY="30",
            PREFECT_WORKER_QUERY_SECONDS="2", PREFECT_LOGGING_LEVEL="WARNING", TTA_LEDGER_URL=self.ledger_url,
            PREFECT_CLIENT_MAX_RETRIES="8", TTA_CONFIG_FOLDERS=str(self.folder), **{KEY: KEY_VALUE},
        )  # fmt: skip

    def stop(self) -> None:
        for name in list(self.running):
            self.kill(name)
        self.postgres.stop()


def children_groups(pid: int) -> set[int]:
    """Process groups of everything that `pid` started: a worker's flow runs have groups of their own."""
    parents: dict[int, int] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        parents[int(stat.parent.name)] = int(fields[1])
    found, frontier = set(), {pid}
    while frontier:
        frontier = {child for child, parent in parents.items() if parent in frontier} - found
        found |= frontier
    groups = set()
    for child in found:
        try:
            groups.add(os.getpgid(child))
        except ProcessLookupError:
            continue
    return groups


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def until_up(url: str, seconds: float = 120) -> None:
    from tta_dev_primitives.blocks.prefect_server.probe import get_json

    end = time.monotonic() + seconds
    while True:
        try:
            if (await asyncio.to_thread(get_json, f"{url}/health", timeout_s=5))[0] == 200:
                return
        except OSError:
            pass
        if time.monotonic() > end:
            raise TimeoutError("the Prefect API does not answer")
        await asyncio.sleep(0.5)


async def states(run_ids: set[str]) -> Counter[str]:
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import FlowFilter

    found: Counter[str] = Counter()
    only = FlowFilter.model_validate({"name": {"any_": ["orchestrate"]}})
    async with get_client() as client:
        offset = 0
        while page := await client.read_flow_runs(flow_filter=only, limit=200, offset=offset):
            found.update(run.state_name or "?" for run in page if str(run.id) in run_ids)
            offset += len(page)
    return found


async def crashed(run_ids: set[str]) -> int:
    """How many of the runs were ever Crashed."""
    from prefect.client.orchestration import get_client

    async with get_client() as client:
        histories = [await client.read_flow_run_states(UUID(one)) for one in sorted(run_ids)]
    return sum(any(state.is_crashed() for state in states) for states in histories)


async def main(runs: int, *, kill: bool, outage: float, limit: int) -> dict[str, Any]:
    folder = Path(tempfile.mkdtemp(prefix="tta-machines-"))
    sandbox = Sandbox(parse_scenario(SCENARIO)).start()
    machines = Machines(folder)
    try:
        return await prove(machines, sandbox, runs, kill=kill, outage=outage, limit=limit)
    finally:
        machines.stop()
        sandbox.stop()
        shutil.rmtree(folder, ignore_errors=True)


async def prove(
    machines: Machines, sandbox: Sandbox, runs: int, *, kill: bool, outage: float, limit: int
) -> dict[str, Any]:
    import asyncpg

    connection = await asyncpg.connect(machines.postgres.url)
    for name in ("prefect", "ledger"):
        await connection.execute(f"CREATE DATABASE {name}")
    await connection.close()
    machines.start_redis()
    machines.start_api()
    await until_up(machines.url)  # it migrates the fresh database alone
    machines.start_services()
    os.environ.update(
        {"PREFECT_API_URL": machines.url, "PREFECT_HOME": str(machines.folder / "here"), KEY: KEY_VALUE}
    )
    # Every machine has the same file; here it is one.
    path = machines.folder / "config.yaml"
    config = sandbox_config(sandbox, machines.folder, validation={"mode": "always"},
                            cost_tracking={"ledger_url": machines.ledger_url})  # fmt: skip
    path.write_text(yaml.safe_dump({"orchestration": config}))

    from prefect.client.orchestration import get_client

    from tta_dev_primitives.blocks.ledger.ledger import Ledger
    from tta_dev_primitives.blocks.ledger.task_records import result_lines
    from tta_dev_primitives.deployments.apply import deploy_all
    from tta_dev_primitives.deployments.automations import apply_automations

    await deploy_all(work_pool=POOL, config_path=str(path), working_dir=None)
    await apply_automations(stale_after_s=100)
    started = time.monotonic()
    ids: set[str] = set()
    async with get_client() as client:
        deployment = await client.read_deployment_by_name("orchestrate/on-demand")
        for n in range(runs):
            parameters = {"task": f"Describe machine number {n} in two sentences.", "use_case": "moderate",
                          "config_path": str(path)}  # fmt: skip
            run = await client.create_flow_run_from_deployment(deployment.id, parameters=parameters)
            ids.add(str(run.id))
    for name in ("worker-a", "worker-b"):
        machines.start_worker(name, limit)
    told: dict[str, Any] = {"killed_at": None, "killed_runs": 0, "outage_at": None}
    while True:
        await asyncio.sleep(5)
        seen = await states(ids)
        done = seen["Completed"]
        print(f"{time.monotonic() - started:6.0f} s {dict(seen)}", file=sys.stderr, flush=True)
        if kill and told["killed_at"] is None and done >= runs // 2:
            told["killed_runs"] = machines.kill("worker-a")
            told["killed_at"] = done
        if outage and told["outage_at"] is None and done >= runs * 3 // 4:
            machines.kill("api")
            await asyncio.sleep(outage)
            machines.start_api()
            await until_up(machines.url)
            told["outage_at"] = done
        if done + seen["Failed"] + seen["Cancelled"] >= runs or time.monotonic() - started > 7200:
            break
    seconds = time.monotonic() - started
    told["crashed_runs"] = await crashed(ids)
    ledger = Ledger.open(machines.ledger_url)
    lines = await result_lines(ledger, (await ledger.balance()).month)
    return await figures(ledger, sandbox, seen, runs, seconds, {**told}, lines)


async def figures(
    ledger: Any,
    sandbox: Sandbox,
    seen: Counter[str],
    runs: int,
    seconds: float,
    told: dict[str, Any],
    lines: Any,
) -> dict[str, Any]:
    """What was proven: completion, the ledger against the provider's own books, and paid requests sent twice."""
    for _ in range(60):  # holds of killed processes end with their lease
        await ledger.sweep()
        if not (balance := await ledger.balance()).held:
            break
        await asyncio.sleep(5)
    billed = sandbox.billed("anthropic")
    sent = [call for call in sandbox.calls if call.provider == "anthropic" and call.billed]
    paid = Counter(json.dumps(call.body, sort_keys=True) for call in sent)
    presumed = len(await ledger.open_calls(balance.month))
    again = sum(count - 1 for count in paid.values())
    return {
        "runs": runs, "states": dict(seen), "seconds": round(seconds), **told,
        "provider_calls": len(sandbox.calls), "paid_calls": sum(paid.values()),
        "billed_usd": f"{billed:f}", "spent_usd": f"{balance.spent:f}", "presumed_usd": f"{balance.presumed:f}",
        "held_usd": f"{balance.held:f}", "presumed_calls": presumed, "paid_requests_sent_again": again,
        "journal_differences": await ledger.verify(),
        "records": sum(line.tasks for line in lines), "accepted": sum(line.tasks for line in lines if line.accepted),
        "exact": balance.spent - balance.presumed <= billed <= balance.spent,
    }  # fmt: skip


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--runs", type=int, default=500)
    arguments.add_argument("--limit", type=int, default=3, help="flow runs at a time, each worker")
    arguments.add_argument("--no-kill", action="store_true")
    arguments.add_argument(
        "--outage", type=float, default=60, help="seconds without the Prefect API; 0: none"
    )
    given = arguments.parse_args()
    found = asyncio.run(main(given.runs, kill=not given.no_kill, outage=given.outage, limit=given.limit))
    print(json.dumps(found, indent=1))
    finished = found["states"].get("Completed", 0) == given.runs
    no_false_crash = found["crashed_runs"] <= found["killed_runs"]
    sys.exit(not (finished and no_false_crash and found["exact"] and not found["journal_differences"]))
