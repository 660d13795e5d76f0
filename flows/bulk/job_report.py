"""What a run of a job gives back."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Literal

from prefect.client.schemas.objects import State
from prefect.states import Completed, Failed
from pydantic import BaseModel, ConfigDict, Field

from tta_dev_primitives.blocks.redaction import redact
from tta_dev_primitives.blocks.wire.batches.formats import batch_factor
from tta_dev_primitives.config.errors import OrchestrationError
from tta_dev_primitives.flows.bulk.progress import LineReport, ModelLine, Progress
from tta_dev_primitives.flows.tasks.result import Usd

if TYPE_CHECKING:
    from tta_dev_primitives.flows.bulk.file_job import FileJob
    from tta_dev_primitives.flows.bulk.runner import JobRun


class FieldReport(BaseModel):
    """What the models' answers said of one field of the typed tasks of this run."""

    agreed: int
    disputed: int
    corrected: int = Field(description="Disputed, and the orchestrator gave the value")
    unchecked: int


class BulkReport(BaseModel):
    """How a run of a job ended."""

    model_config = ConfigDict(frozen=True)

    state: Literal["complete", "incomplete", "interrupted", "waiting"]
    """`complete`: nothing is left but what failed; `waiting`: free quota is back at `resume_at`."""
    output: str | None = None
    done: int = Field(description="Tasks with an answer, those of earlier runs included")
    done_before: int = Field(description="Of them, by earlier runs")
    accepted: int = Field(description="Answered in this run with enough evidence")
    reused: int = Field(default=0, description="Answered in this run from the answer store, unpaid")
    failed: int
    left: int = Field(description="Not done, because the run stopped")
    broken_lines: tuple[LineReport, ...] = ()
    broken: int = 0
    duplicates: tuple[LineReport, ...] = ()
    duplicate: int = 0
    errors: dict[str, int] = Field(
        default_factory=dict, description="Failed tasks by class: models, budget ..."
    )
    failures: tuple[LineReport, ...] = Field(default=(), description="The first of the failed tasks, and why")
    cost_usd: Usd = Decimal(0)
    baseline_cost_usd: Usd = Field(
        default=Decimal(0), description="The paid model alone; of a batch job: the paid model in batches"
    )
    savings_ratio: float = 0.0
    baseline_one_by_one_usd: Usd | None = Field(
        default=None, description="Of a batch job: the paid model alone, one call at a time"
    )
    paid_rest_usd: Usd | None = Field(
        default=None,
        description="About what the tasks that are left cost by the paid model; empty: not known",
    )
    seconds: float = 0.0
    models: dict[str, ModelLine] = Field(default_factory=dict)
    fields: dict[str, FieldReport] = Field(default_factory=dict, description="Of typed tasks: each field")
    reason: str | None = None
    """Why it stopped before its end."""
    resume_at: datetime | None = None
    flow_run_id: str | None = None
    warnings: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; money as text."""
        return self.model_dump(mode="json")


class JobFailedError(OrchestrationError):
    """No task of a job has an answer, and some have failed; `report` holds the figures."""

    report: BulkReport


def end_state(report: BulkReport) -> BulkReport | State[Any]:
    """What the flow run of a job returns: Failed when all tasks failed; what failed stands in the state's message."""
    if not report.failed and report.reason is None:
        return report
    classes = ", ".join(f"{name} {count}" for name, count in sorted(report.errors.items()))
    parts = [f"{report.done} tasks done", f"{report.failed} failed" + (f" ({classes})" if classes else "")]
    if report.left:
        parts.append(f"{report.left} left")
    text = ", ".join(parts) + (f". Stopped: {report.reason}" if report.reason else "")
    if report.failed and not report.done and report.state in ("complete", "incomplete"):
        return Failed(message=text, data=JobFailedError(text, report=report))
    return Completed(message=text, data=report)


def report_of(run: JobRun, job: FileJob | None) -> BulkReport:
    """The report of an ended run."""
    progress, admission = run.progress, run.admission
    left = progress.left if progress.left is not None else progress.postponed
    state: Literal["complete", "incomplete", "interrupted", "waiting"] = "complete"
    if run.interrupted:
        state = "interrupted"
    elif admission.opens_at is not None:
        state = "waiting"
    elif admission.closed is not None or left:
        state = "incomplete"
    return BulkReport(
        state=state,
        output=str(job.target) if job is not None else None,
        done=progress.skipped + progress.done,
        done_before=progress.skipped,
        accepted=progress.accepted,
        reused=progress.reused,
        failed=progress.failed,
        left=left,
        broken=progress.broken,
        broken_lines=tuple(job.broken) if job is not None else (),
        duplicate=progress.duplicates,
        duplicates=tuple(job.duplicates) if job is not None else (),
        errors=dict(progress.errors),
        failures=tuple(run.failures),
        cost_usd=progress.cost_usd,
        baseline_cost_usd=progress.baseline_usd,
        savings_ratio=progress.savings_ratio,
        baseline_one_by_one_usd=_one_by_one(run),
        paid_rest_usd=progress.paid_rest_usd,
        seconds=round(progress.elapsed_s, 3),
        models=dict(sorted(progress.models.items())),
        fields={
            name: FieldReport(**{kind: seen[kind] for kind in FieldReport.model_fields})
            for name, seen in progress.fields.items()
        },
        reason=_reason(run),
        resume_at=None if admission.opens_at is None else datetime.fromtimestamp(admission.opens_at, UTC),
        flow_run_id=run.runtime.flow_run_id(),
        warnings=(
            *run.runtime.warnings,
            *run.warnings,
            *(job.warnings if job is not None else ()),
            *_unpaid(progress),
        ),
    )


def _unpaid(progress: Progress) -> Iterator[str]:
    if progress.unpaid:
        yield (
            f"{progress.unpaid:,} answers are not accepted: the budget or --max-cost (max_cost) allowed no paid "
            "call for them. To ask again: raise it and give another output; stored answers cost nothing"
        )


def _reason(run: JobRun) -> str | None:
    if run.admission.closed is None:
        return None
    reason = str(run.admission.closed)
    if reason != run.brake.reason:
        return redact(reason)
    return redact(
        f"{reason}. The run has cost {run.progress.cost_usd:f} USD. To fix: look at the failures, then change the "
        "task, the schema or the models; --keep-going (keep_going) goes on regardless"
    )


def _one_by_one(run: JobRun) -> Decimal | None:
    """The baseline without the batch price; None when the job has none."""
    if not run.runtime.batched:
        return None
    return run.progress.baseline_usd / batch_factor(run.runtime.orchestrator)
