"""`OrchestrationResult.from_flow_run`: the answer of a run that another machine carried out."""

from __future__ import annotations

import asyncio
import gc
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import yaml
from fixtures_prefect import own_server
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter
from prefect.filesystems import LocalFileSystem
from prefect.settings import PREFECT_DEFAULT_RESULT_STORAGE_BLOCK, temporary_settings
from sandbox_runs import KEY, KEY_VALUE, sandbox_config

from tta_dev_primitives.blocks.prefect_server.manager import ServerInfo
from tta_dev_primitives.deployments.apply import deploy_all
from tta_dev_primitives.deployments.sandbox import Sandbox
from tta_dev_primitives.orchestration import (
    ConfigError,
    MultiModelWorkflow,
    OrchestrationError,
    OrchestrationResult,
)

pytestmark = [
    pytest.mark.server,
    pytest.mark.prefect,
    # Prefect's API client leaves its sockets to the garbage collector: here of the reader of storage blocks.
    pytest.mark.filterwarnings(
        "ignore:Exception ignored in. <function _SelectorTransport:pytest.PytestUnraisableExceptionWarning"
    ),
]
NAME = "orchestrate/on-demand"
TASK = "Describe the sea in one sentence."


@pytest.fixture(scope="module", autouse=True)
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerInfo]:
    """A server of this module's own: it gets deployments and a storage block."""
    with own_server(tmp_path_factory.mktemp("prefect-server")) as found:
        yield found


@pytest.fixture(autouse=True)
def _collected() -> Iterator[None]:
    """What Prefect leaves to the garbage collector is collected here, where it is expected, and not in a later test."""
    yield
    gc.collect()


@pytest.fixture
async def deployed(sandbox_of: Callable[..., Sandbox], tmp_path: Path) -> str:
    """The configuration of `orchestrate/on-demand`, deployed."""
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump({"orchestration": sandbox_config(sandbox_of(), tmp_path)}))
    await deploy_all(work_pool="answers", config_path=str(path), working_dir=None, reset=True)
    return str(path)


async def run_elsewhere(home: Path, task: str, **environment: str) -> Any:
    """Carry a deployed run out in a process with a home of its own, as a worker does; the run as the API has it."""
    async with get_client() as client:
        deployment = await client.read_deployment_by_name(NAME)
        given = {"task": task, "use_case": "moderate"}
        run = await client.create_flow_run_from_deployment(
            deployment.id, parameters={**deployment.parameters, **given}
        )
        env = {**os.environ, KEY: KEY_VALUE, "TTA_HOME": str(home / "tta"), "PREFECT_HOME": str(home / "prefect"),
               "TTA_CONFIG_FOLDERS": str(home.parent), **environment}  # fmt: skip
        command = [sys.executable, "-m", "prefect.engine", str(run.id)]
        done = await asyncio.to_thread(
            subprocess.run, command, env=env, capture_output=True, text=True, timeout=110, check=False
        )
        found = await client.read_flow_run(run.id)
        assert found.state is not None, done.stderr
        return found


async def test_the_answer_of_a_worker_is_read_without_its_disk(deployed: str, tmp_path: Path) -> None:
    """The result lay in a folder of the worker that is not here: run and id both give the whole result."""
    run = await run_elsewhere(tmp_path / "worker", TASK)
    assert run.state.is_completed(), run.state
    (tmp_path / "worker").rename(tmp_path / "another-machine")
    result = await OrchestrationResult.from_flow_run(run)
    assert result.flow_run_id == str(run.id)
    assert (result.accepted, result.use_case) == (True, "moderate")
    assert result.content and result.attempts  # noqa: PT018
    assert await OrchestrationResult.from_flow_run(str(run.id)) == result


async def test_a_default_storage_of_the_user_holds_the_answer(deployed: str, tmp_path: Path) -> None:
    """With a storage block as default, the result is there, and in no artifact."""
    shared = tmp_path / "shared"
    await LocalFileSystem(basepath=str(shared)).save("shared", overwrite=True)
    block = {"PREFECT_DEFAULT_RESULT_STORAGE_BLOCK": "local-file-system/shared"}
    run = await run_elsewhere(tmp_path / "worker", TASK, **block)
    (tmp_path / "worker").rename(tmp_path / "another-machine")
    assert run.state.data.storage_block_id is not None
    result = await OrchestrationResult.from_flow_run(run)
    assert result.content in (shared / run.state.data.storage_key).read_text()
    async with get_client() as client:
        of_run = ArtifactFilter.model_validate({"flow_run_id": {"any_": [str(run.id)]}})
        written = {one.key for one in await client.read_artifacts(artifact_filter=of_run)}
        assert "tta-result" in written
        assert "tta-answer" not in written
    with temporary_settings({PREFECT_DEFAULT_RESULT_STORAGE_BLOCK: "local-file-system/shared"}):
        here = await asyncio.to_thread(MultiModelWorkflow(deployed).run, TASK + " Anew.", "moderate")
        assert here.flow_run_id is not None
        again = await OrchestrationResult.from_flow_run(here.flow_run_id)
        assert again == here
        async with get_client() as client:
            ended = await client.read_flow_run(again.flow_run_id)  # type: ignore[arg-type]
        assert ended.state is not None
        assert ended.state.data.storage_block_id == run.state.data.storage_block_id


async def test_a_run_without_an_answer_says_why(deployed: str, tmp_path: Path) -> None:
    """Failed, not ended, unknown, another flow: one line each."""
    failed = await run_elsewhere(tmp_path / "worker", TASK, **{KEY: ""})
    with pytest.raises(OrchestrationError, match=r"(?i)key"):
        await OrchestrationResult.from_flow_run(failed)
    (tmp_path / "worker").rename(tmp_path / "another-machine")
    with pytest.raises(OrchestrationError, match="ended as Failed"):
        await OrchestrationResult.from_flow_run(failed)
    async with get_client() as client:
        deployment = await client.read_deployment_by_name(NAME)
        waiting = await client.create_flow_run_from_deployment(deployment.id, parameters={"task": TASK})
    with pytest.raises(OrchestrationError, match="has not ended: it is Scheduled"):
        await OrchestrationResult.from_flow_run(waiting.id)
    with pytest.raises(ConfigError, match="has no such run"):
        await OrchestrationResult.from_flow_run(uuid4())
    with pytest.raises(ConfigError, match="is no id of a flow run"):
        await OrchestrationResult.from_flow_run("latest")
