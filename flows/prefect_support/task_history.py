"""What Prefect's engine does not show of a run: which model answered, why another is asked, what follows what.

Task run states are events that the client emits, so this costs no request. Prefect's own `Retrying` state carries no
message: before it, `show_retry` puts an `AwaitingRetry` state with the reason.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

from prefect import Task, get_run_logger
from prefect.client.schemas.objects import RunInput, State, TaskRun, TaskRunResult
from prefect.context import FlowRunContext, TagsContext, TaskRunContext
from prefect.states import AwaitingRetry, Completed, Failed
from prefect.task_engine import run_task_async
from prefect.utilities.engine import emit_task_run_state_change_event

from tta_dev_primitives.blocks.redaction import redact

if TYPE_CHECKING:
    from tta_dev_primitives.flows.tasks.item import AttemptChain, Item

_MOST_CHARS = 500
_last: UUID | None = None


def last_shown() -> UUID | None:
    """The task run of the last step of this process that was shown; Prefect records task runs in their order."""
    return _last


def log_line(item: Item, text: str) -> None:
    """Put one line into the log of the running task or flow run, for an item whose run is its own."""
    if item.logged and (TaskRunContext.get() or FlowRunContext.get()) is not None:
        part = item.id.partition(".")[2]
        line = f"{part}: {text}" if part else text
        get_run_logger().info("%s", redact(line).replace("\n", " ")[:_MOST_CHARS])


async def run_after(task: Task[Any, Any], chain: AttemptChain, given: Mapping[str, object]) -> None:
    """Run an async task over a chain; Prefect's graph gets an edge to it from each task run before it."""
    before: set[RunInput] = {TaskRunResult(id=one) for one in chain.after}
    own = _pass_through(chain.open, chain.after)
    parameters = {**given, "chain": chain}
    await run_task_async(task, task_run_id=own, parameters=parameters, dependencies={"chain": before})


def _pass_through(items: Sequence[Item], before: frozenset[UUID]) -> UUID:
    """The id of a new task run, which is the last of the items from now on, beside those at the same time."""
    own = uuid4()
    for item in items:
        item.task_runs = item.task_runs - before | {own}
    return own


def attempt_number() -> int:
    """Which attempt of the running task run this is, from 1."""
    context = TaskRunContext.get()
    return 1 if context is None else max(1, context.task_run.run_count)


def name_attempt(name: str) -> None:
    """Name the running task run anew; Prefect gets the name with its next state."""
    context = TaskRunContext.get()
    if context is not None:
        context.task_run.name = name


def show_retry(task_run: TaskRun, why: str, name: str) -> None:
    """Put one state with the reason, and a new name, into the history of a task run that is about to be retried."""
    task_run.name = name
    last = task_run.state
    at = datetime.now(UTC)
    state = AwaitingRetry(scheduled_time=at, message=redact(why)[:_MOST_CHARS])  # type: ignore[var-annotated]
    state.state_details.task_run_id, state.state_details.flow_run_id = task_run.id, task_run.flow_run_id
    if last is not None and last.is_running():
        task_run.total_run_time += at - last.timestamp
    task_run.state, task_run.state_id = state, state.id
    task_run.state_type, task_run.state_name = state.type, state.name
    emit_task_run_state_change_event(task_run=task_run, initial_state=last, validated_state=state)


@contextmanager
def shown_step(name: str, items: Sequence[Item] = ()) -> Iterator[Callable[[str], None]]:
    """Show what happens inside as a task run of the running flow run; outside of one, as nothing.

    For a step that is neither retried nor cached and calls no model: Prefect's task engine would cost it several
    times the time and three events, where one at its end shows when it began and how it ended.

    Args:
        items: What goes through it, for the edges of Prefect's graph.

    Yields:
        A function that takes the message of the final state.
    """
    began, said = datetime.now(UTC), [""]

    def say(message: str) -> None:
        said[0] = message

    before = frozenset[UUID]().union(*(item.task_runs for item in items))
    ended = partial(_show_ended, name, _pass_through(items, before), before, began)
    try:
        yield say
    except Exception as error:
        ended(Failed(message=redact(f"{type(error).__name__}: {error}")[:_MOST_CHARS]))
        raise
    ended(Completed(message=redact(said[0]) or None))


def _show_ended(name: str, own: UUID, before: frozenset[UUID], began: datetime, state: State[Any]) -> None:
    context = FlowRunContext.get()
    if context is None or context.flow_run is None:
        return
    run = TaskRun(
        id=own,
        name=name,
        flow_run_id=context.flow_run.id,
        task_key=name,
        dynamic_key=str(own),
        task_inputs={"items": [TaskRunResult(id=one) for one in before]},
        tags=sorted(TagsContext.get().current_tags),
        run_count=1,
        flow_run_run_count=context.flow_run.run_count,
        expected_start_time=began,
        start_time=began,
        end_time=state.timestamp,
        total_run_time=state.timestamp - began,
        state=state,
        state_id=state.id,
        state_type=state.type,
        state_name=state.name,
    )
    state.state_details.task_run_id, state.state_details.flow_run_id = run.id, run.flow_run_id
    emit_task_run_state_change_event(task_run=run, initial_state=None, validated_state=state)
    global _last
    _last = run.id
