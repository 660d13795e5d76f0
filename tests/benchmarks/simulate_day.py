"""A simulated job of days against the sandbox: how much free quota is used, how often refused, whether ETAs hold.

    python tests/benchmarks/simulate_day.py [--tasks 5000] [--concurrency 50] [--start 2026-03-07T10:00:00+00:00]

The whole product runs: flow, gate, scheduler, ledger, HTTP. Clock and waiting are virtual (support/virtual_day.py).
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))


def main() -> None:
    """Print every figure; exit 1 when one is missed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tasks", type=int, default=5000)
    parser.add_argument("--concurrency", type=int, default=50)
    parser.add_argument("--start", default="2026-03-07T10:00:00+00:00")
    given = parser.parse_args()
    base = Path(tempfile.mkdtemp(prefix="simulate-day-"))
    os.environ["TTA_HOME"] = str(base)
    os.environ["TTA_TEST_SANDBOX_KEY"] = "sandbox-test-key-5d1c"
    os.environ["TTA_SERVER_FOR_PID"] = str(os.getpid())
    os.environ["TTA_SERVER_PORT"] = "0"

    from tta_dev_primitives.blocks.prefect_server.manager import server_environment, start_server

    # It ends with this process, after Prefect has handed in its last events.
    os.environ.update(server_environment(start_server(home=base, wait_s=100)))
    sys.exit(0 if _run(base, given) else 1)


def _run(base: Path, given: argparse.Namespace) -> bool:
    from virtual_day import simulate

    began = time.monotonic()
    day = asyncio.run(
        simulate(base, tasks=given.tasks, concurrency=given.concurrency, start=given.start, say=_say)
    )
    end = datetime.fromtimestamp(day.end, UTC)
    print(f"{day.report.state}: {day.report.done} done, {day.report.failed} failed, {day.paid} paid calls")
    print(
        f"{(day.end - day.start) / 3600:.2f} h of virtual time, until {end:%Y-%m-%d %H:%M:%S} UTC, ", end=""
    )
    print(f"in {time.monotonic() - began:.0f} s")
    for (model, of), share in sorted(day.used.items()):
        print(f"  {of}  {model:28} {share:7.2%} of the day's quota used")
    errors = day.eta_errors
    print(f"least used of a day: {day.least_used:.2%} (>= 95 %)")
    print(f"answered 429: {day.refused.total()} of {day.calls}, {day.refused_share:.3%} (<= 0.5 %) ", end="")
    print(dict(day.refused))
    print(
        f"ETA, {len(errors)} looks from the first tenth on: worst {max(errors):.2%} of what was left (<= 10 %)"
    )
    for (at, eta), error in zip(day.etas, errors, strict=False):
        print(f"  {(at - day.start) / 3600:7.3f} h: {eta / 3600:7.3f} h left, off by {error:.2%}")
    return (
        day.report.done == given.tasks
        and day.paid == 0
        and day.least_used >= 0.95
        and day.refused_share <= 0.005
        and max(errors) <= 0.1
    )


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
