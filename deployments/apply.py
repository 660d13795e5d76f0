"""`tta deploy`: the work pool, the deployments and the automations on a Prefect server."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.objects import WorkPool
from prefect.deployments.runner import RunnerDeployment
from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound

from tta_dev_primitives.deployments.automations import AppliedAutomation, apply_automations
from tta_dev_primitives.deployments.definitions import deployments

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

    A deployment that is paused (by a person, or because the budget is spent) stays paused.

    Raises:
        ConfigError: `notify` names no block.
    """
    async with get_client() as client:
        pool, created = await _pool(client, work_pool)
        folder = working_dir if pool.type == "process" else None
        made = deployments(config_path=config_path, bulk=bulk, work_pool=work_pool, working_dir=folder)
        done = [await _apply(client, one) for one in made]
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


async def _apply(client: PrefectClient, wanted: RunnerDeployment) -> AppliedDeployment:
    try:
        before = await client.read_deployment_by_name(wanted.full_name)
    except ObjectNotFound:
        before = None
    wanted.paused = before.paused if before is not None else False
    await wanted.aapply()
    lines = tuple(
        f"{getattr(one.schedule, 'cron', '')}{'' if one.active else ' (off)'}"
        for one in wanted.schedules or ()
    )
    return AppliedDeployment(
        wanted.full_name, "created" if before is None else "updated", lines, bool(wanted.paused)
    )
