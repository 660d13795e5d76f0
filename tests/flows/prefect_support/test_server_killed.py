"""The embedded server is killed during a run: one line at once, no task has failed, nothing is lost."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from fixtures_prefect import own_server
from prefect import get_client
from sandbox_runs import AtSandbox, BulkJob, SandboxOf, sandbox_config, workflow_of

from tta_dev_primitives.blocks.prefect_server.manager import ServerInfo, holds_port
from tta_dev_primitives.flows.prefect_support.api_connection import watch_port
from tta_dev_primitives.flows.prefect_support.loop_connection import background_done
from tta_dev_primitives.orchestration import PrefectServerError

pytestmark = [pytest.mark.server, pytest.mark.prefect]
ENDED = (
    "The embedded Prefect server on port .* ended. To fix: run the command again; what was answered is stored"
)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerInfo]:
    with own_server(tmp_path / "server") as info:
        assert info.home is not None
        watch_port(info.home, urlsplit(info.url).port or 0)
        yield info


@pytest.fixture
def workflow(server: ServerInfo, sandbox_of: SandboxOf, tmp_path: Path) -> AtSandbox:
    """Its first call is open when the server is killed; every task is asked once."""

    async def kill(_: float) -> None:
        assert server.home is not None
        assert server.pid is not None
        if holds_port(server.home, port):
            os.kill(server.pid, signal.SIGKILL)
        while holds_port(server.home, port):  # noqa: ASYNC110
            await asyncio.sleep(0.02)

    port = urlsplit(server.url).port or 0
    sandbox = sandbox_of("defaults: {latency: 1}", sleep=kill)
    made = workflow_of(sandbox_config(sandbox, tmp_path, validation={"mode": "always"}), tmp_path)
    made.sandbox = sandbox
    return made


async def limit_of_a_tag() -> None:
    """With it each task run needs the API; without one Prefect asks once in five seconds."""
    async with get_client() as client:
        await client.create_concurrency_limit("use_case:moderate", 10)


async def test_a_run_ends_with_one_line(workflow: AtSandbox, caplog: pytest.LogCaptureFixture) -> None:
    await limit_of_a_tag()
    with pytest.raises(PrefectServerError, match=ENDED):
        await workflow.execute("Describe how a kettle works.", use_case="moderate")
    await background_done()
    said = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert all(len(line) < 200 and "\n" not in line for line in said), said
    assert not [record for record in caplog.records if record.exc_info]


async def test_the_tasks_of_a_job_are_left_and_not_failed(workflow: AtSandbox, tmp_path: Path) -> None:
    await limit_of_a_tag()
    job = BulkJob(workflow, tmp_path, 300)
    with pytest.raises(PrefectServerError, match=ENDED):
        await job.run(concurrency=2)
    assert [line for line in job.lines() if line["error"]] == []
    assert len(job.lines()) < 300
