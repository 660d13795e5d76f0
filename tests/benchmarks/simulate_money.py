"""Prints what a month saves at 20, 60 and 400 open tasks, and the lowest moment of any run: offline, seconds, no keys.

    python tests/benchmarks/simulate_money.py [--runs 60]

It drives the product's own state machine and risk ledger over synthetic tasks (tests/support/synthetic_month.py): free
judges pass 95 % of good and 60 % of bad answers, verdicts 95 and 10 %, comparisons err in 5 %. Savings are against the
baseline that the product shows; "lowest" is the lowest running saving of all runs in millionths of a USD.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "support"))

from synthetic_month import LENGTHS, World, run_month  # noqa: E402

from tta_dev_primitives.flows.validation.case import Policy  # noqa: E402

_AT = (20, 60, 400)


def line(title: str, world: World, runs: int, *, promise: bool = True) -> None:
    """One line of the table."""
    months = [run_month(world, _AT[-1], random.Random(seed), promise=promise) for seed in range(runs)]
    cells = []
    for at in _AT:
        saved = [month.savings[at - 1] for month in months]
        cells.append(f"{statistics.mean(saved):4.0%} ({min(saved):5.0%})")
    lowest = min(month.lowest for month in months) * 1_000_000
    right = statistics.mean(1 - month.bad / _AT[-1] for month in months)
    overdrawn = sum(month.bad > world.policy.eps * _AT[-1] for month in months)
    print(
        f"{title:44} {'  '.join(cells)}  lowest {lowest:8.0f}  right {right:5.1%}  overdrawn {overdrawn}/{runs}"
    )


def main() -> None:
    """Print every figure."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=60)
    runs = parser.parse_args().runs
    print(f"saving at {' / '.join(map(str, _AT))} tasks, mean of {runs} runs (worst)")
    for threshold in (0.75, 0.85, 0.95):
        policy = Policy(threshold=threshold)
        for lengths in LENGTHS:
            for families in (1, 2, 3):
                world = World(lengths, families, policy=policy)
                line(f"{lengths}, 5 % failures, {families} free, {threshold}", world, runs)
    for lengths in LENGTHS:
        line(f"{lengths}, 15 % failures, 1 free, 0.85", World(lengths, 1, failures=0.15), runs)
        line(f"{lengths}, 5 % failures, 2 free, no promise", World(lengths), runs, promise=False)
    for lengths in ("40 tokens", "MT-Bench"):
        for share in (0.05, 0.1, 0.3):
            world = World(lengths, 0, (share, share))
            line(f"{lengths}, two paid executors at {share:.0%}", world, runs)


if __name__ == "__main__":
    main()
