"""The whole benchmark: what an orchestration costs beyond the provider's latency, against bare loops and its peers.

    make bench                                      # everything, 20 minutes; writes docs/benchmarks.md and its chart
    python tests/benchmarks/bench.py --quick        # a few rounds of W1 to W3 and bulk, printed, nothing written
    python tests/benchmarks/bench.py --json F.json --only interactive   # one part anew, into the figures of a run
    python tests/benchmarks/bench.py --page F.json  # the page again, from the figures of a run

Every contender runs in a process of its own that stays up, on the same loopback provider (50 ms a call), one after the
other within each round, in changing order. LITELLM_PYTHON and PYDANTIC_AI_PYTHON name interpreters that have LiteLLM
and pydantic-ai-slim[openai,prefect]; without them, and without an installation here, these are left out.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from bench_page import lines_of, write_page
from bench_start import cold_start, help_start
from loopback import loopback
from processes import PeerServer, Worker, clean_environment, stop_embedded

HERE = Path(__file__).parent
LATENCY_S = 0.05
PAUSE_S = 0.25
"""Between two pieces of work: what the last contender left behind must not slow the next one."""
IDLE_S = 5.0
PEERS = {
    "LiteLLM Router": ("LITELLM_PYTHON", "litellm"),
    "pydantic-ai FallbackModel": ("PYDANTIC_AI_PYTHON", "pydantic_ai"),
    "pydantic-ai PrefectAgent": ("PYDANTIC_AI_PYTHON", "pydantic_ai.durable_exec.prefect"),
}
FIRST = {"W1": 1_000_001, "W2": 2_000_000, "W3": 3_000_000}
"""Each workload has task numbers of its own: an answer that is stored already would be no call."""


def peers_here() -> dict[str, str]:
    """Peer -> the interpreter that can import it."""
    found = {}
    for name, (variable, module) in PEERS.items():
        python = os.environ.get(variable) or sys.executable
        if (
            subprocess.run([python, "-c", f"import {module}"], capture_output=True, check=False).returncode
            == 0
        ):
            found[name] = python
        else:
            print(f"{name} is left out: {variable} names no interpreter that has {module}", file=sys.stderr)
    return found


@contextmanager
def contenders(url: str, folder: Path, *, quick: bool) -> Iterator[dict[str, Worker]]:
    """All contenders, ready, with the Prefect servers that they need."""
    with ExitStack() as stack:
        workers: dict[str, Worker] = {}

        def start(name: str, python: str = sys.executable, server: Any = None, **own: str) -> None:
            environment = {**clean_environment(), **own}
            workers[name] = stack.enter_context(Worker(name, url, python, environment, server))

        start("httpx")
        start("httpx + aiohttp")

        def start_on_default_server(name: str, home: Path, python: str = sys.executable) -> None:
            peer = stack.enter_context(PeerServer(home))
            start(name, python, peer, PREFECT_API_URL=peer.url, PREFECT_HOME=str(peer.home))

        if not quick:
            start_on_default_server("naive Prefect", folder / "prefect")
        for name, home in (("naive Prefect, tuned", folder / "tuned"), ("tta", folder / "tta")):
            stack.callback(stop_embedded, home)
            start(name, server=home, TTA_HOME=str(home))
        for name, python in peers_here().items():
            if "Prefect" not in name:
                start(name, python)
            elif not quick:
                start_on_default_server(name, folder / "agents", python)
        for worker in workers.values():
            worker.until_ready()
        yield workers


def interactive(workers: dict[str, Worker], rounds: dict[str, int]) -> dict[str, dict[str, Any]]:
    """W1 to W3 in interleaved rounds: `{workload: {contender: {overhead_ms: [...], ...}}}`."""
    for worker in workers.values():  # imports, connections, the first run of each flow
        for workload, first in FIRST.items():
            for number in range(3):
                worker.ask(workload, first + 900_000 + 5 * number)
    time.sleep(2)
    before, began = {name: worker.server_cpu_s() for name, worker in workers.items()}, time.monotonic()
    time.sleep(IDLE_S)
    idle = {
        name: (w.server_cpu_s() - before[name]) / (time.monotonic() - began) for name, w in workers.items()
    }
    found: dict[str, dict[str, Any]] = {}
    for workload, count in rounds.items():
        before, began = {name: worker.server_cpu_s() for name, worker in workers.items()}, time.monotonic()
        rows: dict[str, dict[str, Any]] = {
            n: {"overhead_ms": [], "cpu_ms": [], "behind_ms": []} for n in workers
        }
        for number in range(count):
            names = list(workers)
            random.shuffle(names)
            for name in names:
                step = 5 if workload == "W2" else 1
                told = workers[name].ask(workload, FIRST[workload] + step * number)
                rows[name]["overhead_ms"].append(1000 * (told["wall_s"] - told["calls"] * LATENCY_S))
                rows[name]["cpu_ms"].append(told["cpu_ms"])
                rows[name]["behind_ms"].append(1000 * told["behind_s"])
                time.sleep(PAUSE_S)
        time.sleep(3)  # what a server writes behind the answer counts as well
        for name, worker in workers.items():
            used = worker.server_cpu_s() - before[name] - idle[name] * (time.monotonic() - began)
            rows[name]["server_cpu_ms"] = 1000 * used / count if worker.server is not None else None
        found[workload] = rows
        print("\n".join(lines_of(workload, rows)), file=sys.stderr, flush=True)
    return found


def other_benchmark(script: str, home: Path, *options: str) -> Any:
    """The JSON document of `bench_bulk` or `bench_ledger`; what they start of ours lives in `home`."""
    command = [sys.executable, str(HERE / script), "--json", *options]
    if script == "bench_ledger.py":
        command[1:2] = ["-m", "tests.benchmarks.bench_ledger"]
    environment = {**clean_environment(), "TTA_HOME": str(home)}
    try:
        done = subprocess.run(
            command, stdout=subprocess.PIPE, text=True, check=False, cwd=HERE.parents[1], env=environment
        )
    finally:
        stop_embedded(home)
    if not done.stdout.strip():
        sys.exit(f"{script} brought no figures (exit {done.returncode})")
    return json.loads(done.stdout)


def machine() -> dict[str, Any]:
    """Where and with what this was measured."""
    model = next(
        (
            line.split(":")[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ),
        platform.processor(),
    )
    packages = ("tta-dev-primitives", "prefect", "httpx", "httpx-aiohttp", "aiohttp", "pydantic")
    versions = {"Python": platform.python_version(), **{name: version(name) for name in packages}}
    for name, python in peers_here().items():
        package = "litellm" if name == "LiteLLM Router" else "pydantic-ai-slim"
        code = f"from importlib.metadata import version; print(version({package!r}))"
        told = subprocess.run(
            [python, "-c", code], capture_output=True, text=True, check=False
        ).stdout.strip()
        versions[package] = told or "?"
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.release()}",
        "date": datetime.now(UTC).date().isoformat(),
        "versions": versions,
        "load_before": os.getloadavg()[0],
    }


PARTS = ("interactive", "bulk", "cold", "ledger")


def measure(parts: Sequence[str], *, quick: bool) -> dict[str, Any]:
    """The figures of some parts as one document."""
    figures: dict[str, Any] = {"machine": machine(), "latency_ms": 1000 * LATENCY_S}
    with tempfile.TemporaryDirectory(prefix="tta-bench-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        if "interactive" in parts:
            with loopback(LATENCY_S) as url, contenders(url, folder, quick=quick) as workers:
                rounds = {"W1": 2, "W2": 2, "W3": 4} if quick else {"W1": 8, "W2": 8, "W3": 20}
                figures["interactive"] = interactive(workers, rounds)
                figures["memory"] = {
                    name: {"server_mib": worker.server_peak_mib(), "client_mib": worker.end()}
                    for name, worker in workers.items()
                }
        if "bulk" in parts:
            few = ("--items", "60", "--naive-items", "4", "--concurrency", "50")
            sizes = few if quick else ("--items", "1000", "--naive-items", "40", "--rounds", "3")
            figures["bulk"] = other_benchmark("bench_bulk.py", folder / "bulk", *sizes)
        if "cold" in parts:
            figures["cold"] = cold_start(folder, rounds=4)
            figures["help"] = help_start(rounds=11)
        if "ledger" in parts:
            figures["ledger"] = other_benchmark("bench_ledger.py", folder / "ledger")
    figures["machine"]["load_after"] = os.getloadavg()[0]
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="a few rounds, nothing written")
    parser.add_argument("--json", type=Path, help="keep the raw figures here")
    parser.add_argument("--page", type=Path, help="write the page from such a file, measure nothing")
    parser.add_argument(
        "--only", choices=PARTS, help="measure this part; the others stay as in the file of --json"
    )
    given = parser.parse_args()
    if given.page is not None:
        write_page(json.loads(given.page.read_text()))
        return
    parts: tuple[str, ...] = (
        ("interactive", "bulk") if given.quick else (given.only,) if given.only else PARTS
    )
    figures: dict[str, Any] = {}
    if given.only and given.json is not None and given.json.exists():
        figures = json.loads(given.json.read_text())
    for part in parts:
        figures |= measure((part,), quick=given.quick)
        if given.json is not None:
            given.json.write_text(json.dumps(figures, indent=1))
    if given.quick:
        for row in figures["bulk"]:
            print(f"W4 {row['name']:14} {row['rate']:8.1f} items/s", file=sys.stderr)
    elif figures.keys() >= {"interactive", "bulk", "cold", "ledger"}:
        write_page(figures)


if __name__ == "__main__":
    main()
