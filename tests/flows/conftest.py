"""Flow runs against a sandbox provider and the session's Prefect server."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sandbox_runs import KEY, KEY_VALUE, MakeWorkflow, sandbox_config, save_up, workflow_of
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
def make_workflow(prefect_server: ServerInfo, tmp_path: Path) -> MakeWorkflow:
    """Builds a workflow on a sandbox; keyword arguments replace sections of the configuration.

    `saved`: USD that the month has saved already.
    """

    def make(sandbox: Sandbox, saved: str | None = None, **changes: Any) -> Any:
        workflow = workflow_of(sandbox_config(sandbox, tmp_path, **changes), tmp_path)
        if saved is not None:
            save_up(workflow, saved)
        return workflow

    return make
