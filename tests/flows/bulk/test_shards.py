"""One job on several workers: the file is split, a shard whose process is killed starts again, the output is whole."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import yaml
from fixtures_prefect import own_server
from sandbox_runs import KEY, KEY_VALUE, sandbox_config

from tta_dev_primitives.blocks.ledger.ledger import Ledger
from tta_dev_primitives.blocks.prefect_server.manager import ServerInfo
from tta_dev_primitives.config.errors import ConfigError
from tta_dev_primitives.deployments.apply import deploy_all
from tta_dev_primitives.deployments.sandbox import Sandbox
from tta_dev_primitives.flows.bulk.job_file import JobFile
from tta_dev_primitives.flows.bulk.output import Output
from tta_dev_primitives.flows.bulk.reader import Record
from tta_dev_primitives.flows.bulk.shard_files import ShardFiles
from tta_dev_primitives.flows.bulk.shard_runs import parameters_of_shards, require_deployment
from tta_dev_primitives.flows.tasks.result import BudgetView, OrchestrationResult

POOL, TASKS = "shards", 90
SLOW = """
defaults: {latency: 0.3}
rules: [{match: {contains: "number 7 in"}, reply: {error: content_policy}}]
"""


def result(name: str) -> OrchestrationResult:
    """An answer."""
    budget = BudgetView(month="2026-11", limit_usd=None, spent_usd=0, held_usd=0)  # type: ignore[arg-type]
    return OrchestrationResult(
        content=f"Answer {name}.", model="m", provider="groq", use_case="simple", accepted=True, budget=budget
    )


def records(count: int) -> list[Record]:
    """Tasks with ids of their own."""
    return [
        Record(
            n + 1,
            f"t{n}",
            f"Task {n}: “ü”",
            "simple",
            "Be brief." if n % 2 else None,
            seed=n if n % 3 else None,
            extra={"team": n},
        )
        for n in range(count)
    ]


def test_a_split_file_keeps_every_task_its_line_and_its_digest(tmp_path: Path) -> None:
    """No task twice, none lost; opened again, each shard knows its tasks."""
    given = records(7)
    files = ShardFiles.open(tmp_path / "out.jsonl")
    made = files.split(given, 3, JobFile(input="in", config_digest="d"))
    assert [len(shard.places) for shard in made] == [3, 2, 2]
    again = ShardFiles.open(tmp_path / "out.jsonl")
    found = [shard.record(name) for shard in again.shards for name in shard.places]
    assert sorted(found, key=lambda one: one.number if one else 0) == given
    assert [one.extra for one in found if one and one.number == 3] == [{"team": 2}]
    assert {one.digest for one in found if one} == {one.digest for one in given}
    assert JobFile.read(made[0].target) is not None


def test_answers_are_taken_once_and_failures_at_the_end(tmp_path: Path) -> None:
    """A shard may try a failed task again, put its output in order, and be in the middle of a line."""
    files = ShardFiles.open(tmp_path / "out.jsonl")
    (shard,) = files.split(records(3), 1, JobFile(input="in", config_digest="d"))
    failed = {"type": "AllModelsFailedError", "message": "every model failed"}
    with Output(shard.target) as output:
        tasks = [shard.record(f"t{n}") for n in range(3)]
        assert all(tasks)
        output.write(tasks[0], result("t0"), None)  # type: ignore[arg-type]
        output.write(tasks[1], result("t1"), failed)  # type: ignore[arg-type]
        assert shard.process() == "works"
        assert [answer.id for answer in shard.answers(ended=False)] == ["t0"]
        assert list(shard.answers(ended=False)) == []
        output.write(tasks[1], result("t1"), None)  # type: ignore[arg-type]
        output.write(tasks[2], result("t2"), failed)  # type: ignore[arg-type]
        output.finish(ordered=True)
    with shard.target.open("ab") as file:
        file.write(b'{"id": "t9", "err')
    assert [answer.id for answer in shard.answers(ended=False)] == ["t1"]
    (last,) = shard.answers(ended=True)
    assert (last.id, type(last.error).__name__, str(last.error)) == (
        "t2",
        "AllModelsFailedError",
        "every model failed",
    )


def test_a_process_that_left_its_lock_is_gone(tmp_path: Path) -> None:
    """Held: it works, however old. Free and old: gone. Free and just renewed, or never there: not known to be gone."""
    files = ShardFiles.open(tmp_path / "out.jsonl")
    (shard,) = files.split(records(1), 1, JobFile(input="in", config_digest="d"))
    assert shard.process() == "unseen"
    with Output(shard.target):
        os.utime(shard.lock, (0, 0))
        assert shard.process() == "works"
        kept = shard.lock.with_name("kept")
        os.link(shard.lock, kept)
    kept.rename(shard.lock)  # as a killed process leaves it
    assert shard.process() == "gone"
    shard.lock.touch()
    assert shard.process() == "works"


@pytest.mark.server
@pytest.mark.prefect
async def test_shards_without_their_deployment_are_refused_first(prefect_server: ServerInfo) -> None:
    """Before anything is planned or paid, with the remedy."""
    with pytest.raises(
        ConfigError, match=r"orchestrate-bulk/shard is not on the server\. To fix: run `tta deploy`"
    ):
        await require_deployment()


def test_each_shard_gets_its_part(tmp_path: Path) -> None:
    """Open calls are rounded up, the ceiling down: all together spend no more than the job may."""
    given = {"input_path": "i", "output_path": "o", "shards": 3, "concurrency": 50, "max_cost": Decimal(1),
             "ordered": True, "keep_going": True, "config_path": None, "output_schema": {}}  # fmt: skip
    made = parameters_of_shards(given, 3, config_path="/c.yaml", left_usd=Decimal("0.5"))
    assert made == {
        "concurrency": 17,
        "max_cost": Decimal("0.166666666"),
        "keep_going": True,
        "config_path": "/c.yaml",
    }
    assert parameters_of_shards(given, 3, config_path=None, left_usd=Decimal(-1))["max_cost"] == 0


@contextmanager
def worker(folder: Path, name: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process worker with a home and a process group of its own."""
    home = folder / name
    home.mkdir()
    env = {**os.environ, KEY: KEY_VALUE, "TTA_HOME": str(home / "tta"), "PREFECT_HOME": str(home / "prefect"),
           "TTA_CONFIG_FOLDERS": str(folder), "PREFECT_WORKER_QUERY_SECONDS": "1", "DO_NOT_TRACK": "1"}  # fmt: skip
    command = [
        sys.executable,
        "-m",
        "prefect",
        "worker",
        "start",
        "--pool",
        POOL,
        "--name",
        name,
        "--limit",
        "1",
    ]
    with (folder / f"{name}.log").open("wb") as log:
        process = subprocess.Popen(command, env=env, cwd=home, stdout=log, stderr=log, start_new_session=True)
        try:
            yield process
        finally:
            for pid in [process.pid, *offspring(process.pid)]:
                kill(pid)
            process.wait(110)


def offspring(pid: int) -> list[int]:
    """Every process that `pid` has started, directly or not."""
    found: list[int] = []
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        found += [int(child), *offspring(int(child))]
    return found


def kill(pid: int) -> None:
    """End one process at once."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def seen(sandbox: Sandbox, calls: int, job: asyncio.Future[Any]) -> None:
    """Wait until the provider has seen so many calls, or the job has ended."""
    while not job.done() and len(sandbox.calls) < calls:
        time.sleep(0.05)


@pytest.mark.server
@pytest.mark.prefect
@pytest.mark.proof
# Processes are killed meanwhile: what a library was about to wait for is collected unawaited.
@pytest.mark.filterwarnings(
    "ignore:Exception ignored in. <coroutine object sleep:pytest.PytestUnraisableExceptionWarning"
)
async def test_three_workers_share_a_job_and_one_is_killed(
    sandbox_of: Callable[..., Sandbox], tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Every task once in the output, in order; one report; no call is paid twice but those that the kill cut off."""
    sandbox = sandbox_of(SLOW)
    config = tmp_path / "config.yaml"
    settings = sandbox_config(sandbox, tmp_path, validation={"mode": "always"})
    config.write_text(yaml.safe_dump({"orchestration": settings}))
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text(
        "".join(
            json.dumps({"id": f"t{n}", "task": f"Describe number {n} in a word.", "use_case": "moderate"})
            + "\n"
            for n in range(TASKS)
        )
    )
    with ExitStack() as stack:
        stack.enter_context(own_server(tmp_path_factory.mktemp("prefect-server")))
        await deploy_all(work_pool=POOL, config_path=str(config), working_dir=None)
        workers = [stack.enter_context(worker(tmp_path, f"worker-{n}")) for n in range(3)]
        command = [sys.executable, "-m", "tta_dev_primitives", "bulk", str(source), "--out", str(target),
                   "--config", str(config), "--shards", "3", "-n", "6", "--ordered", "--json"]  # fmt: skip
        job = await asyncio.create_subprocess_exec(
            *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
        )
        waiting = asyncio.create_task(job.communicate())
        await asyncio.to_thread(seen, sandbox, TASKS // 3, waiting)
        for pid in [workers[0].pid, *offspring(workers[0].pid)]:
            kill(pid)
        out, err = await waiting
    report: dict[str, Any] = json.loads(out)
    lines = [json.loads(line) for line in target.read_text().splitlines()]
    assert [line["id"] for line in lines] == [f"t{n}" for n in range(TASKS)], err.decode()
    assert (report["state"], report["done"], report["left"]) == ("complete", TASKS - 1, 0)
    assert (report["failed"], job.returncode) == (1, 1)
    assert lines[7]["error"]["type"] == "AllModelsFailedError"
    assert not (tmp_path / "out.jsonl.shards").exists()
    asked = Counter(str(call.body) for call in sandbox.calls if call.billed)
    assert sum(count - 1 for count in asked.values()) <= 2  # what the killed process had open
    ledger = Ledger.open(f"sqlite:///{tmp_path / 'ledger.db'}")
    assert await ledger.verify() == []
    # The calls that the kill cut off have a lease, which ends minutes after the job.
    await Ledger(ledger.database, scope=ledger.scope, clock=lambda: time.time() + 1_200).sweep()
    balance, billed = await ledger.balance(), sandbox.billed("anthropic")
    assert billed > 0
    assert balance.held == 0
    # Equal, but for calls of the killed worker, which are charged at their bound.
    assert balance.spent - balance.presumed <= billed <= balance.spent
    assert len(await ledger.open_calls(balance.month)) <= 2
