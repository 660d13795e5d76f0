"""A job over files: what of the input is still to do, and where its results go. Files only, no Prefect."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from tta_dev_primitives.blocks.redaction import redact
from tta_dev_primitives.config import OrchestrationConfig
from tta_dev_primitives.config.errors import ConfigError, OrchestrationError
from tta_dev_primitives.flows.answers.output_type import OutputType
from tta_dev_primitives.flows.bulk.csv_output import is_csv, jsonl_beside, write_csv
from tta_dev_primitives.flows.bulk.job_file import SAMPLE, JobFile, config_digest
from tta_dev_primitives.flows.bulk.output import Output
from tta_dev_primitives.flows.bulk.progress import MOST_LISTED, LineReport, Progress
from tta_dev_primitives.flows.bulk.reader import BrokenLine, Record, input_size, read_records
from tta_dev_primitives.flows.planning.plan_model import Plan
from tta_dev_primitives.flows.tasks.result import OrchestrationResult

_LOG = logging.getLogger("tta_dev_primitives.bulk")


@dataclass(slots=True)
class FileJob:
    """One run of the job whose results are in an output file. Make it with `open`, use it as a context manager."""

    source: Path
    target: Path
    output: Output
    file: JobFile
    schema: OutputType | None
    allow_extra: bool
    samples: int
    progress: Progress = field(default_factory=lambda: Progress(total=0))
    broken: list[LineReport] = field(default_factory=list)
    duplicates: list[LineReport] = field(default_factory=list)
    sample: list[Record] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    _repeated: int = 0
    """The last line whose id stands on an earlier one."""

    @classmethod
    def open(
        cls,
        config: OrchestrationConfig,
        source: Path,
        target: Path,
        *,
        force: bool,
        schema: OutputType | None = None,
        allow_extra: bool = False,
        samples: int = 1,
    ) -> Self:
        """Lock the output, read input and output once, and see what is to do.

        Args:
            target: The results; of a `.csv` the job keeps the whole results in a JSONL file beside it.
            schema: The type of the answers; None: text.
            allow_extra: Copy fields of the user's own from the tasks to the results.
            samples: Independent answers of each task.
            force: Go on although configuration or tasks changed; changed tasks are answered again.

        Raises:
            ConfigError: A file is wrong, holds no task, or results would mix.
            JobBusyError: Another process runs this job.
        """
        input_size(source)
        if os.path.realpath(source) == os.path.realpath(target):
            raise ConfigError(f"{target}: is the input itself. Choose another --out.")
        output = Output(jsonl_beside(target) if is_csv(target) else target)
        try:
            digest = config_digest(config)
            file = JobFile.read(output.path)
            new = JobFile(input=str(source.resolve()), config_digest=digest)
            job = cls(source, target, output, file or new, schema, allow_extra, samples)
            job._scan(force=force)
            if file is not None:
                job._compare(digest, force=force)
        except BaseException:
            output.discard()
            raise
        return job

    def todo(self) -> Iterator[Record]:
        """The tasks still to do, in the order of the input; lines after the scan are left to the next run."""
        for record in self._records():
            if (
                isinstance(record, Record)
                and self.output.is_first(record)
                and self.output.done(record) != "done"
            ):
                yield record

    def _records(self) -> Iterator[Record | BrokenLine]:
        return read_records(
            self.source,
            output=self.schema,
            allow_extra=self.allow_extra,
            samples=self.samples,
        )

    def write(self, record: Record, result: OrchestrationResult, error: OrchestrationError | None) -> None:
        """Append one result."""
        self.output.write(record, result, None if error is None else _error(error))

    def set_plan(self, plan: Plan | None) -> None:
        """Keep the job's plan for this and later runs."""
        self.file.plan, self.file.planned = plan, True
        self.file.write(self.output.path)

    def add_run(self, flow_run_id: str | None) -> None:
        """Remember a flow run whose calls count for this job."""
        if flow_run_id is not None and flow_run_id not in self.file.flow_run_ids:
            self.file.flow_run_ids.append(flow_run_id)
        self.file.write(self.output.path)

    def close_run(self, waited_s: float) -> None:
        """Keep what later runs must know."""
        self.file.waited_s = waited_s
        self.file.write(self.output.path)

    def finish(self, *, ordered: bool) -> None:
        """Leave each id once in the output, and write the CSV where one is asked for."""
        self.output.finish(ordered=ordered)
        if is_csv(self.target):
            write_csv(self.output.path, self.target, self.schema)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.output.__exit__()

    def _scan(self, *, force: bool) -> None:
        changed: list[str] = []
        tasks = todo = 0
        for record in self._records():
            if isinstance(record, BrokenLine):
                self._break(record)
                continue
            if not self.output.is_new(record):
                self._repeat(record)
                continue
            tasks += 1
            if len(self.sample) < SAMPLE:
                self.sample.append(record)
            state = self.output.done(record)
            if state == "changed":
                changed.append(record.id) if len(changed) < 3 else None
            todo += state != "done"
            self.progress.skipped += state == "done"
        self.progress.total = todo
        if self.output.copies:
            self.warnings.append(
                f"{self.output.copies:,} tasks are the same as another one under a different id: an answer is paid "
                "once, the saving is computed without the copies; `--samples N` or a `seed` asks for others"
            )
        if not tasks and not self.progress.broken:
            raise ConfigError(
                f'{self.source}: it holds no task. Expected lines such as {{"id": "1", "task": "..."}}.'
            )
        if changed and not force:
            raise ConfigError(
                f"{self.source}: tasks changed since they were answered (ids {', '.join(changed)} ...): results "
                "would mix. Use --force to answer the changed ones again, or another --out."
            )

    def _compare(self, digest: str, *, force: bool) -> None:
        if digest == self.file.config_digest:
            return
        mixed = bool(self.progress.skipped and self.progress.total)
        if mixed and not force:
            raise ConfigError(
                f"{self.output.path}: the configuration changed since this job began ({self.progress.skipped} tasks "
                f"are done, {self.progress.total} are left): results would mix. Use --force to go on, or another --out."
            )
        if mixed:
            self.warnings.append("the configuration changed since this job began: its results are mixed")
        self.file.config_digest = digest
        self.file.plan, self.file.planned = None, False

    def _break(self, line: BrokenLine) -> None:
        self.progress.broken += 1
        _LOG.warning("%s: line %d: %s (skipped)", self.source, line.number, line.reason)
        if len(self.broken) < MOST_LISTED:
            self.broken.append(LineReport(line=line.number, reason=line.reason, id=line.id))

    def _repeat(self, record: Record) -> None:
        if record.number == self._repeated:
            return  # another sample of the same line
        self._repeated = record.number
        self.progress.duplicates += 1
        why = "the id stands on an earlier line"
        _LOG.warning("%s: line %d: %r: %s (skipped)", self.source, record.number, record.id, why)
        if len(self.duplicates) < MOST_LISTED:
            self.duplicates.append(LineReport(line=record.number, reason=why, id=record.id))


def _error(error: OrchestrationError) -> dict[str, Any]:
    return {"type": type(error).__name__, "message": redact(str(error))}
