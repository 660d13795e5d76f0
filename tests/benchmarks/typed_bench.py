"""Prints what typed tasks save and how many fields are right: offline, seconds, no keys.

    python tests/benchmarks/typed_bench.py [--runs 20] [--tasks 300]

300 invoices, addresses, log lines and products with known truth (tests/support/typed_world.py) go through the product's
own state machine and risk ledger; models are error rates per field. Accuracy is against the paid model's right fields.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "support"))

from typed_world import Job, Models, run_job, tasks_of  # noqa: E402

from tta_dev_primitives.flows.validation.case import Policy  # noqa: E402


def jobs_of(models: Models, fields: int, tasks: int, runs: int) -> list[Job]:
    """The same job with other texts and errors."""
    found = []
    for seed in range(runs):
        rng = random.Random(seed)
        found.append(run_job(models, tasks_of(tasks, rng, fields=fields), rng))
    return found


def line(title: str, models: Models, fields: int, tasks: int, runs: int) -> None:
    """One line of the table."""
    jobs = jobs_of(models, fields, tasks, runs)
    saved, right = [job.saving for job in jobs], [job.accuracy for job in jobs]
    one = statistics.mean(job.one_free_right / job.paid_right for job in jobs)
    wrong = statistics.mean(job.wrong_agreed / job.tasks for job in jobs)
    over = sum(job.wrong_agreed > models.policy.eps * job.tasks for job in jobs)
    print(
        f"{title:46} saved {statistics.mean(saved):5.1%} (worst {min(saved):5.1%})  "
        f"fields {statistics.mean(right):6.2%} (worst {min(right):6.2%}), one free model {one:6.2%}  "
        f"wrong tasks called agreed {wrong:5.2%}, over budget {over}/{runs}"
    )


def main() -> None:
    """Print every figure."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--tasks", type=int, default=300)
    asked = parser.parse_args()
    for threshold in (0.75, 0.85, 0.95):
        policy = Policy(threshold=threshold)
        for free, fields, errors in ((3, 6, 0.06), (2, 5, 0.03), (1, 5, 0.03)):
            for shared in (0.0, 0.5):
                models = Models(free, errors, shared, policy=policy)
                title = f"{threshold}: {free} free, {fields} fields, {errors:.0%} errors, {shared:.0%} shared"
                line(title, models, fields, asked.tasks, asked.runs)


if __name__ == "__main__":
    main()
