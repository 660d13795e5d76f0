"""Batch jobs that are killed at each point of a batch's life, and at random: nothing is paid twice, nothing is lost."""

from __future__ import annotations

import json
import os
import random
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import closing
from decimal import Decimal
from pathlib import Path

import pytest
import yaml
from ledger_tools import BATCH_FAILPOINTS
from sandbox_runs import CLAUDE, KEY, KEY_VALUE, executor, sandbox_config

from tta_dev_primitives.blocks.ledger.money import from_pico
from tta_dev_primitives.blocks.prefect_server.manager import ServerInfo, server_environment
from tta_dev_primitives.deployments.sandbox import Sandbox, parse_scenario

WORKER = Path(__file__).parents[1] / "support" / "batch_worker.py"


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(parse_scenario("batches: {delay: [0.1, 1.0]}")).start() as started:
        yield started


class Job:
    """A batch job over files, run by processes of its own."""

    def __init__(self, sandbox: Sandbox, folder: Path, environment: Mapping[str, str], tasks: int) -> None:
        self.sandbox, self.folder = sandbox, folder
        config = sandbox_config(
            sandbox,
            folder,
            executors=[executor(CLAUDE, "anthropic", ["moderate"])],
            fallback_strategy={"models": [CLAUDE]},
            validation={"mode": "never"},
        )
        (folder / "config.yaml").write_text(yaml.safe_dump({"orchestration": config}))
        rows = [
            {"id": str(n), "task": f"Summarize note {n} now.", "use_case": "moderate"} for n in range(tasks)
        ]
        (folder / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        self._environment = {**os.environ, **environment, KEY: KEY_VALUE, "TTA_HOME": str(folder / "home")}

    def start(self, failpoint: str = "") -> subprocess.Popen[str]:
        names = [str(self.folder / name) for name in ("config.yaml", "in.jsonl", "out.jsonl")]
        return subprocess.Popen(
            [sys.executable, str(WORKER), *names],
            env={**self._environment, "TTA_FAILPOINT": failpoint},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def finish(self, tasks: int) -> None:
        """Run to the end, and compare output, ledger and the provider's bill."""
        process = self.start()
        said, _ = process.communicate(timeout=300)
        assert process.returncode == 0, said[-3000:]
        done = [json.loads(line) for line in (self.folder / "out.jsonl").read_text().splitlines()]
        assert sorted(line["id"] for line in done) == sorted(str(n) for n in range(tasks))
        assert all(line["accepted"] for line in done)
        billed = Counter(json.dumps(call.body["messages"]) for call in self.sandbox.calls if call.billed)
        assert (len(billed), set(billed.values())) == (tasks, {1})
        assert all(call.batch for call in self.sandbox.calls if call.billed)
        with closing(sqlite3.connect(self.folder / "ledger.db")) as ledger:
            [(spent, held)] = ledger.execute("SELECT spent, held FROM ledger_month").fetchall()
        assert (from_pico(spent), held) == (self.sandbox.billed(), 0)
        alone = sum((2 * Decimal(line["cost_usd"]) for line in done), Decimal(0))
        assert alone <= 2 * self.sandbox.billed()


@pytest.fixture
def environment(prefect_server: ServerInfo) -> Mapping[str, str]:
    return server_environment(prefect_server)


ALWAYS = ("batch.submitted", "batch.settled")
"""Points that every run of the tests tries; the others belong to the proofs."""


@pytest.mark.parametrize(
    "point",
    [pytest.param(point, marks=[] if point in ALWAYS else pytest.mark.proof) for point in BATCH_FAILPOINTS],
)
@pytest.mark.timeout(400)
def test_a_crash_at_each_point(
    point: str, sandbox: Sandbox, tmp_path: Path, environment: Mapping[str, str]
) -> None:
    """Holds, upload, submission, its record, results, the first settlement: the next run goes on there."""
    job = Job(sandbox, tmp_path, environment, 4)
    process = job.start(point)
    process.communicate(timeout=120)
    assert process.returncode == -9
    for _ in range(2):
        # The first may find that nothing was submitted: it gives the money back, and the next asks.
        process = job.start()
        process.communicate(timeout=120)
        if process.returncode == 0:
            break
    job.finish(4)


@pytest.mark.proof
@pytest.mark.timeout(1800)
def test_killed_at_random(sandbox: Sandbox, tmp_path: Path, environment: Mapping[str, str]) -> None:
    """Twenty kills at random moments: the cost is exactly what the provider billed, half the list price."""
    tasks, rng = 500, random.Random(11)
    job = Job(sandbox, tmp_path, environment, tasks)
    sandbox.use(parse_scenario("batches: {delay: [5.0, 20.0]}"))
    for _ in range(20):
        process = job.start()
        time.sleep(rng.uniform(2.0, 14.0))
        process.kill()
        process.communicate()
    for _ in range(3):
        process = job.start()
        process.communicate(timeout=300)
        if process.returncode == 0:
            break
    job.finish(tasks)
