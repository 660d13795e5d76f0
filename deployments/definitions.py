"""What `deployments/prefect.yaml` says, as Prefect deployments: the one source of `tta deploy` and `serve`."""

from __future__ import annotations

from importlib import import_module
from importlib.resources import files
from typing import Any
from uuid import UUID

import yaml
from prefect import Flow
from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.actions import DeploymentScheduleCreate
from prefect.client.schemas.objects import ConcurrencyLimitConfig
from prefect.client.schemas.schedules import CronSchedule
from prefect.deployments.runner import RunnerDeployment
from prefect.types.entrypoint import EntrypointType

POOL = "tta"
BULK = "orchestrate-bulk/nightly"


def deployments(
    *,
    config_path: str | None = None,
    bulk: tuple[str, str] | None = None,
    work_pool: str | None = None,
    working_dir: str | None = None,
) -> list[RunnerDeployment]:
    """Every deployment of this package.

    Args:
        config_path: The configuration file that all of them use.
        bulk: Input and output file of the nightly job, which is scheduled only when they are given.
        work_pool: The pool whose workers run them; None for `serve`.
        working_dir: Where a worker of the pool runs them (`.env` and relative paths are found there).
    """
    text = files("tta_dev_primitives.deployments").joinpath("prefect.yaml").read_text(encoding="utf-8")
    made = []
    for entry in yaml.safe_load(text)["deployments"]:
        flow = _flow(entry["entrypoint"])
        parameters = dict(entry.get("parameters", {}))
        if config_path is not None and "config_path" in flow.parameters.properties:
            parameters["config_path"] = config_path
        active: bool | None = None
        if f"{flow.name}/{entry['name']}" == BULK and bulk is not None:
            parameters["input_path"], parameters["output_path"] = bulk
            active = True
        one = _StrictDeployment.from_flow(
            flow,
            name=entry["name"],
            description=entry["description"],
            tags=entry["tags"],
            parameters=parameters,
            schedules=[_schedule(schedule, active) for schedule in entry.get("schedules", ())],
            concurrency_limit=_limit(entry),
            work_pool_name=work_pool,
            job_variables={"working_dir": working_dir} if working_dir is not None else None,
            entrypoint_type=EntrypointType.MODULE_PATH,
        )
        made.append(one)
    return made


class _StrictDeployment(RunnerDeployment):
    """A deployment whose runs may have known parameters only: an unknown one is refused when the run is created."""

    async def aapply(self, *args: Any, **options: Any) -> UUID:
        """Create or update it on the server."""
        made = await super().aapply(*args, **options)
        async with get_client() as client:
            await refuse_unknown_parameters(client, made)
        return made


async def refuse_unknown_parameters(client: PrefectClient, deployment_id: UUID) -> None:
    """Let the server refuse a run of the deployment with a parameter that its flow does not have."""
    known = (await client.read_deployment(deployment_id)).parameter_openapi_schema
    await client.request(
        "PATCH",
        "/deployments/{id}",
        path_params={"id": deployment_id},
        json={"parameter_openapi_schema": {**(known or {}), "additionalProperties": False}},
    )


def _limit(entry: dict[str, Any]) -> ConcurrencyLimitConfig | None:
    limit = entry.get("concurrency_limit")
    return None if limit is None else ConcurrencyLimitConfig.model_validate(limit)


def _flow(entrypoint: str) -> Flow[Any, Any]:
    module, _, name = entrypoint.rpartition(".")
    found = getattr(import_module(module), name)
    assert isinstance(found, Flow)
    return found


def _schedule(entry: dict[str, Any], active: bool | None) -> DeploymentScheduleCreate:
    return DeploymentScheduleCreate(
        slug=entry["slug"],
        schedule=CronSchedule(cron=entry["cron"], timezone=entry["timezone"]),
        active=entry.get("active", True) if active is None else active,
        parameters=entry.get("parameters", {}),
    )
