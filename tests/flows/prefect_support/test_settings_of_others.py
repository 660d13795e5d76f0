"""Settings of the user's Prefect change nothing of what is sent and paid."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from prefect import get_client
from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate
from prefect.settings import PREFECT_LOCAL_STORAGE_PATH, temporary_settings
from sandbox_runs import At

from tta_dev_primitives.flows import orchestrate
from tta_dev_primitives.flows.prefect_support.result_storage import is_private_results
from tta_dev_primitives.orchestration import ConfigError

pytestmark = [pytest.mark.prefect]

PAID_ONLY = {"enabled": False, "validation": {"mode": "never"}}
SETTINGS = {
    "PREFECT_FLOWS_DEFAULT_RETRIES": "3",
    "PREFECT_FLOWS_DEFAULT_RETRY_DELAY_SECONDS": "100",
    "PREFECT_TASKS_DEFAULT_RETRIES": "3",
    "PREFECT_TASKS_DEFAULT_RETRY_DELAY_SECONDS": "100",
    "PREFECT_TASKS_DEFAULT_PERSIST_RESULT": "true",
    "PREFECT_TASKS_REFRESH_CACHE": "true",
    "PREFECT_TASKS_DISABLE_CACHING": "true",
    "PREFECT_TASKS_DEFAULT_NO_CACHE": "true",
    "PREFECT_RESULTS_PERSIST_BY_DEFAULT": "true",
    "PREFECT_RESULTS_DEFAULT_SERIALIZER": "compressed/json",
    "PREFECT_LOGGING_LEVEL": "DEBUG",
    "PREFECT_LOGGING_ROOT_LEVEL": "DEBUG",
}
_SCRIPT = """
import sys
from tta_dev_primitives.orchestration import MultiModelWorkflow, OrchestrationError
for task in ("Fails with every model", "Succeeds at once", "Succeeds at once"):
    try:
        print(MultiModelWorkflow(sys.argv[1]).run(task, use_case="simple").cost_usd > 0)
    except OrchestrationError as error:
        print(type(error).__name__)
"""
_SCENARIO = 'rules: [{match: {contains: "Fails"}, reply: {status: 400, body: {error: {message: rejected}}}}]'


def test_defaults_of_the_user_change_no_call(at: At, tmp_path: Path) -> None:
    """Retries, delays, persistence, caching and log levels: one call that fails, one that answers, one reused."""
    workflow = at(_SCENARIO, **PAID_ONLY)
    ran = subprocess.run(
        [sys.executable, "-c", _SCRIPT, str(workflow.config.source)],
        env=os.environ | SETTINGS,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert ran.stdout.split() == ["AllModelsFailedError", "True", "False"], ran.stderr
    assert len(workflow.sandbox.calls) == 2


async def test_a_tag_limit_of_zero_is_an_error_that_says_how_to_fix_it(at: At) -> None:
    """A task run with the tag may never start: the run ends before anything is sent."""
    workflow = at(**PAID_ONLY)
    async with get_client() as client:
        await client.create_global_concurrency_limit(
            GlobalConcurrencyLimitCreate(name="tag:use_case:expert", limit=0)
        )
        try:
            with pytest.raises(ConfigError, match="prefect concurrency-limit delete"):
                await workflow.execute("Prove it.", use_case="expert")
        finally:
            await client.delete_global_concurrency_limit_by_name("tag:use_case:expert")
    assert workflow.sandbox.calls == []


def test_a_copied_flow_follows_the_users_storage(tmp_path: Path) -> None:
    """A copy, or a flow that is set to what it was, has made no choice: a default storage of the user still counts."""
    copied = orchestrate.with_options(name="of-the-user")
    copied.result_storage = copied.result_storage
    with temporary_settings({PREFECT_LOCAL_STORAGE_PATH: tmp_path}):
        assert copied.result_storage is None
    assert is_private_results(copied.result_storage)
    assert orchestrate.with_options(result_storage=tmp_path).result_storage == tmp_path
    with pytest.raises(ConfigError, match="task: 5 is not accepted"):
        copied(task=5)
