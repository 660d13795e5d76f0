"""Prints what the design saves, by kind of task, threshold and number of free families: offline, minutes, no keys.

    python tests/benchmarks/simulate_money.py [--runs 24] [--first 5000] [--recorded ../shared/data/replay]

Each line: the saving after 20, 50, 60, 100 and 400 tasks, mean of all runs (worst run), then right answers against the
paid model's, drift alarms of all runs, and runs that ended with more wrong deliveries than the threshold allows.

The product's own state machine and risk ledger decide. GSM8K and mix are recorded answers (support/offline_replay.py).
The other tasks are open and drawn (support/synthetic_month.py): a free answer is wrong in 5 %, free judges pass 95 % of
good and 60 % of bad answers, verdicts 95 and 10 %, comparisons err in 5 %. Their savings are against the baseline that
the product shows; "lowest" is the lowest running saving of any run, in millionths of a USD.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "support"))

from offline_replay import DEEPSEEK, MIX, Recorded, Scenario, load, mix, replay  # noqa: E402
from synthetic_month import LENGTHS, World, run_month  # noqa: E402

from tta_dev_primitives.flows.validation.case import Policy  # noqa: E402

_AT = (20, 50, 60, 100, 400)
_THRESHOLDS = (0.75, 0.85, 0.95)


def line(
    title: str, savings: Sequence[Sequence[float]], right: Sequence[float], alarms: int, over: int, more: str
) -> None:
    """One line of the table."""
    cells = []
    for at in _AT:
        then = [run[at - 1] for run in savings]
        cells.append(f"{statistics.mean(then):4.0%} ({min(then):5.0%})")
    print(
        f"{title:42} {' '.join(cells)}  right {statistics.mean(right):6.1%} ({min(right):4.0%})"
        f"  alarms {alarms}  overdrawn {over}/{len(savings)}{more}",
        flush=True,
    )


def drawn(title: str, world: World, seeds: Sequence[int], *, promise: bool = True) -> None:
    """A line of tasks with known truth."""
    last = _AT[-1]
    months = [run_month(world, last, random.Random(seed), promise=promise) for seed in seeds]
    line(
        title,
        [month.savings for month in months],
        [1 - month.bad / last for month in months],
        sum(month.alarms for month in months),
        sum(month.bad > world.policy.eps * last for month in months),
        f"  lowest {min(month.lowest for month in months) * 1_000_000:.0f}",
    )


def recorded(
    title: str, scenario: Scenario, tasks: Callable[[random.Random], list[Recorded]], seeds: Sequence[int]
) -> None:
    """A line of recorded answers."""
    scores = [replay(scenario, tasks(rng), rng) for rng in map(random.Random, seeds)]
    line(
        title,
        [score.savings for score in scores],
        [score.relative_accuracy for score in scores],
        sum(len(score.alarms) for score in scores),
        sum(score.violated for score in scores),
        "",
    )


def main() -> None:
    """Print every figure."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    shared = Path(os.environ.get("TTA_SHARED", ROOT.parent / "shared"))
    parser.add_argument("--runs", type=int, default=24)
    parser.add_argument("--first", type=int, default=5000, help="the first seed")
    parser.add_argument("--recorded", type=Path, default=shared / "data" / "replay")
    parser.add_argument(
        "--bars", action="store_true", help="only two free families at 0.85, and paid executors"
    )
    asked = parser.parse_args()
    seeds = range(asked.first, asked.first + asked.runs)
    print(
        f"saving at {' / '.join(map(str, _AT))} tasks, mean of {asked.runs} runs (worst), seeds from {asked.first}"
    )
    settings = [(t, f) for t in _THRESHOLDS for f in (1, 2, 3) if not asked.bars or (t, f) == (0.85, 2)]
    if asked.recorded.is_dir():
        corpora = {name: load(asked.recorded, name) for name, _ in MIX}
        base = Scenario.of(ROOT / "config" / "scenarios" / "balanced.yaml", DEEPSEEK)
        for threshold, families in settings:
            config = base.config.model_copy(update={"quality_threshold": threshold})
            scenario = replace(base, config=config, families=families)
            what = f"{families} free, {threshold}"
            recorded(f"GSM8K, {what}", scenario, lambda rng: rng.sample(corpora["gsm8k"], 400), seeds)
            recorded(f"mix 70/20/10, {what}", scenario, lambda rng: mix(corpora, 400, rng), seeds)
    else:
        print(f"no recorded answers in {asked.recorded}: GSM8K and the mix are left out")
    for threshold, families in settings:
        for lengths in LENGTHS:
            world = World(lengths, families, policy=Policy(threshold=threshold))
            drawn(f"{lengths}, {families} free, {threshold}", world, seeds)
    for lengths in ("40 tokens", "MT-Bench"):
        drawn(f"{lengths}, 15 % wrong, 1 free, 0.85", World(lengths, 1, failures=0.15), seeds)
        drawn(f"{lengths}, 2 free, 0.85, without the promise", World(lengths), seeds, promise=False)
        for share in (0.05, 0.1, 0.3):
            drawn(f"{lengths}, two paid executors at {share:.0%}", World(lengths, 0, (share, share)), seeds)


if __name__ == "__main__":
    main()
