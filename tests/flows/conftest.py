"""Flow runs against a sandbox provider and the session's Prefect server."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sandbox_runs import KEY, KEY_VALUE, At, AtSandbox, sandbox_config, save_up, workflow_of
from strict_requests import faults_of_calls

from tta_dev_primitives.blocks.prefect_server.manager import ServerInfo
from tta_dev_primitives.deployments.sandbox import Sandbox, parse_scenario


@pytest.fixture
def sandbox_of(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Sandbox]]:
    """Starts sandboxes with a scenario text; they end with the test, and their requests are checked strictly."""
    monkeypatch.setenv(KEY, KEY_VALUE)
    started: list[Sandbox] = []

    def start(scenario: str = "", **options: Any) -> Sandbox:
        started.append(Sandbox(parse_scenario(scenario) if scenario else None, **options).start())
        return started[-1]

    yield start
    for sandbox in started:
        sandbox.stop()
        assert faults_of_calls(sandbox.calls) == []


@pytest.fixture
def at(sandbox_of: Callable[..., Sandbox], prefect_server: ServerInfo, tmp_path: Path) -> At:
    """Builds a workflow at a sandbox, or at a new one with this scenario; keywords replace sections of the file.

    `saved`: USD that the month has saved already.
    """

    def make(served: Sandbox | str = "", saved: str | None = None, **changes: Any) -> AtSandbox:
        sandbox = sandbox_of(served) if isinstance(served, str) else served
        workflow = workflow_of(sandbox_config(sandbox, tmp_path, **changes), tmp_path)
        workflow.sandbox = sandbox
        if saved is not None:
            save_up(workflow, saved)
        return workflow

    return make
