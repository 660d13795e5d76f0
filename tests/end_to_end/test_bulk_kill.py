"""Jobs that are killed and started again: nothing that was completed is paid for twice, nothing is lost."""

from __future__ import annotations

import json
import random
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from bulk_process import BulkProcess
from sandbox_runs import KEY, KEY_VALUE, sandbox_config

from tta_dev_primitives.blocks.prefect_server.manager import ServerInfo, server_environment
from tta_dev_primitives.deployments.sandbox import Sandbox, parse_scenario

pytestmark = pytest.mark.proof
TASKS = 60


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(parse_scenario("defaults: {latency: 0.03}")).start() as started:
        yield started


@pytest.fixture
def job_in(prefect_server: ServerInfo, sandbox: Sandbox, tmp_path: Path) -> Callable[[str], BulkProcess]:
    """A job in a folder of its own; all share the ledger in `tmp_path`."""
    environment = {**server_environment(prefect_server), KEY: KEY_VALUE, "TTA_HOME": str(tmp_path / "home")}

    def made(name: str, **changes: Any) -> BulkProcess:
        folder = tmp_path / name
        folder.mkdir()
        # Every answer gets a paid verdict: then there is something to pay twice.
        config = sandbox_config(sandbox, tmp_path, validation={"mode": "always"}, **changes)
        return BulkProcess(folder, sandbox, config, environment)

    return made


def test_two_jobs_killed_at_random_pay_for_nothing_twice(
    job_in: Callable[[str], BulkProcess], tmp_path: Path
) -> None:
    """kill -9 at random moments, two processes on one ledger: every completed task is paid for once."""
    rng = random.Random(7)
    jobs = [job_in("a"), job_in("b")]
    for job, what in zip(jobs, ("note", "poem"), strict=True):
        job.write_tasks(TASKS, what)

    twice: list[str] = []

    def suffer(job: BulkProcess, moments: list[int]) -> None:
        for calls in moments:
            done, before = set(job.done()), len(job.sandbox.calls)
            job.stop_after(calls, signal.SIGKILL, "--concurrency", "20", "--chunk", "10")
            twice.extend(job.paid_calls_for(done, before))

    moments = [[rng.randrange(1, 2 * TASKS) for _ in range(lives)] for lives in (2, 1)]
    threads = [threading.Thread(target=suffer, args=pair) for pair in zip(jobs, moments, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert twice == []
    for process in [job.start("--concurrency", "20") for job in jobs]:
        _, said = process.communicate(timeout=110)
        assert process.returncode == 0, said
    assert [len(job.done()) for job in jobs] == [TASKS, TASKS]
    # One settled, answered paid call for each content: what was completed was never bought again.
    assert set(jobs[0].settled(tmp_path / "ledger.db").values()) == {1}
    answered = Counter(
        json.dumps(call.body, sort_keys=True)
        for call in jobs[0].sandbox.calls
        if call.provider == "anthropic" and call.billed
    )
    # A call that was on its way when its process died was billed by the provider and had to be made again.
    assert sum(answered.values()) - len(answered) <= 4 * 20


def test_the_next_run_closes_the_run_that_was_killed(
    job_in: Callable[[str], BulkProcess], prefect_server: ServerInfo
) -> None:
    """kill -9 leaves a flow run `Running`; the next run of the same job sets it `Crashed`."""
    job = job_in("a")
    job.write_tasks(10)
    job.stop_after(3, signal.SIGKILL, "--concurrency", "2", "--detail", "item")
    assert job.run("--detail", "item").returncode == 0
    killed, last = json.loads(job.target.with_name("out.jsonl.job.json").read_text())["flow_run_ids"]

    def state_of(run_id: str) -> str:
        known = server_environment(prefect_server).get("PREFECT_API_AUTH_STRING")
        login = tuple(known.split(":", 1)) if known else None
        reply = httpx.get(f"{prefect_server.url}/flow_runs/{run_id}", auth=login)  # type: ignore[arg-type]
        return str(reply.raise_for_status().json()["state_name"])

    assert (state_of(killed), state_of(last)) == ("Crashed", "Completed")


def test_ctrl_c_ends_in_good_order(job_in: Callable[[str], BulkProcess], tmp_path: Path) -> None:
    """SIGINT: calls under way end and are settled, what is done is written, the exit code is 130."""
    job = job_in("a")
    job.write_tasks(TASKS)
    code, said = job.stop_after(25, signal.SIGINT, "--concurrency", "10", "--chunk", "10")
    assert code == 130, said
    assert "the same command goes on" in said
    assert "Traceback" not in said
    calls, done = len(job.sandbox.calls), set(job.done())
    assert len(done) < TASKS
    ended = job.run("--json")
    assert ended.returncode == 0, ended.stderr
    report = json.loads(ended.stdout)
    assert report["done"] == TASKS
    assert report["done_before"] == len(done)
    assert job.paid_calls_for(done, 0) == sorted(done)
    assert job.paid_calls_for(done, calls) == []
    assert set(job.settled(tmp_path / "ledger.db").values()) == {1}
    billed = Counter(json.dumps(c.body, sort_keys=True) for c in job.sandbox.calls if c.billed)
    assert set(billed.values()) == {1}


def test_usage_mistakes_cost_no_start(job_in: Callable[[str], BulkProcess]) -> None:
    """A wrong option or file is told in one line, with exit code 2, before anything is started."""
    job = job_in("a")
    job.source.write_text("")
    assert job.run().returncode == 2
    job.write_tasks(1)
    for options, word in ((["--patience", "soon"], "--patience"), (["--max-cost", "-1"], "--max-cost")):
        ended = job.run(*options)
        assert ended.returncode == 2
        assert word in ended.stderr
        assert ended.stderr.count("\n") == 1
    assert job.sandbox.calls == []


def test_ctrl_c_leaves_a_batch_at_the_provider(
    job_in: Callable[[str], BulkProcess], sandbox: Sandbox, tmp_path: Path
) -> None:
    """SIGINT while verdicts wait in a batch: it is not canceled, and the same command collects it."""
    sandbox.use(parse_scenario("batches: {delay: 12}"))
    job = job_in("a")
    job.write_tasks(3)
    # Three answers, the look at the list, and the submission.
    code, said = job.stop_after(4, signal.SIGINT, "--batch")
    assert code == 130, said
    ended = job.run("--batch", "--json")
    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout)["accepted"] == 3
    endpoints = Counter(call.endpoint for call in sandbox.calls if call.provider == "anthropic")
    assert endpoints["chat"] == 3
    assert all(call.batch for call in sandbox.calls if call.provider == "anthropic" and call.billed)
    assert sum(job.settled(tmp_path / "ledger.db").values()) == 3
