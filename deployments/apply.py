"""`tta deploy`: the work pool, the deployments and the automations on a Prefect server."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Any, Literal
from urllib.parse import urlsplit

from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.actions import DeploymentUpdate, WorkPoolCreate
from prefect.client.schemas.objects import WorkPool
from prefect.client.schemas.responses import DeploymentResponse
from prefect.deployments.runner import RunnerDeployment
from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound

from tta_dev_primitives.blocks.prefect_server.server_settings import is_loopback
from tta_dev_primitives.deployments.automations import AppliedAutomation, apply_automations
from tta_dev_primitives.deployments.definitions import BULK, deployments, refuse_unknown_parameters
from tta_dev_primitives.deployments.merge import (
    Difference,
    Fields,
    Merged,
    digests,
    merge,
    read_last,
    write_last,
)
from tta_dev_primitives.deployments.stored import (
    defined_fields,
    merged_schedules,
    schedule_text,
    stored_fields,
    update_of,
)
from tta_dev_primitives.flows.prefect_support.old_entrypoints import MOVED

_NIGHTLY = "schedules.nightly"
_PAGE = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """Options of one call: each replaces what stands on the server, and stays until it is given anew."""

    config_path: str | None = None
    worker_config: str | None = None
    """The configuration file on the workers; comes before `config_path`."""
    working_dir: str | None = None
    bulk: tuple[str, str] | None = None
    """Input and output file of the nightly job; they turn its schedule on."""
    nightly_cron: str | None = None
    nightly_zone: str | None = None
    nightly_max_cost: Decimal | None = None


@dataclass(frozen=True, slots=True)
class AppliedDeployment:
    """What became of one deployment."""

    name: str
    outcome: Literal["created", "updated"]
    schedules: tuple[str, ...]
    """Its cron lines; one that is switched off says so."""
    paused: bool
    kept: tuple[Difference, ...] = ()
    """Where the server's value stays against the definition."""


@dataclass(frozen=True, slots=True)
class Applied:
    """Everything that was done."""

    work_pool: str
    pool_created: bool
    workers: int
    """Workers of the pool that are online now."""
    deployments: tuple[AppliedDeployment, ...]
    automations: tuple[AppliedAutomation, ...] = field(default=())
    moved: tuple[str, ...] = ()
    """Other stored deployments whose entrypoint of version 0.1.0 was replaced."""
    warnings: tuple[str, ...] = ()


async def deploy_all(
    *,
    work_pool: str,
    config_path: str | None,
    working_dir: str | None,
    given: Given | None = None,
    automations: bool = False,
    notify: str | None = None,
    reset: bool = False,
) -> Applied:
    """Create or update the work pool (process workers), every deployment, and the automations when asked.

    What people set on the server stays: a field is changed only when the definition changed since the last call
    and the server's value did not. A paused deployment stays paused.

    Args:
        working_dir: Where workers of a process pool run the flows.

    Raises:
        ConfigError: `notify` names no block.
    """
    given = given or Given()
    async with get_client() as client:
        pool, created = await _pool(client, work_pool)
        if pool.type != "process":
            working_dir, given = None, replace(given, working_dir=None)
        made = deployments(config_path=config_path, work_pool=work_pool, working_dir=working_dir)
        done = [await _apply(client, one, given, reset=reset) for one in made]
        moved = await _move_old_entrypoints(client)
        online = await client.read_workers_for_work_pool(work_pool)
        workers = sum(worker.status is not None and worker.status.value == "ONLINE" for worker in online)
        warnings = _local_paths(client, pool, config_path, working_dir, given)
    applied = await apply_automations(notify, reset=reset) if automations else []
    return Applied(work_pool, created, workers, tuple(done), tuple(applied), tuple(moved), warnings)


def _local_paths(
    client: PrefectClient, pool: WorkPool, config_path: str | None, working_dir: str | None, given: Given
) -> tuple[str, ...]:
    """A warning for each path of this machine that would be looked for in a container or on another machine."""
    host = urlsplit(str(client.api_url)).hostname or "localhost"
    if pool.type == "process" and is_loopback(host):
        return ()
    source, target = given.bulk or (None, None)
    paths = {
        "configuration file": None if given.worker_config else (given.config_path or config_path),
        "working folder": given.working_dir or working_dir,
        "input file": source,
        "output file": target,
    }
    place = (
        "on every worker's machine" if pool.type == "process" else f"in the container of a {pool.type} run"
    )
    return tuple(
        f"the {what} {path} is a path of this machine and must be the same {place}"
        + (". Mount it there, or name the file there with --worker-config." if what[0] == "c" else ".")
        for what, path in paths.items()
        if path is not None and (os.path.exists(path) or what == "working folder")
    )


async def _pool(client: PrefectClient, name: str) -> tuple[WorkPool, bool]:
    try:
        return await client.read_work_pool(name), False
    except ObjectNotFound:
        pass
    try:
        return await client.create_work_pool(WorkPoolCreate(name=name, type="process")), True
    except ObjectAlreadyExists:  # somebody else deploys at the same moment
        return await client.read_work_pool(name), False


async def _apply(
    client: PrefectClient, wanted: RunnerDeployment, given: Given, *, reset: bool
) -> AppliedDeployment:
    try:
        before = await client.read_deployment_by_name(wanted.full_name)
    except ObjectNotFound:
        before = None
    definition = defined_fields(wanted)
    stored: dict[str, Any] = {} if before is None else stored_fields(before)
    last = None if before is None else await read_last(client, wanted.full_name)
    merged = merge(
        last, definition, stored, given=_given_fields(wanted, given, definition, stored), reset=reset
    )
    if before is None:
        await _create(wanted, merged, definition)
    else:
        await client.update_deployment(before.id, update_of(wanted, merged.values, stored))
        await refuse_unknown_parameters(client, before.id)
        await _apply_schedules(client, before, merged, definition, reset=reset)
    await write_last(client, wanted.full_name, dict(digests(definition)))
    now = await client.read_deployment_by_name(wanted.full_name)
    order = {name: number for number, name in enumerate(definition)}
    ranked = sorted(now.schedules, key=lambda one: order.get(f"schedules.{one.slug}.schedule", len(order)))
    lines = tuple(schedule_text(one) for one in ranked)
    outcome: Literal["created", "updated"] = "created" if before is None else "updated"
    return AppliedDeployment(wanted.full_name, outcome, lines, now.paused, merged.kept)


def _given_fields(
    wanted: RunnerDeployment, given: Given, definition: Fields, stored: Fields
) -> dict[str, Any]:
    """The options of this call as fields of one deployment."""
    fields: dict[str, Any] = {}
    config_path = given.worker_config or given.config_path
    if config_path is not None and "config_path" in wanted._parameter_openapi_schema.properties:
        fields["parameters.config_path"] = config_path
    if given.working_dir is not None:
        fields["job_variables.working_dir"] = given.working_dir
    if wanted.full_name != BULK:
        return fields
    if given.bulk is not None:
        fields["parameters.input_path"], fields["parameters.output_path"] = given.bulk
        fields[f"{_NIGHTLY}.active"] = True
    if given.nightly_cron is not None or given.nightly_zone is not None:
        timing = stored.get(f"{_NIGHTLY}.schedule", {})
        timing = timing if "cron" in timing else definition[f"{_NIGHTLY}.schedule"]
        cron, zone = given.nightly_cron or timing["cron"], given.nightly_zone or timing["timezone"]
        fields[f"{_NIGHTLY}.schedule"] = {**timing, "cron": cron, "timezone": zone}
    if given.nightly_max_cost is not None:
        ceiling = f"{given.nightly_max_cost:f}"
        fields["parameters.max_cost"] = ceiling
        own = stored.get(f"{_NIGHTLY}.parameters", {})
        if "max_cost" in own:  # the schedule's own parameters come first
            fields[f"{_NIGHTLY}.parameters"] = {**own, "max_cost": ceiling}
    return fields


async def _create(wanted: RunnerDeployment, merged: Merged, definition: Fields) -> None:
    values = merged.values
    wanted.parameters = {
        name.removeprefix("parameters."): v for name, v in values.items() if name.startswith("parameters.")
    }
    folder = values.get("job_variables.working_dir")
    wanted.job_variables = {**(wanted.job_variables or {}), **({"working_dir": folder} if folder else {})}
    wanted.schedules = list(merged_schedules(values, definition).values())
    await wanted.aapply()


async def _apply_schedules(
    client: PrefectClient, before: DeploymentResponse, merged: Merged, definition: Fields, *, reset: bool
) -> None:
    """Create, change or delete single schedules; one that stays keeps its id and its scheduled runs."""
    wanted = merged_schedules(merged.values, definition)
    for one in before.schedules:
        new = wanted.pop(one.slug, None) if one.slug is not None else None
        if new is None:
            if reset or one.slug is not None:
                await client.delete_deployment_schedule(before.id, one.id)
        elif (new.schedule, new.active, new.parameters or {}) != (one.schedule, one.active, one.parameters):
            await client.update_deployment_schedule(
                before.id, one.id, active=new.active, schedule=new.schedule, parameters=new.parameters
            )
    if wanted:
        await client.create_deployment_schedules(before.id, list(wanted.values()))


async def _move_old_entrypoints(client: PrefectClient) -> list[str]:
    """Give every stored deployment with an entrypoint of version 0.1.0 today's one."""
    moved, offset = [], 0
    while page := await client.read_deployments(limit=_PAGE, offset=offset):
        for one in page:
            new = MOVED.get(one.entrypoint or "")
            if new is not None:
                await client.update_deployment(one.id, DeploymentUpdate(entrypoint=new))
                moved.append(one.name)
        offset += len(page)
    return moved
