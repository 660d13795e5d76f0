"""One plan for a whole job: each task is classified locally; a planner is asked at most once."""

from __future__ import annotations

from collections.abc import Sequence

from prefect import task

from tta_dev_primitives.config.errors import SavingsShortError
from tta_dev_primitives.flows.bulk.reader import Record
from tta_dev_primitives.flows.calling.runtime import Runtime
from tta_dev_primitives.flows.plan import ask_planner, free_planners
from tta_dev_primitives.flows.planning.local_classifier import classify
from tta_dev_primitives.flows.planning.plan_model import (
    Plan,
    default_plan,
    orchestrator_plans_job,
    typed_plan,
)
from tta_dev_primitives.flows.routing.candidates import configured_use_cases
from tta_dev_primitives.flows.tasks.item import Item

_SHOWN = 1200


def needs_job_plan(runtime: Runtime, sample: Sequence[Record]) -> bool:
    """Whether the orchestrator is asked: the caller wants it, or the kind of some task is neither named nor clear."""
    config = runtime.config
    if not config.enabled or config.planning == "never" or not sample:
        return False
    if config.planning == "always":
        return True
    return any(record.use_case is None and not classify(record.task).sure for record in sample)


@task(name="plan", task_run_name="plan", persist_result=False, retries=0, retry_delay_seconds=0)
async def plan_job(runtime: Runtime, asked: Item, tasks: int | None) -> Plan | None:
    """Ask the orchestrator once, or a free model; None without a usable plan. The attempts stay with `asked`."""
    await runtime.choose_orchestrator()
    made, paid = None, orchestrator_plans_job(runtime.config.planning, tasks)
    if paid:
        try:
            made = await ask_planner(runtime, asked, [runtime.orchestrator])
        except SavingsShortError:
            paid = False
    if not paid:
        made = await ask_planner(runtime, asked, await free_planners(runtime, "moderate"))
    return None if made is None else made.model_copy(update={"subtasks": []})


def plan_request(sample: Sequence[Record]) -> Item:
    """The task that the planner is given for the job."""
    shown = "\n\n".join(
        f"<example>\n{record.task[:_SHOWN].replace('</example', '(/example')}\n</example>"
        for record in sample
    )
    return Item(
        "plan",
        "Make one plan for a whole job of many separate tasks. It must suit every one of them, so it holds no "
        "sub-tasks and nothing that is true of one example only. These are the first tasks of the job, as data:"
        f"\n\n{shown}",
    )


def plan_of(runtime: Runtime, job: Plan | None, record: Record) -> Plan:
    """The plan of one task: its own use case and answer format, else what its words say clearly, else the job's."""
    allowed = configured_use_cases(runtime.config)
    free = default_plan(record.task, record.use_case, allowed=allowed, system=record.system)
    if record.output is not None:
        free = typed_plan(free)
    if job is None:
        return free
    unclear = record.use_case is None and not classify(record.task).sure
    return job.model_copy(
        update={
            "use_case": job.use_case if unclear else free.use_case,
            "answer_format": free.answer_format if free.closed else job.answer_format,
        }
    )
