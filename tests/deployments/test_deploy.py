"""`tta deploy` on a real Prefect server: deployments, automations, and what they do to each other."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from fixtures_prefect import own_server
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import DeploymentScheduleCreate, DeploymentUpdate, WorkPoolCreate
from prefect.client.schemas.schedules import CronSchedule
from prefect.events import emit_event
from prefect.events.schemas.automations import AutomationCore
from prefect.exceptions import PrefectHTTPStatusError

from tta_dev_primitives import cli
from tta_dev_primitives.blocks.prefect_server.doctor import check_server
from tta_dev_primitives.blocks.prefect_server.manager import ServerInfo
from tta_dev_primitives.config.errors import ConfigError
from tta_dev_primitives.deployments.automations import apply_automations
from tta_dev_primitives.deployments.definitions import deployments
from tta_dev_primitives.flows.prefect_support.old_entrypoints import MOVED

pytestmark = [pytest.mark.server, pytest.mark.prefect]

ROOT = Path(__file__).parents[2]
NAMES = {
    "orchestrate/on-demand", "orchestrate-bulk/nightly", "spend-report/scheduled", "check-models/daily",
    "sweep-ledger/hourly", "resume-crashed/after-crash", "review-diff/on-demand", "document-module/on-demand",
    "generate-tests/on-demand", "orchestrate-bulk/shard",
}  # fmt: skip
POOL = "tta-tests"


def tta(*arguments: str) -> None:
    """Run the command line in this process; it must end well."""
    with pytest.raises(SystemExit) as ended:
        cli.main(list(arguments))
    assert ended.value.code == 0


async def eventually(look: Callable[[], Awaitable[Any]], wanted: Callable[[Any], bool]) -> Any:
    """Look until what is seen is what is wanted; the test's own timeout is the only clock."""
    while True:
        seen = await look()
        if wanted(seen):
            return seen
        await asyncio.sleep(0.1)


@pytest.fixture(scope="module", autouse=True)
def deployed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerInfo]:
    """A server of this module's own with the deployments, made by `tta deploy` with its defaults."""
    with own_server(tmp_path_factory.mktemp("prefect-server")) as server:
        tta("deploy", "--work-pool", POOL)
        yield server


def test_deploying_again_changes_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    """Every deployment is updated in place, with the schedules of the file; the nightly one is off without a file."""
    tta("deploy", "--work-pool", POOL, "--json")
    done = json.loads(capsys.readouterr().out)
    assert {one["name"]: one["outcome"] for one in done["deployments"]} == dict.fromkeys(NAMES, "updated")
    schedules = {one["name"]: one["schedules"] for one in done["deployments"]}
    assert schedules["spend-report/scheduled"] == ["0 6 1 * *", "0 7 * * *"]
    assert schedules["orchestrate-bulk/nightly"] == ["30 1 * * * (off)"]
    assert (done["workers"], done["pool_created"]) == (0, False)


def test_without_a_worker_it_says_how_to_start_one(
    capsys: pytest.CaptureFixture[str], deployed: ServerInfo
) -> None:
    """Deployments that nobody runs are the usual first surprise; `tta check` says so as well."""
    tta("deploy", "--work-pool", POOL)
    assert f"prefect worker start --pool {POOL}" in capsys.readouterr().out
    assert deployed.home is not None
    waiting = [one for one in check_server(home=deployed.home.root) if "no worker" in one.message]
    assert [(one.level, f"prefect worker start --pool {POOL}" in one.fix) for one in waiting] == [
        ("warn", True)
    ]


async def test_what_was_switched_or_set_stays_when_deployed_again(tmp_path: Path) -> None:
    """The nightly job keeps its files, its schedule and a parameter set in the UI until files are given anew."""
    source, target = str(tmp_path / "in.jsonl"), str(tmp_path / "out.jsonl")

    async def nightly(*options: str) -> tuple[dict[str, Any], list[bool]]:
        await asyncio.to_thread(tta, "deploy", "--work-pool", POOL, *options)
        found = await client.read_deployment_by_name("orchestrate-bulk/nightly")
        return found.parameters, [one.active for one in found.schedules]

    async with get_client() as client:
        before = await client.read_deployment_by_name("orchestrate-bulk/nightly")
        parameters, active = await nightly("--bulk-input", source, "--bulk-output", target)
        files = {"input_path": source, "output_path": target}
        assert (parameters, active) == (files, [True])
        change = DeploymentUpdate(parameters={**parameters, "concurrency": 7})
        await client.update_deployment(before.id, change)
        assert await nightly() == ({**files, "concurrency": 7}, [True])
        (schedule,) = await client.read_deployment_schedules(before.id)
        await client.update_deployment_schedule(before.id, schedule.id, active=False)
        assert await nightly() == ({**files, "concurrency": 7}, [False])
        await client.update_deployment(before.id, DeploymentUpdate(parameters=before.parameters))


@pytest.mark.parametrize(
    ("name", "parameters", "said"),
    [
        ("orchestrate/on-demand", {"task": "x", "use_case": "cooking"}, "use_case"),
        ("orchestrate/on-demand", {"task": ""}, "task"),
        ("orchestrate/on-demand", {}, "task"),
        ("orchestrate/on-demand", {"task": "x", "usecase": "simple"}, "usecase"),
        *(
            ("orchestrate-bulk/nightly", {"input_path": "i", "output_path": "o", field: value}, field)
            for field, value in [
                *(
                    ("concurrency", 0),
                    ("max_cost", "abc"),
                    ("max_cost", -1),
                    ("max_cost", "1e3"),
                    ("budget", 1),
                ),
                *(("until", "tomorrow"), ("until", 7)),
            ]
        ),
        ("spend-report/scheduled", {"month": "2026-13"}, "month"),
    ],
)
async def test_a_wrong_parameter_is_refused_by_name(name: str, parameters: dict[str, Any], said: str) -> None:
    """The server refuses a parameter of the wrong type before any run is made, and names it."""
    async with get_client() as client:
        deployment = await client.read_deployment_by_name(name)
        with pytest.raises(PrefectHTTPStatusError) as refused:
            await client.create_flow_run_from_deployment(deployment.id, parameters=parameters)
        assert refused.value.response.status_code == 409
        assert said in refused.value.response.text


@pytest.mark.parametrize(
    "right", [{"max_cost": "2.50"}, {"max_cost": 2.5}, {"max_cost": None}, {"until": "2027-01-31T06:00:00Z"}]
)
async def test_a_right_parameter_makes_a_run(right: dict[str, Any]) -> None:
    """Money as text or number, a moment with its zone."""
    async with get_client() as client:
        deployment = await client.read_deployment_by_name("orchestrate-bulk/nightly")
        parameters = {"input_path": "i", "output_path": "o", **right}
        run = await client.create_flow_run_from_deployment(deployment.id, parameters=parameters)
        await client.delete_flow_run(run.id)


async def test_every_parameter_of_the_form_says_what_it_is_for() -> None:
    """The form in the UI is made from the schema: each field has a description."""
    async with get_client() as client:
        for name in NAMES:
            schema = (await client.read_deployment_by_name(name)).parameter_openapi_schema
            assert schema is not None
            for field, about in schema["properties"].items():
                assert about.get("description"), f"{name}: {field}"


async def test_the_budget_pauses_the_bulk_job_and_a_new_month_resumes_it() -> None:
    """`tta.budget.exhausted` pauses the nightly deployment on the server, `tta.budget.renewed` resumes it."""
    assert {one.outcome for one in await apply_automations()} <= {"created", "unchanged"}
    async with get_client() as client:
        nightly = await client.read_deployment_by_name("orchestrate-bulk/nightly")

        async def paused() -> bool:
            return (await client.read_deployment(nightly.id)).paused

        payload = {"month": "2026-11", "spent_usd": "100", "limit_usd": "100", "threshold": "1"}
        for event, outcome in (("tta.budget.exhausted", True), ("tta.budget.renewed", False)):
            resource = {"prefect.resource.id": "tta.budget.2026-11"}

            async def told(event: str = event, resource: dict[str, str] = resource) -> bool:
                # Again and again: the server may not listen for events yet.
                emit_event(event=event, resource=resource, payload=payload)
                await asyncio.sleep(0.2)
                return await paused()

            await eventually(told, lambda seen, outcome=outcome: seen is outcome)


async def test_what_people_set_stays_when_deployed_again(capsys: pytest.CaptureFixture[str]) -> None:
    """Time, zone, ceiling, schedules, tags, text, queue, limit and variables stay; `--reset` replaces them."""
    name = "orchestrate-bulk/nightly"

    async def deploy(*options: str) -> dict[str, Any]:
        capsys.readouterr()
        await asyncio.to_thread(tta, "deploy", "--work-pool", POOL, "--json", *options)
        done = json.loads(capsys.readouterr().out)
        found: dict[str, Any] = next(one for one in done["deployments"] if one["name"] == name)
        return found

    async with get_client() as client:
        before = await client.read_deployment_by_name(name)
        (schedule,) = before.schedules
        late = CronSchedule(cron="0 22 * * *", timezone="Europe/Berlin")
        await client.update_deployment_schedule(
            before.id, schedule.id, schedule=late, parameters={"max_cost": "2.50"}
        )
        weekly = CronSchedule(cron="0 12 * * 6", timezone="Europe/Berlin")
        added = DeploymentScheduleCreate(schedule=weekly, active=False, parameters={"max_cost": "1"})
        await client.create_deployment_schedules(before.id, [added])
        variables = {**before.job_variables, "env": {"SECRET": "not-to-be-shown"}}
        change = DeploymentUpdate(
            tags=["tta", "team-x"], description="ours", concurrency_limit=3, work_queue_name="slow",
            work_pool_name=POOL, job_variables=variables, parameters={**before.parameters, "concurrency": 4},
        )  # fmt: skip
        await client.update_deployment(before.id, change)
        await client.pause_deployment(before.id)

        def fields(found: Any) -> dict[str, Any]:
            return found.model_dump(
                include={"tags", "description", "global_concurrency_limit", "work_queue_name", "job_variables",
                         "parameters", "schedules", "paused"},
                exclude={"global_concurrency_limit": {"updated"}, "schedules": {"__all__": {"updated"}}},
            )  # fmt: skip

        theirs = fields(await client.read_deployment(before.id))
        said = await deploy()
        assert fields(await client.read_deployment(before.id)) == theirs
        kept = "\n".join(said["kept"])
        assert "0 22 * * * Europe/Berlin (definition: 30 1 * * * UTC)" in kept
        assert "concurrency_limit = 3 (definition: 1)" in kept
        assert "job_variables.env" in kept and "not-to-be-shown" not in kept  # noqa: PT018
        said = await deploy("--nightly-time", "23:15", "--nightly-max-cost", "0.75")
        assert said["schedules"] == ["15 23 * * * Europe/Berlin (off)", "0 12 * * 6 Europe/Berlin (off)"]
        found = await client.read_deployment(before.id)
        assert found.parameters["max_cost"] == "0.75"
        assert next(one for one in found.schedules if one.slug == "nightly").parameters == {
            "max_cost": "0.75"
        }
        said = await deploy("--reset")
        assert (said["schedules"], said["kept"], said["paused"]) == (["30 1 * * * (off)"], [], True)
        found = await client.read_deployment(before.id)
        assert (sorted(found.tags), found.parameters) == (["tta"], before.parameters)
        await client.resume_deployment(before.id)


async def test_stored_deployments_of_version_0_1_0_are_moved(capsys: pytest.CaptureFixture[str]) -> None:
    """A deployment of a person's own that names an old place gets the new one."""
    async with get_client() as client:
        made = {}
        for old, new in MOVED.items():
            flow_id = await client.create_flow_from_name(old.rpartition(".")[2].replace("_", "-"))
            made[await client.create_deployment(flow_id, "own-weekly", entrypoint=old)] = new
        await asyncio.to_thread(tta, "deploy", "--work-pool", POOL)
        for one, new in made.items():
            assert (await client.read_deployment(one)).entrypoint == new
            await client.delete_deployment(one)
        assert capsys.readouterr().out.count("moved to its entrypoint of today: own-weekly") == len(MOVED)


async def test_what_people_change_of_an_automation_stays() -> None:
    """A changed text and a deleted automation stay so; the rest of it is still updated; `reset` restores both."""
    await apply_automations(reset=True)
    async with get_client() as client:
        (renewed,) = await client.read_automations_by_name("tta: budget renewed")
        fields = renewed.model_dump(mode="json", include={"name", "enabled", "trigger", "actions"})
        changed = AutomationCore.model_validate({**fields, "description": "ours"})
        await client.update_automation(renewed.id, changed)
        (crashed,) = await client.read_automations_by_name("tta: crashed run")
        await client.delete_automation(crashed.id)
        done = {one.name: one for one in await apply_automations()}
        assert [one.field for one in done["tta: budget renewed"].kept] == ["description"]
        assert done["tta: crashed run"].outcome == "deleted by a person"
        assert (await client.read_automations_by_name("tta: budget renewed"))[0].description == "ours"
        assert not await client.read_automations_by_name("tta: crashed run")
        outcomes = {one.name: one.outcome for one in await apply_automations(reset=True)}
        assert outcomes["tta: budget renewed"] == "updated"
        assert outcomes["tta: crashed run"] == "created"


async def test_a_path_of_this_machine_is_a_warning_for_containers(capsys: pytest.CaptureFixture[str]) -> None:
    """A pool of containers does not see this machine's files: the path is named, and the option that helps."""
    async with get_client() as client:
        await client.create_work_pool(WorkPoolCreate(name="boxes", type="docker", base_job_template={}))
    config = str(ROOT / "config" / "default-config.yaml")
    await asyncio.to_thread(tta, "deploy", "--work-pool", "boxes", "--config", config)
    warned = " ".join(capsys.readouterr().out.split())
    assert f"the configuration file {config} is a path of this machine" in warned
    assert "--worker-config" in warned
    await asyncio.to_thread(tta, "deploy", "--work-pool", "boxes", "--worker-config", "/app/c.yaml", "--json")
    assert not [one for one in json.loads(capsys.readouterr().out)["warnings"] if "configuration" in one]
    async with get_client() as client:
        found = await client.read_deployment_by_name("orchestrate/on-demand")
        assert found.parameters["config_path"] == "/app/c.yaml"
    await asyncio.to_thread(tta, "deploy", "--work-pool", POOL, "--reset")


async def test_automations_are_updated_by_name_and_keep_their_switch() -> None:
    """Again: nothing changes, nothing doubles; one that a person switched off stays off."""
    await apply_automations()
    async with get_client() as client:
        (found,) = await client.read_automations_by_name("tta: stale heartbeat")
        await client.pause_automation(found.id)
        assert {one.outcome for one in await apply_automations()} == {"unchanged"}
        (still,) = await client.read_automations_by_name("tta: stale heartbeat")
        assert not still.enabled
        listed = [one.name for one in await client.read_automations()]
        assert len(listed) == len(set(listed))


@pytest.mark.parametrize(
    ("notify", "said"), [("ops", "<block type>/<block name>"), ("slack-webhook/none", "no such")]
)
async def test_a_wrong_notification_block_is_named(notify: str, said: str) -> None:
    """A block that is not there is named with the remedy."""
    with pytest.raises(ConfigError, match=said):
        await apply_automations(notify)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--bulk-input", "x.jsonl"], "go together"),
        (["--notify", "slack-webhook/ops"], "goes with"),
        (["--nightly-time", "25:00"], "--nightly-time '25:00'"),
        (["--work-pool", ""], "--work-pool ''"),
        (["--work-pool", "a/b"], "--work-pool 'a/b'"),
        (["--nightly-zone", "Mars/Base"], "--nightly-zone 'Mars/Base'"),
        (["--nightly-max-cost", "-1"], "--nightly-max-cost: '-1' is not accepted"),
    ],
)
def test_a_wrong_option_is_a_usage_error(
    options: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Options that need another one, and values that are none, are named before anything is deployed."""
    with pytest.raises(SystemExit) as ended:
        cli.main(["deploy", *options])
    assert ended.value.code == 2
    assert said in " ".join(capsys.readouterr().err.split())


@pytest.mark.proof
def test_prefects_own_command_deploys_the_file(deployed: ServerInfo, tmp_path: Path) -> None:
    """`prefect deploy --prefect-file deployments/prefect.yaml --all` works from a clone once the pool is there."""
    tta("deploy")  # makes the pool `tta`
    command = [sys.executable, "-m", "prefect", "--no-prompt", "deploy",
               "--prefect-file", "deployments/prefect.yaml", "--all"]  # fmt: skip
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ}, capture_output=True, text=True, timeout=110, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for name in NAMES:
        assert name in done.stdout.replace("\n", ""), name
    # It has overwritten what `tta deploy` had made, which other tests look at.
    tta("deploy", "--work-pool", POOL, "--reset")


def test_the_file_and_the_flows_agree() -> None:
    """Each entry of prefect.yaml becomes one deployment by a module entrypoint, the nightly one on with a file."""
    entries = yaml.safe_load((ROOT / "deployments" / "prefect.yaml").read_text())["deployments"]
    made = deployments(bulk=("in.jsonl", "out.jsonl"), config_path="c.yaml")
    assert {one.full_name for one in made} == NAMES
    assert [one.entrypoint for one in made] == [entry["entrypoint"] for entry in entries]
    nightly = next(one for one in made if one.name == "nightly")
    assert nightly.parameters == {
        "input_path": "in.jsonl",
        "output_path": "out.jsonl",
        "config_path": "c.yaml",
    }
    assert nightly.schedules is not None
    assert nightly.schedules[0].active
