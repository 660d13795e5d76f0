"""A deployment as flat fields, from its definition and from the server, and back: what the merge compares. No I/O."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from prefect.client.schemas.actions import DeploymentScheduleCreate, DeploymentUpdate
from prefect.client.schemas.objects import ConcurrencyLimitStrategy, ConcurrencyOptions, DeploymentSchedule
from prefect.client.schemas.responses import DeploymentResponse
from prefect.deployments.runner import RunnerDeployment

from tta_dev_primitives.deployments.merge import Fields

_PARTS = ("schedule", "active", "parameters")


def defined_fields(wanted: RunnerDeployment) -> dict[str, Any]:
    """The fields that people may change, as the definition has them."""
    options = wanted.concurrency_options
    return _fields(
        description=wanted.description,
        tags=sorted(wanted.tags),
        work_pool=wanted.work_pool_name,
        concurrency_limit=wanted.concurrency_limit,
        collision_strategy=None if options is None else options.collision_strategy.value,
        parameters=wanted.parameters,
        job_variables=wanted.job_variables or {},
        schedules=wanted.schedules or [],
    )


def stored_fields(found: DeploymentResponse) -> dict[str, Any]:
    """The same fields as the server has them; parameters that the flow no longer takes are left out."""
    limit, options = found.global_concurrency_limit, found.concurrency_options
    return _fields(
        description=found.description,
        tags=sorted(found.tags),
        work_pool=found.work_pool_name,
        concurrency_limit=None if limit is None else limit.limit,
        collision_strategy=None if options is None else options.collision_strategy.value,
        parameters=found.parameters,
        job_variables=found.job_variables,
        schedules=found.schedules,
    )


def _fields(
    *,
    parameters: dict[str, Any],
    job_variables: dict[str, Any],
    schedules: Sequence[Any],
    **plain: Any,
) -> dict[str, Any]:
    fields = {name: value for name, value in plain.items() if value is not None}
    fields |= {f"parameters.{name}": value for name, value in parameters.items()}
    fields |= {f"job_variables.{name}": value for name, value in job_variables.items()}
    for one in schedules:
        # A schedule without a slug is a person's own.
        if one.slug is not None:
            fields[f"schedules.{one.slug}.schedule"] = one.schedule.model_dump(mode="json")
            fields[f"schedules.{one.slug}.active"] = one.active is not False
            fields[f"schedules.{one.slug}.parameters"] = one.parameters or {}
    return fields


def update_of(wanted: RunnerDeployment, merged: Fields, stored: Fields) -> DeploymentUpdate:
    """What is sent for a deployment that exists; a field that stays is not sent, nor is `paused`, nor a queue."""
    known = set(wanted._parameter_openapi_schema.properties)
    changes: dict[str, Any] = {
        "entrypoint": wanted.entrypoint,
        "version": wanted.version,
        "parameter_openapi_schema": wanted._parameter_openapi_schema.model_dump(exclude_unset=True),
        "parameters": {k: v for k, v in _below(merged, "parameters").items() if k in known},
        "job_variables": _below(merged, "job_variables"),
        "pull_steps": None,
    }
    for name, sent in (
        ("description", "description"), ("tags", "tags"), ("work_pool", "work_pool_name"),
        ("concurrency_limit", "concurrency_limit"),
    ):  # fmt: skip
        if merged.get(name) != stored.get(name):
            changes[sent] = merged.get(name)
    strategy = merged.get("collision_strategy")
    if strategy != stored.get("collision_strategy") and strategy is not None:
        options = ConcurrencyOptions(collision_strategy=ConcurrencyLimitStrategy(strategy))
        changes["concurrency_options"] = options
    return DeploymentUpdate(**changes)


def merged_schedules(merged: Fields, definition: Fields) -> dict[str, DeploymentScheduleCreate]:
    """The schedules with a slug that the server shall hold; a part that is missing comes from the definition."""
    made = {}
    for slug in sorted({name.split(".")[1] for name in merged if name.startswith("schedules.")}):
        parts = [f"schedules.{slug}.{part}" for part in _PARTS]
        timing, active, parameters = (merged.get(part, definition.get(part)) for part in parts)
        whole = {"slug": slug, "schedule": timing, "active": active, "parameters": parameters or {}}
        made[slug] = DeploymentScheduleCreate.model_validate(whole)
    return made


def schedule_text(one: DeploymentSchedule | DeploymentScheduleCreate) -> str:
    """A schedule in a few words: its cron line or what else it has, a zone other than UTC, and whether it is off."""
    timing: Any = one.schedule
    when = getattr(timing, "cron", None) or getattr(timing, "rrule", None) or f"every {timing.interval}"
    zone = getattr(timing, "timezone", None) or "UTC"
    return f"{when}{'' if zone == 'UTC' else f' {zone}'}{' (off)' if one.active is False else ''}"


def _below(fields: Fields, group: str) -> dict[str, Any]:
    return {
        name.removeprefix(f"{group}."): value
        for name, value in fields.items()
        if name.startswith(f"{group}.")
    }
