"""Flow runs that begin while the embedded server is still coming up; it enters them later, as they began.

Prefect's API chooses the id of a flow run when it creates it. A run that does not wait for the server needs one
before: task runs, the ledger and events name it. Such a run brings its id and its start in its idempotency key, which
also makes asking twice harmless, and this server takes them from there. Does not import prefect; the server has.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Any
from uuid import UUID

from tta_dev_primitives.blocks.prefect_database import holds_limits
from tta_dev_primitives.blocks.prefect_server.manager import ServerInfo

__all__ = ["begun_key", "enter_as_begun", "may_begin"]

_MARK = "tta-began"


def begun_key(run_id: UUID, at: datetime) -> str:
    """The idempotency key of a run that began at `at` without the API."""
    return f"{_MARK} {run_id} {at.isoformat()}"


def _begun(key: str | None) -> tuple[UUID, datetime] | None:
    mark, _, rest = (key or "").partition(" ")
    if mark != _MARK:
        return None
    run_id, _, at = rest.partition(" ")
    try:
        return UUID(run_id), datetime.fromisoformat(at)
    except ValueError:
        return None


def enter_as_begun() -> None:
    """Let this server process give a run that has begun already the id and the start that its key names."""
    from prefect.server.models import flow_runs

    create: Callable[..., Awaitable[Any]] = flow_runs.create_flow_run

    async def create_as_begun(*args: Any, flow_run: Any, **options: Any) -> Any:
        begun = _begun(flow_run.idempotency_key)
        if begun is not None:
            flow_run.id, at = begun
            if flow_run.state is not None:
                flow_run.state.timestamp = at
        return await create(*args, flow_run=flow_run, **options)

    flow_runs.create_flow_run = create_as_begun


def may_begin(info: ServerInfo) -> bool:
    """Whether a run may begin before the server of `info` answers.

    Only with a server that this process has just started: it is of this version, and nobody has asked it for
    anything yet. Not when its database holds concurrency limits, which a run has to ask for before it starts a task.
    """
    return info.home is not None and info.started and not info.ready and not holds_limits(info.home)
