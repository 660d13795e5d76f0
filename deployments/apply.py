"""`tta deploy`: the work pool, the deployments and the automations on a Prefect server."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.objects import WorkPool
from prefect.client.schemas.responses import DeploymentResponse
from prefect.deployments.runner import RunnerDeployment
from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound

from tta_dev_primitives.deployments.automations import AppliedAutomation, apply_automations
from tta_dev_primitives.deployments.definitions import BULK, deployments

__all__ = ["Applied", "AppliedDeployment", "deploy_all"]


@dataclass(frozen=True, slots=True)
class AppliedDeployment:
    """What became of one deployment."""

    name: str
    outcome: Literal["created", "updated"]
    schedules: tuple[str, ...]
    """Its cron lines; one that is switched off says so."""
    paused: bool


@dataclass(frozen=True, slots=True)
class Applied:
    """Everything that was done."""

    work_pool: str
    pool_created: bool
    workers: int
    """Workers of the pool that are online now."""
    deployments: tuple[AppliedDeployment, ...]
    automations: tuple[AppliedAutomation, ...] = field(default=())


async def deploy_all(
    *,
    work_pool: str,
    config_path: str | None,
    working_dir: str | None,
    bulk: tuple[str, str] | None = None,
    automations: bool = False,
    notify: str | None = None,
) -> Applied:
    """Create or update the work pool (process workers), every deployment, and the automations when asked.

    A deployment that is paused (by a person, or because the budget is spent) stays paused, a schedule that was
    switched on or off stays so, and parameters that were set on the server stay where this call gives none.

    Raises:
        ConfigError: `notify` names no block.
    """
    async with get_client() as client:
        pool, created = await _pool(client, work_pool)
        folder = working_dir if pool.type == "process" else None
        made = deployments(config_path=config_path, bulk=bulk, work_pool=work_pool, working_dir=folder)
        done = [await _apply(client, one, fresh=bulk is not None and one.full_name == BULK) for one in made]
        online = await client.read_workers_for_work_pool(work_pool)
        workers = sum(worker.status is not None and worker.status.value == "ONLINE" for worker in online)
    applied = await apply_automations(notify) if automations else []
    return Applied(work_pool, created, workers, tuple(done), tuple(applied))


async def _pool(client: PrefectClient, name: str) -> tuple[WorkPool, bool]:
    try:
        return await client.read_work_pool(name), False
    except ObjectNotFound:
        pass
    try:
        return await client.create_work_pool(WorkPoolCreate(name=name, type="process")), True
    except ObjectAlreadyExists:  # somebody else deploys at the same moment
        return await client.read_work_pool(name), False


async def _apply(client: PrefectClient, wanted: RunnerDeployment, *, fresh: bool) -> AppliedDeployment:
    """Create or update one deployment; `fresh`: its files and its schedule were given, those of before are gone."""
    try:
        before = await client.read_deployment_by_name(wanted.full_name)
    except ObjectNotFound:
        before = None
    if before is not None:
        _keep(wanted, before, fresh=fresh)
    await wanted.aapply()
    lines = tuple(
        f"{getattr(one.schedule, 'cron', '')}{'' if one.active else ' (off)'}"
        for one in wanted.schedules or ()
    )
    return AppliedDeployment(
        wanted.full_name, "created" if before is None else "updated", lines, bool(wanted.paused)
    )


def _keep(wanted: RunnerDeployment, before: DeploymentResponse, *, fresh: bool) -> None:
    """Leave as they are what a person, or an earlier call, has switched or set on the server."""
    wanted.paused = before.paused
    given = {"config_path", *(wanted.parameters if fresh else ())}
    known = wanted._parameter_openapi_schema.properties
    kept = {n: value for n, value in before.parameters.items() if n in known and n not in given}
    wanted.parameters = {**wanted.parameters, **kept}
    switched = {one.slug: one.active for one in before.schedules} if not fresh else {}
    for one in wanted.schedules or ():
        one.active = switched.get(one.slug, one.active)
