"""`tta deploy`: the scheduled deployments, and the automations that watch over them."""

from __future__ import annotations

import asyncio
import re
import shlex
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zoneinfo import available_timezones

from tta_dev_primitives.blocks.prefect_server.manager import open_link
from tta_dev_primitives.blocks.redaction import redact
from tta_dev_primitives.commands._options import Config, Flag, Json
from tta_dev_primitives.commands._output import console, counted, print_json, table
from tta_dev_primitives.config.errors import ConfigError
from tta_dev_primitives.flows.bulk.arguments import usd_amount

if TYPE_CHECKING:
    from tta_dev_primitives.blocks.prefect_server.manager import ServerInfo
    from tta_dev_primitives.deployments.apply import Applied
    from tta_dev_primitives.deployments.merge import Difference


def deploy(
    *,
    work_pool: str = "tta",
    automations: Flag = False,
    notify: str | None = None,
    bulk_input: str | None = None,
    bulk_output: str | None = None,
    nightly_time: str | None = None,
    nightly_zone: str | None = None,
    nightly_max_cost: str | None = None,
    working_dir: Path | None = None,
    worker_config: str | None = None,
    reset: Flag = False,
    config: Config = None,
    json: Json = False,
) -> int:
    """Create or update the deployments on the Prefect server that runs use; what people set there stays.

    Args:
        work_pool: Work pool of the deployments; created (type process) when missing.
        automations: Also create or update the automations on budget, models, quality and crashes.
        notify: Notification block for the automations, as <type>/<name>, such as slack-webhook/ops.
        bulk_input: Tasks of the nightly job, JSONL or CSV; with --bulk-output it turns the nightly schedule on.
        bulk_output: Its results, JSONL.
        nightly_time: When the nightly job starts, HH:MM.
        nightly_zone: Time zone of the nightly job, such as Europe/Berlin.
        nightly_max_cost: The most the nightly job may cost, USD, over all its runs.
        working_dir: Where workers run the flows; the current folder when not given.
        worker_config: The configuration file on the workers, such as a mounted path; it is not read here.
        reset: Replace what people set on the server: schedules, parameters, tags, limits, job variables, automations.
        config: The configuration file that every deployment uses; otherwise the usual places are searched now.
    """
    from tta_dev_primitives.commands.trust import load_trusted
    from tta_dev_primitives.flows.prefect_support.api_connection import use_server

    if not work_pool.strip() or re.search(r"[/%&<>\x00-\x1f]", work_pool):
        raise ConfigError(f"--work-pool {work_pool!r}: expected a name such as tta, without / % & < >.")
    if (bulk_input is None) != (bulk_output is None):
        raise ConfigError("--bulk-input and --bulk-output go together: give both, or none.")
    if notify is not None and not automations:
        raise ConfigError("--notify goes with --automations.")
    cron = None if nightly_time is None else _daily(nightly_time)
    ceiling = None if nightly_max_cost is None else usd_amount("--nightly-max-cost", nightly_max_cost)
    if nightly_zone is not None and nightly_zone not in available_timezones():
        raise ConfigError(
            f"--nightly-zone {nightly_zone!r}: no such time zone. Write one such as Europe/Berlin."
        )
    source = load_trusted(config).source
    info = use_server()
    from tta_dev_primitives.deployments.apply import Given, deploy_all

    bulk = (_absolute(bulk_input), _absolute(bulk_output)) if bulk_input and bulk_output else None
    given = Given(
        config_path=None if config is None else _absolute(str(source)),
        worker_config=worker_config,
        working_dir=None if working_dir is None else _absolute(str(working_dir)),
        bulk=bulk,
        nightly_cron=cron,
        nightly_zone=nightly_zone,
        nightly_max_cost=ceiling,
    )
    done = asyncio.run(
        deploy_all(
            work_pool=work_pool,
            config_path=None if source is None or config is not None else _absolute(str(source)),
            working_dir=_absolute("."),
            given=given,
            automations=automations,
            notify=notify,
            reset=reset,
        )
    )
    if bulk is not None and not Path(bulk[0]).exists():
        done = replace(done, warnings=(*done.warnings, f"--bulk-input {bulk[0]}: no such file here yet"))
    if json:
        print_json({**_plain(done), "api_url": info.url, "ui_url": info.ui_url})
    else:
        _show(done, info)
    return 0


def _absolute(path: str) -> str:
    return str(Path(path).expanduser().absolute())


def _kept(done: Applied) -> list[tuple[str, tuple[Difference, ...]]]:
    return [(one.name, one.kept) for one in done.deployments] + [(a.name, a.kept) for a in done.automations]


def _plain(done: Applied) -> dict[str, Any]:
    plain = asdict(done)
    shown = (*plain["deployments"], *plain["automations"])
    for one, (_, kept) in zip(shown, _kept(done), strict=True):
        one["kept"] = [_difference(difference) for difference in kept]
    return plain


def _difference(one: Difference) -> str:
    """A kept field in one line; job variables may hold secrets, so that their values are not shown."""
    if one.server is None:
        return f"{one.field} was deleted there"
    if one.field.startswith("job_variables.") or one.field in ("trigger", "actions"):
        return f"{one.field}" + (" was added there" if one.definition is None else " was changed there")
    ours = "" if one.definition is None else f" (definition: {_value(one.definition)})"
    return redact(f"{one.field} = {_value(one.server)}{ours}")


def _value(value: Any) -> str:
    if isinstance(value, dict) and "cron" in value:
        return f"{value['cron']} {value.get('timezone') or 'UTC'}"
    return str(value)


def _daily(text: str) -> str:
    found = re.fullmatch(r"([01]?\d|2[0-3]):([0-5]\d)", text.strip())
    if found is None:
        raise ConfigError(f"--nightly-time {text!r}: expected a time such as 22:30.")
    return f"{int(found[2])} {int(found[1])} * * *"


def _show(done: Applied, info: ServerInfo) -> None:
    out = console()
    rows = [
        [one.name, one.outcome + (", paused" if one.paused else ""), "; ".join(one.schedules) or "on demand"]
        for one in done.deployments
    ]
    out.print(table("Deployments", ["deployment", "", "schedule (UTC unless named)"], rows))
    if done.automations:
        out.print(table("Automations", ["automation", ""], [[a.name, a.outcome] for a in done.automations]))
    for name, kept in _kept(done):
        for one in kept:
            out.print(f"kept from the server: {name}: {_difference(one)}")
    if any(kept for _, kept in _kept(done)):
        out.print("  --reset replaces these with the definition")
    for moved in done.moved:
        out.print(f"moved to its entrypoint of today: {moved}")
    for warning in done.warnings:
        out.print(f"warning: {warning}", style="yellow")
    made = " (created)" if done.pool_created else ""
    out.print(
        f"work pool {done.work_pool}{made}: {counted(done.workers, 'worker')} online; {open_link(info, '/deployments')}"
    )
    if not done.workers:
        out.print("Nothing runs until a worker polls the pool. Start one:", style="yellow")
        where = 'eval "$(tta server env)" &&' if info.embedded else f"PREFECT_API_URL={info.url}"
        out.print(f"  {where} prefect worker start --pool {shlex.quote(done.work_pool)}")
        out.print("or serve them without a pool: python -m tta_dev_primitives.deployments.serve")
