"""One run of a job inside a flow run: plan once, run the tasks, show how far it is, stop in good order."""

from __future__ import annotations

import asyncio
import gc
import logging
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from functools import partial
from typing import Any, Literal

from tta_dev_primitives.blocks.ledger.report import cost_of_runs
from tta_dev_primitives.blocks.redaction import redact
from tta_dev_primitives.config.errors import LedgerError, OrchestrationError
from tta_dev_primitives.flows.answers.output_type import OutputType
from tta_dev_primitives.flows.budget import budget_state
from tta_dev_primitives.flows.bulk.batch_lifecycle import BatchTiming, ProviderBatches
from tta_dev_primitives.flows.bulk.batch_rounds import MOST_TASKS, BatchRounds
from tta_dev_primitives.flows.bulk.brake import Brake
from tta_dev_primitives.flows.bulk.bulk_artifacts import JobArtifacts
from tta_dev_primitives.flows.bulk.call_order import BulkAdmission
from tta_dev_primitives.flows.bulk.chunk_runner import ChunkRunner, Ended, error_class
from tta_dev_primitives.flows.bulk.chunk_sizes import whole_chunk
from tta_dev_primitives.flows.bulk.job_file import SAMPLE
from tta_dev_primitives.flows.bulk.job_plan import needs_job_plan, plan_job, plan_of, plan_request
from tta_dev_primitives.flows.bulk.progress import LineReport, Progress, quota_eta
from tta_dev_primitives.flows.bulk.quota_wait import IN_PROCESS_S
from tta_dev_primitives.flows.bulk.reader import Record
from tta_dev_primitives.flows.bulk.recording import paced
from tta_dev_primitives.flows.bulk.shard_runs import ShardRunner
from tta_dev_primitives.flows.calling.job_budget import JobBudget
from tta_dev_primitives.flows.calling.runtime import Runtime
from tta_dev_primitives.flows.planning.plan_model import Plan
from tta_dev_primitives.flows.prefect_support.event_batch import in_batches
from tta_dev_primitives.flows.prefect_support.stopping import current_stop
from tta_dev_primitives.flows.reporting.run_artifacts import write_budget_panel
from tta_dev_primitives.flows.tasks.gather_all import gather_all
from tta_dev_primitives.flows.tasks.result import BudgetView, OrchestrationResult

_LOG = logging.getLogger("tta_dev_primitives.bulk")

Observer = Callable[[Progress], None]
PATIENCE_S = 3600.0
_TICK_S = 0.5
_GRACE_S = 20.0
"""After a first Ctrl-C calls under way may end for this long; then they are cut off and settled."""


_MOST_FAILURES = 20
_EXPERIENCED = 100
"""Tasks that the risk ledger must have seen before a job starts with whole chunks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobOptions:
    """How a job is run."""

    concurrency: int = 50
    chunk_size: int | None = None
    max_cost: Decimal | None = None
    until: datetime | None = None
    patience_s: float = PATIENCE_S
    """For free quota; and for batches, when it is not the default."""
    in_process_s: float = IN_PROCESS_S
    detail: Literal["chunk", "item"] = "chunk"
    allow_extra: bool = False
    """Take tasks with fields of the user's own."""
    samples: int = 1
    """Independent answers of each task of a file."""
    keep_going: bool = False
    """Go on although the same local check refuses answer after answer."""
    output: OutputType | None = None
    """The type of the answers; None: text."""
    observer: Observer | None = None
    """Called at the start, and twice a second, with how far the job is."""
    clock: Callable[[], float] = time.time
    """Epoch seconds, for quotas, deadline and waits; a simulation hands in its own."""
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    batch: bool = False
    """Send paid calls in batches of their providers, at the batch price."""
    batch_wait_s: float | None = None
    """How long this process waits for batches; None: `in_process_s`. They go on without it."""
    batch_timing: BatchTiming = field(default_factory=BatchTiming)

    @property
    def size(self) -> int:
        """Tasks a chunk."""
        if self.detail == "item":
            return 1
        return self.chunk_size or whole_chunk(self.concurrency)

    @property
    def chunks(self) -> int:
        """Chunks under way: enough that the open calls never wait for a chunk's last answer.

        In a batch job as many as it may have: what waits at the same time goes out together.
        """
        if self.batch:
            return max(1, MOST_TASKS // self.size)
        return max(3, math.ceil(3 * self.concurrency / self.size))


@dataclass(slots=True)
class JobRun:
    """One run of a job.

    Args:
        progress: The counts; `total` and `skipped` are set by the caller.
        earlier_runs: Flow runs of this job before this one, for its ceiling.
        waited_s: Patience that they used up.
    """

    runtime: Runtime
    options: JobOptions
    ended: Ended
    progress: Progress = field(default_factory=Progress)
    earlier_runs: Sequence[str] = ()
    waited_s: float = 0.0
    warnings: list[str] = field(default_factory=list)
    interrupted: bool = False
    watched: bool = True
    admission: BulkAdmission = field(init=False)
    brake: Brake = field(init=False)
    budget: BudgetView = field(init=False)
    """The month's budget when the run began."""
    batches: BatchRounds | None = None
    shards: ShardRunner | None = None
    """Does the work on other machines."""
    renew: Callable[[], None] | None = None
    """Shows other machines that this process works."""
    problem: OrchestrationError | None = None
    _before: Decimal = Decimal(0)
    """What earlier runs of the job have cost, as it was last counted."""
    failures: list[LineReport] = field(default_factory=list)
    """The first tasks that failed."""

    def __post_init__(self) -> None:
        until = self.options.until
        self.admission = BulkAdmission(
            self.options.concurrency,
            patience_s=self.options.patience_s,
            waited_s=self.waited_s,
            until=math.inf if until is None else until.timestamp(),
            in_process_s=self.options.in_process_s,
            clock=self.options.clock,
            sleep=self.options.sleep,
        )
        self.brake = Brake(self.admission.close)
        self.progress.clock = self.options.clock
        self.progress.under_way = lambda: self.admission.under_way

    async def open(self) -> None:
        """Read what the job has cost so far, and make its runtime."""
        self._before = await cost_of_runs(self.runtime.ledger, self.earlier_runs)
        budget = JobBudget(self.options.max_cost, self._before)
        if self.options.batch:
            self.batches = self._rounds(budget)
            self.progress.batches = self.batches.state
        self.runtime = (await self.runtime.for_run()).for_job(
            self.admission,
            budget,
            clock=self.options.clock,
            sleep=self.options.sleep,
            batches=self.batches,
        )
        self.budget = (await budget_state(self.runtime)).view()
        self.progress.most_usd = _most(self.budget, self.options.max_cost, self._before)
        self.progress.start()

    def _rounds(self, budget: JobBudget) -> BatchRounds:
        options = self.options
        own_patience = options.batch_wait_s is None and options.patience_s != PATIENCE_S
        services = self.runtime.services.at(options.clock, options.sleep)

        async def change_before() -> Decimal:
            """By how much the cost of earlier runs has changed since it was last counted."""
            now = await cost_of_runs(services.ledger, self.earlier_runs)
            change, self._before = now - self._before, now
            return change

        return BatchRounds(
            services,
            ProviderBatches(services, options.batch_timing),
            self.admission,
            budget,
            options.in_process_s if options.batch_wait_s is None else options.batch_wait_s,
            options.patience_s if own_patience else math.inf,
            change_before,
            lambda: (self.runtime.flow_run_id(), *self.earlier_runs),
        )

    async def plan(self, sample: Sequence[Record]) -> Plan | None:
        """The job's plan; asks the orchestrator at most once."""
        if not needs_job_plan(self.runtime, sample[:SAMPLE]):
            return None
        asked = plan_request(sample[:SAMPLE])
        made = await plan_job(self.runtime, asked, self.progress.total)
        self.warnings += asked.warnings
        for attempt in asked.attempts:
            line = self.progress.model(attempt.model)
            line.calls += not attempt.reused
            line.cost_usd += attempt.cost_usd
            self.progress.cost_usd += attempt.cost_usd
        return made

    async def _learns(self) -> bool:
        """Whether this configuration has too little experience to trust any evidence yet.

        Not in a batch job: small chunks one after the other would each wait for a batch.
        """
        policy = self.runtime.policy
        if (
            self.options.batch
            or policy.mode != "adaptive"
            or not any(t.billing == "free" for t in self.runtime.targets.values())
        ):
            return False
        return (await self.runtime.risk.state()).items < _EXPERIENCED

    async def run(self, records: AsyncIterator[Record], plan: Plan | None) -> None:
        """Run the records to their end, or as far as deadline, quota, budget and signals allow."""
        # With `detail: item` each item has a task run of its own: one table holds more of them.
        artifacts = JobArtifacts(self.progress, 100 if self.options.size > 1 else 1000)
        chunks: ChunkRunner | ShardRunner = ChunkRunner(
            self.runtime,
            self.admission,
            lambda record: plan_of(self.runtime, plan, record),
            ended=lambda record, result, error: self._end(artifacts, record, result, error),
            postponed=self._postpone,
            size=self.options.size,
            most=self.options.chunks,
            budget=self.budget,
            brake=None if self.options.keep_going else self.brake,
            learns=await self._learns(),
        )
        if self.shards is not None:
            chunks, self.shards.ended = self.shards, partial(self._end, artifacts)
        await artifacts.open()
        self._show()
        beside = [asyncio.create_task(self._watch(artifacts))]
        if self.batches is not None:
            beside.append(asyncio.create_task(self.batches.run()))
        try:
            async with in_batches():
                with _fewer_collections(), self._stopped_gently(asyncio.current_task()):
                    await chunks.run(paced(records) if self.options.detail == "item" else records)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if not self.interrupted or task is None:
                raise
            task.uncancel()
        finally:
            self.problem = chunks.problem
            for task in beside:
                task.cancel()
            # What stopped the batches has reached every call that waited for one.
            await asyncio.gather(*beside, return_exceptions=True)
            self._show()
            await self._count_cut_off()
            await gather_all((artifacts.close(self.admission.closed), write_budget_panel(self.runtime)))

    async def _count_cut_off(self) -> None:
        """Add what the ledger charged for calls that never became an attempt: they were cut off on their way."""
        run_id = self.runtime.flow_run_id()
        run_ids = [*([run_id] if run_id else []), *(self.shards.run_ids if self.shards else [])]
        charged = Decimal(0)
        # A ledger that is down has stopped the job already, with its own words.
        with suppress(LedgerError):
            charged = await cost_of_runs(self.runtime.ledger, run_ids, with_open_batches=False)
        if charged > self.progress.cost_usd:
            more = charged - self.progress.cost_usd
            self.progress.cost_usd = charged
            self.warnings.append(
                f"{more:f} USD of the cost are calls that were cut off, charged at their bound, "
                "or were collected by another process"
            )

    def _end(
        self,
        artifacts: JobArtifacts,
        record: Record,
        result: OrchestrationResult,
        error: OrchestrationError | None,
    ) -> None:
        self.ended(record, result, error)
        self.progress.add(result, None if error is None else error_class(error))
        if error is not None and len(self.failures) < _MOST_FAILURES:
            self.failures.append(LineReport(line=record.number, reason=redact(str(error)), id=record.id))
        artifacts.add(record, result, error)

    def _postpone(self, record: Record) -> None:
        self.progress.postponed += 1

    async def _watch(self, artifacts: JobArtifacts) -> None:
        """Keep the views up to date while the job runs."""
        while True:
            await asyncio.sleep(_TICK_S)
            if self.renew is not None:
                self.renew()
            # A view that fails must not end the job: what is wrong with ledger or keys, the work itself will say.
            with suppress(OrchestrationError):
                self.progress.quota_eta_s = await quota_eta(
                    self.runtime.services, self.progress, self.options.clock()
                )
            self._show()
            await artifacts.tick()

    def _show(self) -> None:
        self.progress.waiting_until = self.admission.waiting_until
        if self.options.observer is None or not self.watched:
            return
        try:
            self.options.observer(self.progress)
        except OSError as gone:
            # The reader of the progress has closed the terminal or the pipe: the job goes on unseen.
            self.watched = False
            _LOG.warning("progress is no longer shown: %s", gone)

    @contextmanager
    def _stopped_gently(self, main: asyncio.Task[Any] | None) -> Iterator[None]:
        """First wish: start nothing new, let calls end. Second, or after a while: cut them off and settle."""
        stop, cut = current_stop(), list[asyncio.TimerHandle]()
        if stop is None or main is None:
            yield
            return

        def gently() -> None:
            if self.interrupted:
                main.cancel()
                return
            self.interrupted = True
            self.admission.close("interrupted" if stop.state is None else "cancelled in Prefect")
            cut.append(asyncio.get_running_loop().call_later(_GRACE_S, main.cancel))

        stop.gently = gently
        try:
            yield
        finally:
            stop.gently = None
            for timer in cut:
                timer.cancel()


@contextmanager
def _fewer_collections() -> Iterator[None]:
    """Look for cyclic garbage less often: a job makes little of it, and the looking is a sixth of its CPU."""
    before = gc.get_threshold()
    gc.set_threshold(50_000, 20, 50)
    try:
        yield
    finally:
        gc.set_threshold(*before)


def _most(budget: BudgetView, max_cost: Decimal | None, spent: Decimal) -> Decimal | None:
    """What a run may cost: what is left of the job's ceiling and of the month, USD; None: no limit."""
    job = None if max_cost is None else max_cost - spent
    month = None if budget.limit_usd is None else budget.limit_usd - budget.spent_usd - budget.held_usd
    limits = [amount for amount in (job, month) if amount is not None]
    return max(Decimal(0), min(limits)) if limits else None
