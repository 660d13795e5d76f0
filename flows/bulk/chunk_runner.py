"""Runs the chunks of a job through `run_items`, several at a time, until the source ends or it stops."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from decimal import Decimal

from tta_dev_primitives.blocks.redaction import redact
from tta_dev_primitives.config.errors import (
    AllModelsFailedError,
    BudgetExceededError,
    ConfigError,
    LedgerError,
    OrchestrationError,
    PrefectServerError,
)
from tta_dev_primitives.flows.bulk.brake import Brake
from tta_dev_primitives.flows.bulk.call_order import BulkAdmission
from tta_dev_primitives.flows.bulk.chunk_sizes import LEARNT, next_size
from tta_dev_primitives.flows.bulk.output import OutputError
from tta_dev_primitives.flows.bulk.reader import Record
from tta_dev_primitives.flows.calling.admission import PostponedError
from tta_dev_primitives.flows.calling.runtime import Runtime
from tta_dev_primitives.flows.pipeline import run_items
from tta_dev_primitives.flows.planning.plan_model import Plan
from tta_dev_primitives.flows.tasks.item import Item
from tta_dev_primitives.flows.tasks.result import BudgetView, OrchestrationResult

_LOG = logging.getLogger("tta_dev_primitives.bulk")

Ended = Callable[[Record, OrchestrationResult, OrchestrationError | None], None]
"""Called with each task that has ended, with its error if it failed."""


@dataclass(slots=True)
class ChunkRunner:
    """Runs records in chunks."""

    runtime: Runtime
    admission: BulkAdmission
    plan_of: Callable[[Record], Plan]
    ended: Ended
    postponed: Callable[[Record], None]
    """Called with each task that was taken but not done, because the job stopped."""
    size: int
    """Tasks a chunk."""
    most: int
    """Chunks under way at most."""
    budget: BudgetView
    """The month's budget when the job began, for tasks that end before their own look at it."""
    brake: Brake | None = None
    """Looks at what is refused; None: the job goes on whatever fails."""
    learns: bool = False
    """Begin with small chunks, one after the other: the paid checks of the first tasks spare later ones."""
    problem: OrchestrationError | None = None
    """What stopped the job: the ledger, the budget or the output; not a task's own failure."""
    _taken: int = 0
    _drifts: int = field(init=False)
    _under_way: set[asyncio.Task[None]] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._drifts = self.runtime.drifts

    async def run(self, records: AsyncIterator[Record]) -> None:
        """Run every record, as long as the job has not stopped."""
        try:
            while self.admission.closed is None and (chunk := await self._next(records)):
                task = asyncio.create_task(self._chunk(chunk))
                self._under_way.add(task)
                while len(self._under_way) >= (1 if self._learning() else self.most):
                    await self._some_end()
            while self._under_way:
                await self._some_end()
        except BaseException:
            for task in self._under_way:
                task.cancel()
            await asyncio.gather(*self._under_way, return_exceptions=True)
            raise

    async def _next(self, records: AsyncIterator[Record]) -> list[Record]:
        chunk: list[Record] = []
        size = next_size(self._taken, self.size) if self._learning() else self.size
        async for record in records:
            chunk.append(record)
            if len(chunk) == size:
                break
        self._taken += len(chunk)
        return chunk

    def _learning(self) -> bool:
        """Whether evidence has earned too little trust yet: what one chunk taught must reach the next one."""
        if self.runtime.drifts > self._drifts:
            # An alarm took trust away: many tasks at once would all be paid for before it is earned again.
            self._drifts, self.learns, self._taken = self.runtime.drifts, True, 0
        return self.learns and self._taken < LEARNT

    async def _some_end(self) -> None:
        done, self._under_way = await asyncio.wait(self._under_way, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()

    async def _chunk(self, records: list[Record]) -> None:
        open_records: dict[str, Record] = {record.id: record for record in records}

        def done(item: Item) -> None:
            self._end(open_records.pop(item.id), item)

        items = [self._item(record) for record in records]
        try:
            self.admission.check_open()
            await run_items(self.runtime, items, done=done)
        except (LedgerError, BudgetExceededError, OutputError, ConfigError, PrefectServerError) as error:
            self._stop(error)
        except PostponedError as postponed:
            _LOG.debug("a chunk was not started: %s", postponed)
        except Exception as error:
            _LOG.exception("a chunk ended with an unexpected error; its tasks count as failed")
            text = f"unexpected error: {type(error).__name__}: {redact(str(error))}"
            for item in items:
                if item.id in open_records:
                    item.error = OrchestrationError(text)
                    done(item)
        for record in open_records.values():
            self.postponed(record)

    def _item(self, record: Record) -> Item:
        item = Item(
            record.id,
            record.task,
            use_case=record.use_case,
            system=record.system,
            calls_left=self.runtime.config.fallback_strategy.max_attempts,
            output=record.output,
            seed=record.seed,
        )
        item.plan = self.plan_of(record)
        item.watch = None if self.brake is None else self.brake.answered
        return item

    def _end(self, record: Record, item: Item) -> None:
        if isinstance(item.error, PostponedError):
            self.postponed(record)
            return
        if self.brake is not None:
            answers = item.case.answers if item.case is not None else ()
            self.brake.ended(answers, failed=item.result is None)
        try:
            if item.result is not None:
                self.ended(record, item.result, None)
            else:
                error = item.error or OrchestrationError("ended without a result")
                use_case = item.use_case or (item.plan.use_case if item.plan is not None else "")
                budget = item.budget or self.budget
                self.ended(
                    record, failed_result(record.id, error, self.runtime, budget, use_case, item), error
                )
        except OutputError as error:
            self.postponed(record)
            self._stop(error)

    def _stop(self, error: OrchestrationError) -> None:
        if self.problem is None:
            self.problem = error
        self.admission.close(str(error))


def failed_result(
    name: str,
    error: OrchestrationError,
    runtime: Runtime,
    budget: BudgetView,
    use_case: str,
    item: Item | None = None,
) -> OrchestrationResult:
    """The result of a task that has no answer: not accepted, its error among the warnings, its cost counted."""
    attempts = sorted(item.attempts, key=lambda a: a.started_at) if item is not None else []
    notes = item.warnings if item is not None else []
    return OrchestrationResult(
        id=name,
        content="",
        model="",
        provider="",
        use_case=use_case,
        accepted=False,
        attempts=attempts,
        cost_usd=item.cost_usd if item is not None else Decimal(0),
        budget=budget,
        flow_run_id=runtime.flow_run_id(),
        warnings=[redact(str(error)), *notes],
    )


def error_class(error: OrchestrationError) -> str:
    """One word for why a task failed."""
    match error:
        case BudgetExceededError():
            return "budget"
        case AllModelsFailedError():
            return "models"
        case ConfigError():
            return "config"
        case _:
            return "error"
