"""A compound task: its parts run in rounds, each part through plan, execute and validate, then they are joined."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from uuid import UUID

from tta_dev_primitives.flows.calling.runtime import Runtime
from tta_dev_primitives.flows.planning.plan_model import (
    Subtask,
    default_plan,
    join_results,
    last_parts,
    subtask_prompt,
    waves,
)
from tta_dev_primitives.flows.prefect_support.task_history import shown_step
from tta_dev_primitives.flows.tasks.closing import close_parts
from tta_dev_primitives.flows.tasks.item import Item
from tta_dev_primitives.flows.tasks.outcome import join_parts
from tta_dev_primitives.flows.tasks.result import BudgetView

RunItems = Callable[[Runtime, Sequence[Item]], Awaitable[BudgetView]]


def is_compound_item(item: Item) -> bool:
    """True for an item whose plan has sub-tasks."""
    return item.plan is not None and len(item.plan.subtasks) > 1


async def run_parts(runtime: Runtime, item: Item, run: RunItems) -> None:
    """Run the parts of `item` in DAG order, those of one round at the same time, and join their answers.

    The first part that fails ends the item with that part's error; what the other parts cost stays counted.
    """
    plan = item.plan
    if plan is None:
        raise RuntimeError(f"item {item.id} was not planned")
    done: dict[str, Item] = {}
    for wave in waves(plan):
        parts = [_part(item, subtask, done) for subtask in wave]
        budget = await run(runtime, parts)
        for subtask, part in zip(wave, parts, strict=True):
            item.attempts += part.attempts
            done[subtask.name] = part
        failed = next((p for p in parts if p.result is None), None)
        if failed is not None:
            item.error = failed.error
            return
    item.task_runs = frozenset[UUID]().union(*(done[end.name].task_runs for end in last_parts(plan)))
    with shown_step("join", [item]) as say:
        say(f"{len(done)} parts")
    texts = {name: part.result.content for name, part in done.items() if part.result is not None}
    item.result = join_parts(item, list(done.values()), join_results(plan, texts), budget)
    close_parts(item, list(done.values()))


def _part(item: Item, subtask: Subtask, done: dict[str, Item]) -> Item:
    texts = {name: part.result.content for name, part in done.items() if part.result is not None}
    part = Item(
        f"{item.id}.{subtask.name}",
        subtask_prompt(subtask, texts),
        system=item.system,
        calls_left=item.calls_left,
    )
    part.logged, part.month = item.logged, item.month
    before = [done[name].task_runs for name in subtask.needs]
    part.task_runs = frozenset[UUID]().union(*before) or item.task_runs
    part.plan = default_plan(subtask.task, item.use_case)
    whole = item.plan
    if whole is not None and [end.name for end in last_parts(whole)] == [subtask.name]:
        # The one last part is the answer: what the plan asks of the answer is asked of it.
        part.plan = part.plan.model_copy(
            update={
                "instructions": whole.instructions,
                "acceptance_criteria": whole.acceptance_criteria,
                "answer_format": whole.answer_format,
            }
        )
    return part
