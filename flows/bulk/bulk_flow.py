"""The flow `orchestrate_bulk`: a file of tasks as one flow run, in chunks."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import replace
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal, cast

from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import State
from prefect.context import FlowRunContext
from prefect.exceptions import Pause
from prefect.runtime import flow_run as this_run
from prefect.states import AwaitingRetry
from pydantic import BeforeValidator, Field

from tta_dev_primitives.blocks.ledger.report import cost_of_runs
from tta_dev_primitives.config.errors import OrchestrationError, RunCancelledError
from tta_dev_primitives.flows.answers.output_type import OutputType
from tta_dev_primitives.flows.bulk.arguments import moment, patience, usd_amount, whole
from tta_dev_primitives.flows.bulk.file_job import FileJob
from tta_dev_primitives.flows.bulk.job_report import BulkReport, JobFailedError, end_state, report_of
from tta_dev_primitives.flows.bulk.reader import streamed
from tta_dev_primitives.flows.bulk.recording import close_dead_runs
from tta_dev_primitives.flows.bulk.runner import PATIENCE_S, JobOptions, JobRun
from tta_dev_primitives.flows.bulk.shard_runs import ShardRunner, parameters_of_shards, require_deployment
from tta_dev_primitives.flows.calling.runtime import Runtime, current_runtime
from tta_dev_primitives.flows.calling.sync_loop import Interrupted
from tta_dev_primitives.flows.prefect_support.result_storage import KEPT
from tta_dev_primitives.flows.prefect_support.run_names import name_or
from tta_dev_primitives.flows.prefect_support.use_embedded_server import use_embedded_server

_LOG = logging.getLogger("tta_dev_primitives.bulk")
_AMOUNT = r"^[$]?[0-9]+(\.[0-9]+)?$"
_MOMENT = r"^[0-9]{4}-[0-9]{2}-[0-9]{2}([T ][0-9]{2}:[0-9]{2}.*)?$"
_HERE: ContextVar[JobOptions | None] = ContextVar("tta_bulk_options", default=None)
"""What only a caller in this process can give: an observer, how long it may wait."""
_REPORTS: ContextVar[list[BulkReport] | None] = ContextVar("tta_bulk_reports", default=None)
"""Where a caller in this process finds the report of a run that was stopped."""


def _run_name() -> str:
    return name_or(f"bulk {Path(str(this_run.parameters.get('input_path', ''))).name}"[:60])


def _read(name: str, reader: Callable[[str, object], Any]) -> BeforeValidator:
    """Let a parameter of the flow be written as on the command line."""
    return BeforeValidator(lambda value: None if value is None else reader(name, value))


@use_embedded_server
@flow(name="orchestrate-bulk", flow_run_name=_run_name, **KEPT)
async def orchestrate_bulk(
    input_path: str,
    output_path: str,
    concurrency: Annotated[int, Field(ge=1, le=1000), _read("concurrency", whole)] = 50,
    chunk_size: Annotated[int | None, Field(ge=1, le=1000), _read("chunk_size", whole)] = None,
    # Prefect's server checks texts by their pattern only.
    max_cost: Annotated[
        Decimal | None,
        Field(ge=0, json_schema_extra={"pattern": _AMOUNT}),
        _read("max_cost", usd_amount),
    ] = None,
    until: Annotated[
        datetime | None,
        Field(json_schema_extra={"pattern": _MOMENT}),
        _read("until", moment),
    ] = None,
    patience_s: Annotated[float | None, Field(ge=0), _read("patience_s", patience)] = PATIENCE_S,
    ordered: bool = False,
    detail: Literal["chunk", "item"] = "chunk",
    force: bool = False,
    config_path: str | None = None,
    keep_going: bool = False,
    allow_extra: bool = False,
    samples: Annotated[int, Field(ge=1, le=1000), _read("samples", whole)] = 1,
    output_schema: dict[str, Any] | None = None,
    batch: bool = False,
    shards: Annotated[int, Field(ge=1, le=100)] = 1,
) -> BulkReport:
    """Run a file of tasks; a run that was stopped or killed goes on where it was, and pays for nothing twice.

    When free quota is hours away, a deployed run puts itself back on the schedule for the moment it returns.

    Args:
        input_path: Tasks: JSONL or CSV with id, task, and optional use_case, system and schema.
        output_path: Results, JSONL, or a .csv with one column a field; running again does only what is missing.
        concurrency: Provider calls open at once.
        chunk_size: Tasks a task run; empty: up to 100, twice the concurrency.
        max_cost: The most the whole job may cost, USD, over all its runs.
        until: Start nothing new after this moment; without a zone: UTC.
        patience_s: Seconds the job may wait for free quota before it may spend; 0: spend at once; empty: never
            spend for want of quota. Another value than the default also limits how old a batch may become.
        ordered: Put the results into the order of the input at the end.
        detail: Task runs for each chunk, or for each item.
        force: Go on although configuration or tasks changed since the last run.
        config_path: Configuration file; empty searches the usual places.
        keep_going: Go on although the same local check refuses answer after answer.
        allow_extra: Copy unknown fields of the tasks to the results, in place of refusing their lines.
        samples: Independent answers of each task; their ids end with #1, #2 and so on.
        output_schema: JSON Schema of the answers; then each line holds valid `data`. Empty: text.
        batch: Send paid calls in batches of their providers: half the price, within a day.
        shards: Deployment runs that share the work, on as many workers; 1: this process does it.

    Raises:
        ConfigError: Input, output or an option is wrong, or configuration or tasks changed (see `force`).
        JobBusyError: Another process runs this job.
        JobFailedError: Every task failed; its `report` is the report.
        LedgerError: The ledger cannot be used.
        OutputError: The output cannot be written; what was answered is kept.
    """
    here = _HERE.get()
    schema = None if here is None else here.output
    if schema is None and output_schema is not None:
        schema = OutputType.of(output_schema, name="output_schema")
    options = replace(
        here or JobOptions(),
        output=schema,
        concurrency=concurrency,
        chunk_size=chunk_size,
        max_cost=max_cost,
        until=until,
        patience_s=math.inf if patience_s is None else patience_s,
        detail=detail,
        keep_going=keep_going,
        allow_extra=allow_extra,
        samples=samples,
        batch=batch and shards == 1,
    )
    runtime = current_runtime() or await Runtime.load(config_path)
    report = await _file_job(
        runtime,
        Path(input_path),
        Path(output_path),
        options,
        ordered=ordered,
        force=force,
        shards=shards,
    )
    if (kept := _REPORTS.get()) is not None:
        kept.append(report)
    if report.resume_at is not None and here is None:
        await _sleep_until(report.resume_at, report.reason or "waits for free quota")
    # Prefect takes the state for the run's own and hands on its data.
    return cast(BulkReport, end_state(report))


async def run_file(local: JobOptions, **parameters: Any) -> BulkReport:
    """Run `orchestrate_bulk` from this process with an observer and a waiting time of its own.

    Returns:
        The report, also of a run that was stopped by a signal or in Prefect: its state is `interrupted`.
    """
    reports: list[BulkReport] = []
    tokens = _HERE.set(local), _REPORTS.set(reports)
    try:
        return cast(BulkReport, await orchestrate_bulk(**parameters))
    except JobFailedError as failed:
        return failed.report
    except (RunCancelledError, Interrupted):
        if not reports:
            raise
        return reports[0]
    finally:
        _HERE.reset(tokens[0])
        _REPORTS.reset(tokens[1])


async def _file_job(
    runtime: Runtime,
    source: Path,
    target: Path,
    options: JobOptions,
    *,
    ordered: bool,
    force: bool,
    shards: int,
) -> BulkReport:
    if shards > 1:
        await require_deployment()
    with await asyncio.to_thread(
        FileJob.open,
        runtime.config,
        source,
        target,
        force=force,
        schema=options.output,
        allow_extra=options.allow_extra,
        samples=options.samples,
    ) as job:
        run = JobRun(
            runtime,
            options,
            job.write,
            job.progress,
            earlier_runs=tuple(job.file.flow_run_ids),
            waited_s=job.file.waited_s,
            renew=job.output.renew,
        )
        # Before anything is paid: what this run costs counts for the job whatever happens to the process.
        job.add_run(runtime.flow_run_id())
        await close_dead_runs(run.earlier_runs, runtime.flow_run_id())
        await run.open()
        try:
            if not job.file.planned:
                job.set_plan(await run.plan(job.sample))
            if shards > 1:
                run.shards = await _shards(run, job, options.max_cost, shards)
            await run.run(streamed(job.todo()), job.file.plan)
        finally:
            with suppress(OrchestrationError):
                job.close_run(run.admission.waited_s)
            await asyncio.to_thread(job.finish, ordered=ordered and run.admission.closed is None)
        if run.problem is not None:
            raise run.problem
        return report_of(run, job)


async def _shards(run: JobRun, job: FileJob, max_cost: Decimal | None, count: int) -> ShardRunner:
    """The job as deployment runs: each gets this run's parameters, and its part of what may still be spent."""
    context = FlowRunContext.get()
    assert context is not None
    spent = await cost_of_runs(run.runtime.ledger, job.file.flow_run_ids)
    source = run.runtime.config.source
    parameters = parameters_of_shards(
        context.parameters or {},
        count,
        config_path=None if source is None else str(source.absolute()),
        left_usd=None if max_cost is None else max_cost - spent,
    )
    return ShardRunner(job, count, parameters, run.admission)


async def _sleep_until(moment: datetime, why: str) -> None:
    """Put a deployed flow run back on the schedule; it starts again from the top, and the output says what is done."""
    context = FlowRunContext.get()
    run = context.flow_run if context is not None else None
    if run is None or run.deployment_id is None:
        return
    state: State[Any] = AwaitingRetry(scheduled_time=moment, message=why)
    async with get_client() as client:
        result = await client.set_flow_run_state(run.id, state, force=True)
    _LOG.info("%s: this run goes on at %s", why, moment.isoformat())
    raise Pause(state=result.state)
