"""The flow `orchestrate`: one task in, one answer out, as one Prefect flow run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from prefect import flow, tags
from prefect.runtime import flow_run as this_run
from pydantic import Field

from tta_dev_primitives.flows.answers.output_type import OutputType
from tta_dev_primitives.flows.approval import take_answer
from tta_dev_primitives.flows.calling.runtime import Runtime, current_runtime
from tta_dev_primitives.flows.pipeline import run_items
from tta_dev_primitives.flows.plan import known_use_case
from tta_dev_primitives.flows.prefect_support.result_storage import KEPT
from tta_dev_primitives.flows.prefect_support.run_names import name_or
from tta_dev_primitives.flows.prefect_support.task_history import log_line
from tta_dev_primitives.flows.prefect_support.use_embedded_server import use_embedded_server
from tta_dev_primitives.flows.reporting.run_artifacts import publish, tag_run
from tta_dev_primitives.flows.tasks.item import Item
from tta_dev_primitives.flows.tasks.request import UseCase, check_task
from tta_dev_primitives.flows.tasks.result import OrchestrationResult

_NAME_CHARS = 60


def run_name(parameters: Mapping[str, Any] | None = None) -> str:
    """The task's first words; without parameters those of the running flow run."""
    given = this_run.parameters if parameters is None else parameters
    text = " ".join(str(given.get("task", "")).split())
    made = text if len(text) <= _NAME_CHARS else text[: _NAME_CHARS - 1].rsplit(" ", 1)[0] + "…"
    return made if parameters is not None else name_or(made)


@use_embedded_server
@flow(name="orchestrate", flow_run_name=run_name, **KEPT)
async def orchestrate(
    task: Annotated[str, Field(min_length=1)],
    use_case: UseCase | None = None,
    system: str | None = None,
    config_path: str | None = None,
    fresh: bool = False,
    output_schema: dict[str, Any] | None = None,
) -> OrchestrationResult:
    """Plan, execute and validate one task with the models of the configuration.

    Args:
        task: What to do, in plain words.
        use_case: Kind of work; found out from the text when empty.
        system: Extra instructions for the models.
        config_path: Configuration file; empty searches the usual places.
        fresh: Ask anew, and pay again, for answers that are stored.
        output_schema: JSON Schema of the answer; then the result's `data` holds valid data. Empty: text.

    Raises:
        BudgetExceededError: The answer needs a paid call that the budget refuses.
        AllModelsFailedError: Every candidate failed.
        ConfigError: The task, the use case or a needed key is wrong.
    """
    check_task(task, use_case, system)
    resident = current_runtime()
    output = None if resident is None else resident.output
    if output is None and output_schema is not None:
        output = OutputType.of(output_schema, name="output_schema")
    runtime = await (resident or await Runtime.load(config_path)).for_run(fresh=fresh)
    item = Item(
        "1",
        task,
        use_case=use_case,
        system=system,
        calls_left=runtime.config.fallback_strategy.max_attempts,
        output=output,
    )
    item.logged = True
    await take_answer(runtime)
    known = known_use_case(runtime, task, use_case)
    await tag_run(known)
    with tags(*([f"use_case:{known}"] if known else [])):
        budget = await run_items(runtime, [item])
    await publish(runtime, item, budget, put_off=resident is not None)
    if item.result is None:
        raise item.error or RuntimeError(f"task {item.id} ended without a result and without an error")
    made = item.result
    log_line(
        item,
        f"cost: ${made.cost_usd:f} of ${made.baseline_cost_usd:f} by {runtime.orchestrator.name} alone "
        f"({made.savings_ratio:.1%} saved); budget {budget.words()}",
    )
    return item.result.model_copy(update={"id": None})  # ids are for the items of a job
