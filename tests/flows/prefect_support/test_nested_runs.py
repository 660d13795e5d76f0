"""Our runs inside a user's own flows and tasks: they join the parent's server, whichever that is."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from sandbox_runs import At

from tta_dev_primitives.blocks.prefect_server.database_template import install_template

pytestmark = [pytest.mark.prefect, pytest.mark.proof]

_SCRIPT = """
import asyncio, json, sys, time
from prefect import flow, get_client, task
from tta_dev_primitives.flows import orchestrate
from tta_dev_primitives.orchestration import MultiModelWorkflow

workflow = MultiModelWorkflow(sys.argv[1])

@task
def ask(country):
    return workflow.run(f"Name a river in {country}.", use_case="simple").content

@task
async def call_the_flow(country):
    return (await orchestrate(f"Name a river in {country}.", use_case="simple", config_path=sys.argv[1])).content

@flow
def outer():
    answers = [workflow.run("Name a river in France.", use_case="simple").content, ask("Spain")]
    answers += ask.map(["Italy", "Poland"]).result()
    answers.append(asyncio.run(inner()))
    until = time.monotonic() + 110
    with get_client(sync_client=True) as client:
        while True:
            reply = client.request("POST", "/artifacts/filter", json={"limit": 200})
            runs = client.read_flow_runs()
            found = {}
            for artifact in reply.json():
                found.setdefault(artifact["flow_run_id"], set()).add(artifact["key"])
            if len([keys for keys in found.values() if "tta-result" in keys]) == 5 or time.monotonic() > until:
                break
            time.sleep(0.2)
    ours = [run for run in runs if run.name.startswith("Name a river")]
    print(json.dumps({
        "answers": len([answer for answer in answers if answer]),
        "runs": len(ours),
        "nested": len([run for run in ours if run.parent_task_run_id]),
        "completed": len([run for run in ours if run.state_name == "Completed"]),
        "with artifacts": len([run for run in ours if "tta-result" in found.get(str(run.id), ())]),
    }))

@flow
async def inner():
    return await call_the_flow("Norway")

outer()
"""


def test_runs_inside_a_users_flow_join_its_server(at: At, tmp_path: Path) -> None:
    """Without PREFECT_API_URL the parent has a temporary server; sync flow and task, `.map`, async flow and task."""
    workflow = at(validation={"mode": "never"})
    home, prefect_home = tmp_path / "tta", tmp_path / "prefect"
    prefect_home.mkdir(mode=0o700)
    install_template(prefect_home / "prefect.db")
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "TTA_SERVER"))
    }
    own = {"TTA_HOME": str(home), "PREFECT_HOME": str(prefect_home)}
    ran = subprocess.run(
        [sys.executable, "-c", _SCRIPT, str(workflow.config.source)],
        env=kept | own | {"PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120"},
        capture_output=True,
        text=True,
        timeout=170,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    found = json.loads(ran.stdout.splitlines()[-1])
    assert found == {"answers": 5, "runs": 5, "nested": 5, "completed": 5, "with artifacts": 5}, ran.stderr
    assert "409 Conflict" not in ran.stderr
    assert not list(home.rglob("state.json")), "a second server was started"
