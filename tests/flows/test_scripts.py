"""What a script of the user's own sees on its stderr and in its exit code."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from uuid import UUID

import pytest
from prefect import get_client
from sandbox_runs import KEY, At

from tta_dev_primitives.blocks.prefect_server.manager import ServerInfo, server_environment

_FORKS = """
import multiprocessing, sys
from tta_dev_primitives.orchestration import MultiModelWorkflow

workflow = MultiModelWorkflow(sys.argv[1])

def ask(number):
    print(workflow.run(f"What is {number} * 7?", use_case="simple").content)

ask(6)
child = multiprocessing.get_context("fork").Process(target=ask, args=(8,))
child.start()
child.join()
sys.exit(child.exitcode)
"""
_FAILS = """
import sys
from tta_dev_primitives.orchestration import MultiModelWorkflow, OrchestrationError

try:
    MultiModelWorkflow(sys.argv[1]).run("Prove that there are infinitely many primes.", use_case="expert")
except OrchestrationError as error:
    print(f"{type(error).__name__}: {error}")
"""
_HAS_A_BUG = """
import sys
from tta_dev_primitives.flows import orchestrate_flow
from tta_dev_primitives.orchestration import MultiModelWorkflow

async def run_items(runtime, items):
    raise RuntimeError("nobody expected this")

orchestrate_flow.run_items = run_items
try:
    MultiModelWorkflow(sys.argv[1]).run("Prove it.", use_case="expert")
except RuntimeError as error:
    print(error)
"""
_CALLS_THE_FLOW = """
import asyncio, sys
from tta_dev_primitives.flows import orchestrate

result = asyncio.run(orchestrate("What is 6 * 7?", use_case="simple", config_path=sys.argv[1]))
print(result.content)
print(result.flow_run_id)
"""


def _run(script: str, config: Path, folder: Path) -> subprocess.CompletedProcess[str]:
    # A command that another test ran in this process has quieted Prefect's console log.
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith("PREFECT_LOGGING_")
    }
    return subprocess.run(
        [sys.executable, "-c", script, str(config)],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )


def _errors(ran: subprocess.CompletedProcess[str]) -> list[str]:
    """On a busy machine Prefect also warns that its last events are still on their way."""
    return [line for line in ran.stderr.splitlines() if "| WARNING | EventsWorker" not in line]


@pytest.fixture
def config(at: At) -> Path:
    """A configuration whose every model works."""
    return at().config.source


def test_a_forked_child_of_a_process_that_ran_flows_ends_well(config: Path, tmp_path: Path) -> None:
    """Its answer is right, so its exit code is 0."""
    ran = _run(_FORKS, config, tmp_path)
    assert ran.returncode == 0, ran.stderr
    assert [line.rpartition(" ")[2] for line in ran.stdout.splitlines()] == ["42.", "56."]


def test_a_missing_key_is_raised_to_the_script_and_not_logged(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The script has the error with the variable's name: stderr need not repeat it."""
    monkeypatch.delenv(KEY)
    ran = _run(_FAILS, config, tmp_path)
    assert ran.stdout.startswith("MissingKeyError: ")
    assert KEY in ran.stdout
    assert _errors(ran) == []


def test_models_that_all_fail_are_one_line_on_stderr(at: At, tmp_path: Path) -> None:
    """The line has each model with its reason."""
    workflow = at("rules:\n  - {reply: {status: 400, body: {error: {message: rejected}}}}")
    ran = _run(_FAILS, workflow.config.source, tmp_path)
    assert ran.stdout.startswith("AllModelsFailedError: ")
    assert len(_errors(ran)) == 1, ran.stderr
    assert "Traceback" not in ran.stderr
    assert ran.stderr.count("HTTP 400") >= 2


async def test_a_flow_that_is_called_joins_the_server(
    config: Path, tmp_path: Path, prefect_server: ServerInfo, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing in the environment says where: the run is on the embedded server, not on a temporary one of Prefect's."""
    assert prefect_server.home is not None
    monkeypatch.setenv("TTA_HOME", str(prefect_server.home.root))
    for name in server_environment(prefect_server):
        monkeypatch.delenv(name)
    ran = _run(_CALLS_THE_FLOW, config, tmp_path)
    assert ran.returncode == 0, ran.stderr
    content, run_id = ran.stdout.splitlines()
    assert content == "[sandbox] The answer is 42."
    assert "temporary server" not in ran.stderr
    async with get_client() as client:
        run = await client.read_flow_run(UUID(run_id))
    assert run.name == "What is 6 * 7?"


def test_an_unexpected_error_keeps_its_traceback(config: Path, tmp_path: Path) -> None:
    """That is our bug: whoever fixes it needs the place."""
    ran = _run(_HAS_A_BUG, config, tmp_path)
    assert ran.stdout == "nobody expected this\n"
    assert "Traceback" in ran.stderr
    assert "RuntimeError: nobody expected this" in ran.stderr
