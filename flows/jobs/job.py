"""What the jobs share: parts that are answered side by side in one flow run, and the result that people read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from importlib.resources import files
from typing import Any

from prefect.artifacts import acreate_markdown_artifact, acreate_table_artifact
from pydantic import BaseModel, ConfigDict, Field

from tta_dev_primitives.blocks.redaction import redact
from tta_dev_primitives.flows.calling.runtime import Runtime, current_runtime
from tta_dev_primitives.flows.jobs.findings import Finding
from tta_dev_primitives.flows.pipeline import run_items
from tta_dev_primitives.flows.planning.plan_model import Plan
from tta_dev_primitives.flows.reporting.quoted_answer import fenced, quoted_pages
from tta_dev_primitives.flows.reporting.run_artifacts import attempt_rows, page_key, quietly
from tta_dev_primitives.flows.tasks.item import Item, LocalCheck
from tta_dev_primitives.flows.tasks.request import UseCase, check_task
from tta_dev_primitives.flows.tasks.result import OrchestrationResult, Usd
from tta_dev_primitives.flows.tasks.savings import Savings


@dataclass(frozen=True, slots=True)
class JobPart:
    """One task of a job. Its plan is made by the job, so no model is asked or paid for one."""

    name: str
    task: str
    use_case: UseCase
    instructions: str
    criteria: tuple[str, ...] = ()
    check: LocalCheck | None = None
    """What the answer must pass on this machine before it is judged."""
    schema: Mapping[str, Any] | None = None
    """The form that models with structured output are held to; `check` decides what is an answer."""
    repairs: str | None = None
    """What a model whose answer failed the check is asked for once more, such as `file`; None: the next model."""


class PartResult(BaseModel):
    """How one part ended: with a result, or with the reason why there is none."""

    model_config = ConfigDict(frozen=True)

    name: str
    result: OrchestrationResult | None = None
    error: str | None = None
    cost_usd: Usd = Field(default=Decimal(0), description="What the part cost, answered or not")


class JobResult(BaseModel):
    """What a job brings."""

    model_config = ConfigDict(frozen=True)

    title: str
    content: str = Field(description="The whole answer: Markdown, or a file's text")
    accepted: bool = Field(description="True when every part was answered and accepted")
    parts: tuple[PartResult, ...] = ()
    cost_usd: Usd = Decimal(0)
    baseline_cost_usd: Usd = Decimal(0)
    savings_ratio: float = 0.0
    notes: tuple[str, ...] = Field(
        default=(), description="What the job measured itself, and what is missing"
    )
    findings: tuple[Finding, ...] = Field(default=(), description="Of a review: what was found, worst first")


async def answer_parts(config_path: str | None, parts: Sequence[JobPart]) -> tuple[PartResult, ...]:
    """Answer all parts at the same time, in this flow run, under the configuration's budget and quotas.

    Returns:
        One result a part, in order; a part without an answer holds its reason.

    Raises:
        OrchestrationError: No part at all was answered: the first one's error.
        ConfigError: A part is too large, or the configuration is wrong.
    """
    for part in parts:
        check_task(part.task, part.use_case)
    runtime = await (current_runtime() or await Runtime.load(config_path)).for_run()
    items = [_item(runtime, number, part) for number, part in enumerate(parts, start=1)]
    await run_items(runtime, items)
    await _publish_attempts(items)
    if items and all(item.result is None for item in items):
        raise items[0].error or RuntimeError(f"{parts[0].name} ended without a result and without an error")
    return tuple(
        PartResult(name=part.name, result=item.result, error=_reason(item), cost_usd=item.cost_usd)
        for part, item in zip(parts, items, strict=True)
    )


def _item(runtime: Runtime, number: int, part: JobPart) -> Item:
    plan = Plan(
        use_case=part.use_case,
        instructions=part.instructions,
        answer_format="open",
        acceptance_criteria=list(part.criteria),
    )
    attempts = runtime.config.fallback_strategy.max_attempts
    item = Item(
        str(number), part.task, use_case=part.use_case, calls_left=attempts, plan=plan, check=part.check
    )
    item.repairs, item.schema = part.repairs, part.schema
    return item


def _reason(item: Item) -> str | None:
    return None if item.error is None else redact(str(item.error))


async def finish(
    title: str,
    content: str,
    parts: Sequence[PartResult],
    notes: Sequence[str] = (),
    findings: Sequence[Finding] = (),
) -> JobResult:
    """Sum up a job and show it in the Prefect UI."""
    results = [part.result for part in parts if part.result is not None]
    sums = Savings(
        sum((part.cost_usd for part in parts), Decimal(0)),
        sum((r.baseline_cost_usd for r in results), Decimal(0)),
    )
    failed = [f"{part.name}: no answer: {part.error}" for part in parts if part.result is None]
    unsure = [
        f"{part.name}: not accepted ({part.result.basis})"
        for part in parts
        if part.result is not None and not part.result.accepted
    ]
    job = JobResult(
        title=title,
        content=content,
        accepted=not failed and not unsure,
        parts=tuple(parts),
        cost_usd=sums.cost_usd,
        baseline_cost_usd=sums.baseline_usd,
        savings_ratio=sums.ratio,
        notes=(*notes, *failed, *unsure),
        findings=tuple(findings),
    )
    lines = [f"cost ${job.cost_usd:f}, saved {job.savings_ratio:.0%}", ""]
    for part in (title, "\n".join(job.notes)):
        lines += fenced(part) if part else ()
    first, *more = quoted_pages(redact(job.content))
    for number, page in enumerate(["\n".join([*lines, first]), *more], 1):
        key, text = page_key("tta-job", number), redact(page)
        await quietly(acreate_markdown_artifact(key=key, markdown=text, description="What the job brought"))
    return job


async def _publish_attempts(items: Sequence[Item]) -> None:
    rows = attempt_rows([attempt for item in items for attempt in item.attempts])
    await quietly(
        acreate_table_artifact(key="tta-attempts", table=rows, description="Every call to a provider")
    )


def instructions(job: str) -> str:
    """The instructions that a job gives the models: `<job>.md` beside this file."""
    return (files(__package__) / f"{job}.md").read_text(encoding="utf-8").strip()
