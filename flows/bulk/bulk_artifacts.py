"""What a person sees of a job in the Prefect UI: one progress artifact, and a table for every hundred tasks.

A Prefect API that is slow or down costs the picture, never the job: writing happens beside the work.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from uuid import UUID

from prefect.artifacts import acreate_progress_artifact, acreate_table_artifact, aupdate_progress_artifact

from tta_dev_primitives.blocks.redaction import redact
from tta_dev_primitives.config.errors import OrchestrationError
from tta_dev_primitives.flows.bulk.progress import Progress
from tta_dev_primitives.flows.bulk.reader import Record
from tta_dev_primitives.flows.reporting.quoted_answer import table_cell
from tta_dev_primitives.flows.reporting.run_artifacts import quietly
from tta_dev_primitives.flows.tasks.result import OrchestrationResult

_EVERY_S = 2.0
_ROWS = 100
_MOST_WRITING = 4


@dataclass(slots=True)
class JobArtifacts:
    """The artifacts of one run of a job."""

    progress: Progress
    most: int
    """Rows of a table."""
    _rows: list[dict[str, str | int | float]] = field(default_factory=list)
    _id: UUID | None = None
    _last: float = 0.0
    _writing: set[asyncio.Task[None]] = field(default_factory=set)

    async def open(self) -> None:
        """Write the first picture."""

        async def first() -> None:
            made = await acreate_progress_artifact(
                self.progress.percent, key="tta-bulk-progress", description=self.progress.line()
            )
            self._id = made

        await quietly(first())

    def add(self, record: Record, result: OrchestrationResult, error: OrchestrationError | None) -> None:
        """Add a task's row."""
        self._rows.append(
            {
                "line": record.number,
                "id": table_cell(record.id),
                "model": result.model or "-",
                "outcome": "failed" if error else ("accepted" if result.accepted else "not accepted"),
                "evidence": result.evidence,
                "calls": len(result.attempts),
                "cost USD": f"{result.cost_usd:f}",
                "reason": table_cell(redact(str(error))[:200]) if error else "",
            }
        )
        if len(self._rows) >= self.most:
            self._write_table()

    async def tick(self) -> None:
        """Bring the progress artifact up to date, every two seconds at most."""
        if self._id is None or time.monotonic() - self._last < _EVERY_S:
            return
        self._last = time.monotonic()
        await quietly(aupdate_progress_artifact(self._id, self.progress.percent, self.progress.line()))

    async def close(self, why: OrchestrationError | None) -> None:
        """Write what is left, and wait for it."""
        if self._rows:
            self._write_table()
        if self._writing:
            await asyncio.wait(self._writing, timeout=30)
        if self._id is not None:
            line = self.progress.line() + (f" · stopped: {redact(str(why))}" if why is not None else "")
            await quietly(aupdate_progress_artifact(self._id, self.progress.percent, line))

    def _write_table(self) -> None:
        rows, self._rows = self._rows, []
        if len(self._writing) >= _MOST_WRITING:
            # The API is slower than the job: one table holds more tasks.
            self._rows = rows
            self.most += _ROWS
            if len(rows) < 50 * _ROWS:
                return
            self._rows = []
        text = f"Tasks {rows[0]['id']} to {rows[-1]['id']}, in the order of their ends"
        task = asyncio.create_task(
            quietly(acreate_table_artifact(key="tta-bulk-chunk", table=rows, description=redact(text)))
        )
        self._writing.add(task)
        task.add_done_callback(self._writing.discard)
