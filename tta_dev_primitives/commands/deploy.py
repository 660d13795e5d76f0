"""`tta deploy`: the scheduled deployments, and the automations that watch over them."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from tta_dev_primitives.blocks.prefect_server.manager import open_link
from tta_dev_primitives.commands._output import console, print_json, quiet_logs, table
from tta_dev_primitives.config.errors import ConfigError

if TYPE_CHECKING:
    from tta_dev_primitives.blocks.prefect_server.manager import ServerInfo
    from tta_dev_primitives.deployments.apply import Applied

__all__ = ["deploy"]


def deploy(
    *,
    work_pool: str = "tta",
    automations: Annotated[bool, Parameter(negative="")] = False,
    notify: str | None = None,
    bulk_input: str | None = None,
    bulk_output: str | None = None,
    working_dir: Path | None = None,
    config: Annotated[Path | None, Parameter(name=["--config", "-c"])] = None,
    json: Annotated[bool, Parameter(negative="")] = False,
) -> int:
    """Create or update the deployments on the Prefect server that runs use; running it again changes nothing else.

    Args:
        work_pool: Whose workers run them; created (type process) when it is not there.
        automations: Also create or update the automations on budget, models, quality and crashes.
        notify: Notification block that automations tell, as <type>/<name>, such as slack-webhook/ops.
        bulk_input: Tasks of the nightly job, JSONL or CSV; with --bulk-output it turns the nightly schedule on.
        bulk_output: Its results, JSONL.
        working_dir: Where workers run the flows; the current folder when not given.
        config: The configuration file that every deployment uses; otherwise the usual places are searched now.
        json: Print one JSON document.
    """
    from tta_dev_primitives.commands._trust import load_trusted
    from tta_dev_primitives.flows.prefect_support.api_connection import use_server

    quiet_logs()
    if (bulk_input is None) != (bulk_output is None):
        raise ConfigError("--bulk-input and --bulk-output go together: give both, or none.")
    if notify is not None and not automations:
        raise ConfigError("--notify goes with --automations.")
    source = load_trusted(config).source
    info = use_server()
    from tta_dev_primitives.deployments.apply import deploy_all

    bulk = (_absolute(bulk_input), _absolute(bulk_output)) if bulk_input and bulk_output else None
    done = asyncio.run(
        deploy_all(
            work_pool=work_pool,
            config_path=None if source is None else _absolute(str(source)),
            working_dir=_absolute(str(working_dir or ".")),
            bulk=bulk,
            automations=automations,
            notify=notify,
        )
    )
    if json:
        print_json({**asdict(done), "api_url": info.url, "ui_url": info.ui_url})
    else:
        _show(done, info)
    return 0


def _absolute(path: str) -> str:
    return str(Path(path).expanduser().absolute())


def _show(done: Applied, info: ServerInfo) -> None:
    out = console()
    rows = [
        [one.name, one.outcome + (", paused" if one.paused else ""), "; ".join(one.schedules) or "on demand"]
        for one in done.deployments
    ]
    out.print(table("Deployments", ["deployment", "", "schedule (UTC)"], rows))
    if done.automations:
        out.print(table("Automations", ["automation", ""], [[a.name, a.outcome] for a in done.automations]))
    made = " (created)" if done.pool_created else ""
    out.print(
        f"work pool {done.work_pool}{made}: {done.workers} workers online; {open_link(info, '/deployments')}"
    )
    if not done.workers:
        out.print("Nothing runs until a worker polls the pool. Start one:", style="yellow")
        where = 'eval "$(tta server env)" &&' if info.embedded else f"PREFECT_API_URL={info.url}"
        out.print(f"  {where} prefect worker start --pool {done.work_pool}")
        out.print("or serve them without a pool: python -m tta_dev_primitives.deployments.serve")
