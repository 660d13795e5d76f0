"""A job over tasks in memory, as one flow run: `MultiModelWorkflow.execute_bulk`."""

from __future__ import annotations

import math
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Mapping, Sequence, Sized
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import replace
from typing import Any, cast

from prefect import flow

from tta_dev_primitives.config.errors import ConfigError, OrchestrationError
from tta_dev_primitives.flows.answers.output_type import OutputType
from tta_dev_primitives.flows.bulk.arguments import job_options
from tta_dev_primitives.flows.bulk.chunk_runner import failed_result
from tta_dev_primitives.flows.bulk.job_file import SAMPLE
from tta_dev_primitives.flows.bulk.job_plan import plan_of
from tta_dev_primitives.flows.bulk.job_report import BulkReport, JobFailedError, end_state, report_of
from tta_dev_primitives.flows.bulk.reader import BrokenLine, Record, check_items, record_of, streamed
from tta_dev_primitives.flows.bulk.runner import JobOptions, JobRun
from tta_dev_primitives.flows.calling.runtime import Runtime, current_runtime
from tta_dev_primitives.flows.prefect_support.stopping import ending, stoppable
from tta_dev_primitives.flows.tasks.result import OrchestrationResult


async def run_bulk(
    items: Iterable[Mapping[str, Any]] | AsyncIterable[Mapping[str, Any]],
    *,
    concurrency: int = 50,
    on_result: Callable[[OrchestrationResult], None] | None = None,
    output_type: Any = None,
    **options: Any,
) -> list[OrchestrationResult]:
    """Run tasks that are in memory as one flow run.

    Args:
        items: Mappings with `id`, `task` and optional `use_case`, `system` and `schema`; also an async iterable.
        concurrency: Provider calls open at once.
        on_result: Called with each result as it comes.
        output_type: The type of the answers of items without a `schema`.
        options: `max_cost` (USD), `until`, `patience_s`, `chunk_size`, `detail`, `keep_going`, `allow_extra`,
            `batch` of `orchestrate_bulk`, also as text: "2.50", "1h", "2026-11-30T18:00" (local time).

    Returns:
        One result for each item in the order given; none for none. A failed one has `accepted=False`, no
        content, and its error as the first of its warnings.

    Raises:
        ConfigError: An option is wrong, or `items` are no tasks (a text, a path, one task).
        LedgerError: The ledger cannot be used; the results so far were given to `on_result`.
        RunCancelledError: Somebody ended the run in Prefect; the results so far were given to `on_result`.
    """
    check_items(items)
    output = None if output_type is None else OutputType.of(output_type)
    job = _MemoryJob(items, on_result, replace(_memory_options(concurrency, options), output=output))
    if isinstance(items, Sequence) and not items:
        return []
    token = _JOB.set(job)
    try:
        with ending() as end:
            try:
                with suppress(JobFailedError):  # each result says so
                    await _bulk_in_memory(concurrency=concurrency)
            except Exception:
                end.raise_for("bulk")
                raise
        end.raise_for("bulk")
    finally:
        _JOB.reset(token)
    return job.results()


def _memory_options(concurrency: int, given: Mapping[str, Any]) -> JobOptions:
    values = job_options({"concurrency": concurrency, **given})
    if values.get("patience_s", 0) is None:
        values["patience_s"] = math.inf
    return JobOptions(in_process_s=math.inf, **values)


class _MemoryJob:
    """Tasks and results of a job in memory."""

    def __init__(
        self,
        items: Iterable[Mapping[str, Any]] | AsyncIterable[Mapping[str, Any]],
        on_result: Callable[[OrchestrationResult], None] | None,
        options: JobOptions,
    ) -> None:
        self.options = options
        self.items = items
        self._on_result = on_result
        self._results: dict[int, OrchestrationResult] = {}
        self._ids: set[str] = set()
        self._places: list[BrokenLine | Record] = []

    async def records(self, run: JobRun) -> AsyncIterator[Record]:
        """Every item that can be run; the others get their result at once."""
        async for entry in streamed(self.items):
            found = record_of(
                entry, len(self._places) + 1, self.options.output, allow_extra=self.options.allow_extra
            )
            if isinstance(found, Record) and found.id in self._ids:
                why = f"the id {found.id!r} was given before"
                found = BrokenLine(found.number, why, found.id, found.use_case)
            self._places.append(found)
            if isinstance(found, BrokenLine):
                if run.progress.total is not None:
                    run.progress.total -= 1
                error = ConfigError(f"item {found.number}: {found.reason}")
                self._keep(found.number, self._failed(run, found, error))
                continue
            self._ids.add(found.id)
            yield found

    def ended(self, record: Record, result: OrchestrationResult, error: OrchestrationError | None) -> None:
        """Keep one result; its data as an instance of the caller's type."""
        if record.output is not None and error is None:
            result = result.model_copy(update={"data": record.output.check(result.data).value})
        self._keep(record.number, result)

    def close(self, run: JobRun, why: OrchestrationError | None) -> None:
        """Give the items that were not done a result that says so."""
        for place in self._places:
            if place.number not in self._results:
                self._keep(place.number, self._failed(run, place, why or OrchestrationError("not run")))

    def _failed(
        self, run: JobRun, place: BrokenLine | Record, error: OrchestrationError
    ) -> OrchestrationResult:
        use_case = place.use_case
        if use_case is None and isinstance(place, Record):
            use_case = plan_of(run.runtime, None, place).use_case
        return failed_result(place.id or "", error, run.runtime, run.budget, use_case or "")

    def results(self) -> list[OrchestrationResult]:
        """All results in the order of the items."""
        return [self._results[place.number] for place in self._places]

    def _keep(self, number: int, result: OrchestrationResult) -> None:
        self._results[number] = result
        if self._on_result is not None:
            self._on_result(result)


_JOB: ContextVar[_MemoryJob] = ContextVar("tta_bulk_job")


@flow(name="orchestrate-bulk", flow_run_name="bulk", persist_result=False, retries=0)
@stoppable
async def _bulk_in_memory(concurrency: int) -> BulkReport:
    """The flow run of a job in memory; its tasks are not parameters, which are limited to half a megabyte."""
    job = _JOB.get()
    runtime = current_runtime() or await Runtime.load(None)
    run = JobRun(runtime, job.options, job.ended)
    run.progress.total = len(job.items) if isinstance(job.items, Sized) else None
    await run.open()
    records = job.records(run)
    first: list[Record] = []
    while len(first) < SAMPLE and (record := await anext(records, None)) is not None:
        first.append(record)
    try:
        plan = await run.plan(first)
        await run.run(_chain(first, records), plan)
        if run.admission.closed is not None:
            async for _ in records:
                run.progress.postponed += 1
    finally:
        job.close(run, run.problem or run.admission.closed)
    if run.problem is not None:
        raise run.problem
    return cast(BulkReport, end_state(report_of(run, None)))


async def _chain(first: Iterable[Record], rest: AsyncIterator[Record]) -> AsyncIterator[Record]:
    for record in first:
        yield record
    async for record in rest:
        yield record
