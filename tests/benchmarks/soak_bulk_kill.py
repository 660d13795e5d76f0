"""Kill a bulk job again and again: two processes on one ledger, SIGKILL at random moments, provider-side count.

    python tests/benchmarks/soak_bulk_kill.py [--tasks 1000] [--kills 100] [--seed 1]

Two jobs of half the tasks each run at the same time and are killed again and again; then both run to their ends.
Prints how many completed tasks were paid for twice (0), how many calls were on their way when their process died
(billed twice by the provider, held and charged by the ledger), and whether the ledger's books cover the bill.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from decimal import Decimal
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))
from bulk_process import BulkProcess
from sandbox_runs import KEY, KEY_VALUE, sandbox_config

from tta_dev_primitives.blocks.ledger.ledger import Ledger
from tta_dev_primitives.blocks.prefect_server.manager import server_environment, start_server, stop_server
from tta_dev_primitives.deployments.sandbox import Sandbox, parse_scenario


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tasks", type=int, default=1000)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    base = Path(tempfile.mkdtemp(prefix="soak-"))
    server = start_server(home=base)
    try:
        with Sandbox(parse_scenario("defaults: {latency: 0.05}")).start() as sandbox:
            environment = {**server_environment(server), KEY: KEY_VALUE, "TTA_HOME": str(base)}
            ok = _soak(base, sandbox, environment, given)
    finally:
        stop_server(home=base)
    sys.exit(0 if ok else 1)


def _soak(base: Path, sandbox: Sandbox, environment: dict[str, str], given: argparse.Namespace) -> bool:
    jobs: list[BulkProcess] = []
    for what in ("note", "poem"):
        folder = base / what
        folder.mkdir()
        config = sandbox_config(
            sandbox, base, validation={"mode": "always"}, cost_tracking={"budget_limit_usd": 1000}
        )
        jobs.append(BulkProcess(folder, sandbox, config, environment))
        jobs[-1].write_tasks(given.tasks // 2, what)
    twice: list[str] = []
    rng, started, kills = random.Random(given.seed), time.monotonic(), Counter[str]()

    def suffer(job: BulkProcess, seed: int) -> None:
        mine = random.Random(seed)
        # Each life does about as much as spreads the whole job over its kills.
        share = max(4, 4 * given.tasks // given.kills)
        for _ in range(given.kills // 2):
            done, before = set(job.done()), len(sandbox.calls)
            if len(done) == given.tasks // 2:
                return
            code, _ = job.stop_after(
                mine.randrange(1, share), signal.SIGKILL, "--concurrency", "20", "--chunk", "10"
            )
            kills["killed" if code == -signal.SIGKILL else "ended"] += 1
            twice.extend(job.paid_calls_for(done, before))

    threads = [threading.Thread(target=suffer, args=(job, rng.randrange(10**6))) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    ends = [job.run("--concurrency", "50").returncode for job in jobs]
    settled = jobs[0].settled(base / "ledger.db")
    paid = Counter(
        json.dumps(call.body, sort_keys=True)
        for call in sandbox.calls
        if call.provider == "anthropic" and call.billed
    )
    books = asyncio.run(_books(base))
    report = {
        "tasks": given.tasks,
        "kills": dict(kills),
        "seconds": round(time.monotonic() - started, 1),
        "exit codes of the last runs": ends,
        "done": [len(job.done()) for job in jobs],
        "completed tasks paid for twice": len(twice),
        "contents settled twice": sum(count > 1 for count in settled.values()),
        "paid calls": sum(paid.values()),
        "calls that died with their process": sum(paid.values()) - len(paid),
        "provider billed USD": str(sandbox.billed("anthropic")),
        "ledger spent and held USD": str(books),
        "ledger covers the bill": books >= sandbox.billed("anthropic"),
    }
    print(json.dumps(report, indent=1))
    return ends == [0, 0] and not twice and bool(report["ledger covers the bill"])


async def _books(base: Path) -> Decimal:
    balance = await Ledger.open(f"sqlite:///{base / 'ledger.db'}").balance()
    return balance.spent + balance.held


if __name__ == "__main__":
    main()
