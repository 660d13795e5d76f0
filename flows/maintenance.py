"""Flows that run by themselves: are our models still served, is the ledger in order, what crashed and can go on."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal, NamedTuple
from uuid import NAMESPACE_URL, uuid5

from prefect import flow
from prefect.artifacts import acreate_table_artifact
from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.filters import FlowRunFilter
from prefect.client.schemas.objects import FlowRun, State
from prefect.settings import get_current_settings
from prefect.states import AwaitingRetry, Crashed
from pydantic import Field

from tta_dev_primitives.blocks.ledger.risk_tables import DocumentStore
from tta_dev_primitives.blocks.providers.model_lists import ListState, ask_model_lists
from tta_dev_primitives.blocks.redaction import redact
from tta_dev_primitives.config.errors import LedgerError
from tta_dev_primitives.config.models.catalogue import today_utc
from tta_dev_primitives.flows.approval import note_unanswered
from tta_dev_primitives.flows.budget import BudgetState, budget_state
from tta_dev_primitives.flows.calling.runtime import Runtime, current_runtime
from tta_dev_primitives.flows.prefect_support import events
from tta_dev_primitives.flows.prefect_support.result_storage import KEPT, delete_old_results
from tta_dev_primitives.flows.prefect_support.use_embedded_server import use_embedded_server
from tta_dev_primitives.flows.reporting.quoted_answer import table_cell
from tta_dev_primitives.flows.reporting.run_artifacts import write_budget_panel

_RULINGS_KEPT_S = 100 * 86_400.0
"""Rulings of tasks that did not come again for so long are deleted: a later repeat counts as a new task."""
_SILENT_S = 400.0
"""More than two heartbeats, which Prefect sends every 180 s."""
DEPLOYED_TAG = "tta"
"""Every deployment of this package has it; so have its flow runs."""


class ModelState(NamedTuple):
    """What a provider's model list says of one configured model."""

    model: str
    provider: str
    state: Literal["served", "retires", "gone", "unknown"]
    note: str = ""


@use_embedded_server
@flow(name="check-models", flow_run_name="model check", **KEPT)
async def check_models(config_path: str | None = None) -> list[dict[str, str]]:
    """Ask each provider for its model list, and warn of configured models that are gone or about to go.

    Costs nothing. A provider that does not answer is reported as unknown, not as gone.

    Args:
        config_path: Configuration file; empty searches the usual places.

    Returns:
        One line a model: model, provider, state (served, retires, gone, unknown), note.

    Raises:
        ConfigError: The configuration is wrong.
    """
    runtime = current_runtime() or await Runtime.load(config_path)
    targets = list(runtime.targets.values())
    said = await ask_model_lists(targets, runtime.services.catalogue, client=runtime.services.client)
    states = [_state_of(runtime, found) for found in said]
    for state in states:
        if state.state == "gone":
            _emit_retired(state)
    lines = [{k: redact(str(v)) for k, v in state._asdict().items()} for state in states]
    rows = [{k: table_cell(v) for k, v in line.items()} for line in lines]
    await acreate_table_artifact(key="tta-models", table=rows, description="What the providers serve today")
    return lines


def _state_of(runtime: Runtime, found: ListState) -> ModelState:
    target = found.target
    warning = "; ".join(runtime.services.catalogue.warnings_of(target)) if target.base_url is None else ""
    match found.state:
        case "unknown" | "refused" | "keyless":
            return ModelState(target.name, target.provider, "unknown", found.note)
        case "gone" | "retires" as state:
            return ModelState(target.name, target.provider, state, f"{found.note}. {warning}".strip())
        case "served":
            return ModelState(target.name, target.provider, "retires" if warning else "served", warning)


def _emit_retired(state: ModelState) -> None:
    payload = {"model": state.model, "provider": state.provider, "reason": state.note, "role": "check"}
    resource = f"tta.model.{state.provider}/{state.model}"
    # Once a day and model, however many checks run.
    event_id = uuid5(NAMESPACE_URL, f"tta-model-retired|{resource}|{today_utc()}")
    events.emit("tta.model.retired", payload, resource=resource, event_id=event_id)


@use_embedded_server
@flow(name="sweep-ledger", flow_run_name="ledger sweep", **KEPT)
async def sweep_ledger(config_path: str | None = None) -> dict[str, Any]:
    """Charge calls of dead processes, send due alerts, note unanswered questions, and prove the ledger.

    Results are deleted when Prefect's own retention period (90 days by default) is over.
    A new month, or money after a spent budget, is reported by the event `tta.budget.renewed`.

    Args:
        config_path: Configuration file; empty searches the usual places.

    Returns:
        The month's budget as JSON values.

    Raises:
        LedgerError: The ledger cannot be used, or does not add up; each difference is one line.
        ConfigError: The configuration is wrong.
    """
    runtime = current_runtime() or await Runtime.load(config_path)
    budget = await budget_state(runtime)
    await _emit_renewed(runtime, budget)
    await note_unanswered(runtime)
    await write_budget_panel(runtime)
    database = runtime.ledger.database
    now = await database.now()
    await DocumentStore(database).prune(now - _RULINGS_KEPT_S)
    # As long as Prefect keeps the flow runs that they are results of.
    kept_for = get_current_settings().server.services.db_vacuum.retention_period
    await asyncio.to_thread(delete_old_results, now - kept_for.total_seconds())
    await runtime.ledger.sum_up()
    problems = await runtime.ledger.verify()
    if problems:
        payload = {"problems": problems[:20], "ledger": runtime.ledger.database.place}
        events.emit("tta.ledger.broken", payload, resource=f"tta.budget.{budget.month}")
        raise LedgerError(
            "Ledger: it does not add up: " + "; ".join(problems[:5]) + ". Keep a copy, see `tta ledger show`."
        )
    return budget.view().model_dump(mode="json")


async def _emit_renewed(runtime: Runtime, budget: BudgetState) -> None:
    """Send `tta.budget.renewed` when there is money again since the last sweep: a new month, or a higher limit."""
    memory = DocumentStore(runtime.ledger.database)
    scope = f"sweep|{runtime.ledger.scope}"
    text = await memory.read(scope)
    last = json.loads(text) if text else None
    limit_seen = await runtime.ledger.exhausted_limit(budget.month)
    exhausted = budget.exhausted or (
        limit_seen is not None and budget.limit is not None and budget.limit <= limit_seen
    )
    seen = {
        "month": budget.month,
        "exhausted": exhausted,
        "limit_seen": None if limit_seen is None else f"{limit_seen:f}",
    }
    if last == seen:
        return
    # Said to be spent and given more since the last sweep: that sweep saw neither.
    between = last is not None and last.get("limit_seen") != seen["limit_seen"]
    changed = last is not None and (last["exhausted"] or last["month"] != budget.month or between)
    if changed and not exhausted:
        payload = {
            "month": budget.month,
            "limit_usd": f"{budget.limit or 0:f}",
            "spent_usd": f"{budget.spent:f}",
        }
        events.emit("tta.budget.renewed", payload, resource=f"tta.budget.{budget.month}")
    # Written after the event: a sweep that dies in between emits it again.
    await memory.change(scope, lambda _: (json.dumps(seen), None))


@flow(name="resume-crashed", flow_run_name="resume crashed runs", persist_result=False, retries=0)
async def resume_crashed(
    max_starts: Annotated[int, Field(ge=1, le=20)] = 3,
    within_hours: Annotated[float, Field(gt=0, le=720)] = 24.0,
    silent_s: Annotated[float, Field(ge=0)] = _SILENT_S,
) -> int:
    """Put crashed runs of our deployments back on the schedule; what they had answered is not paid again.

    Args:
        max_starts: A run that was started this often is left crashed.
        within_hours: Older crashes are left alone.
        silent_s: A run that was taken but not started, or whose heartbeats ended, counts as crashed after so long.

    Returns:
        How many runs were put back.
    """
    put_back = 0
    async with get_client() as client:
        await _mark_lost(client, silent_s)
        crashed = await client.read_flow_runs(flow_run_filter=_crashed_filter(within_hours), limit=200)
        for run in resumable(crashed, max_starts):
            state: State[None] = AwaitingRetry(
                scheduled_time=datetime.now(UTC), message=f"start {run.run_count + 1} after a crash"
            )
            await client.set_flow_run_state(run.id, state, force=True)
            put_back += 1
    return put_back


async def _mark_lost(client: PrefectClient, silent_s: float) -> None:
    """Set runs to Crashed whose process is gone. What the run is now decides, not which events have arrived."""
    open_runs = FlowRunFilter.model_validate(
        {"state": {"type": {"any_": ["PENDING", "RUNNING"]}}, "tags": {"all_": [DEPLOYED_TAG]}}
    )
    since = datetime.now(UTC) - timedelta(seconds=silent_s)
    for run in await client.read_flow_runs(flow_run_filter=open_runs, limit=200):
        if run.deployment_id is None or run.state is None or run.state.timestamp > since:
            continue
        if run.state.is_pending():
            why = "taken by a worker, never started"
        elif await _beats(client, run) and not await _beats(client, run, since):
            why = "no heartbeat: the process is gone"
        else:
            continue
        # Not forced: Prefect refuses it for a run that has ended meanwhile.
        await client.set_flow_run_state(run.id, Crashed(message=why))


async def _beats(client: PrefectClient, run: FlowRun, since: datetime | None = None) -> bool:
    """Whether the server has a heartbeat of the run, or one after a moment."""
    began = run.start_time or run.state.timestamp if run.state is not None else datetime.now(UTC)
    wanted = {
        "occurred": {"since": (since or began).isoformat()},
        "event": {"name": ["prefect.flow-run.heartbeat"]},
        "resource": {"id": [f"prefect.flow-run.{run.id}"]},
    }
    reply = await client.request("POST", "/events/filter", json={"filter": wanted, "limit": 1})
    return bool(reply.json()["events"])


def _crashed_filter(within_hours: float) -> FlowRunFilter:
    since = datetime.now(UTC) - timedelta(hours=within_hours)
    return FlowRunFilter.model_validate(
        {
            "state": {"type": {"any_": ["CRASHED"]}},
            "tags": {"all_": [DEPLOYED_TAG]},
            "start_time": {"after_": since.isoformat()},
        }
    )


def resumable(runs: Sequence[FlowRun], max_starts: int) -> list[FlowRun]:
    """Deployed runs that were started less often than `max_starts` times."""
    return [run for run in runs if run.deployment_id is not None and run.run_count < max_starts]
