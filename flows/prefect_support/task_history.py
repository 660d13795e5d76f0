"""What Prefect's engine does not show of a run: why a task goes on to the next model, and steps that are no tasks.

Task run states are events that the client emits, so this costs no request. Prefect's own `Retrying` state carries no
message: before it, `show_retry` puts an `AwaitingRetry` state with the reason.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

from prefect.client.schemas.objects import State, TaskRun
from prefect.context import FlowRunContext, TagsContext
from prefect.states import AwaitingRetry, Completed, Failed
from prefect.utilities.engine import emit_task_run_state_change_event

from tta_dev_primitives.blocks.redaction import redact

_MOST_CHARS = 500
_last: UUID | None = None


def last_shown() -> UUID | None:
    """The task run of the last step of this process that was shown; Prefect records task runs in their order."""
    return _last


def show_retry(task_run: TaskRun, why: str) -> None:
    """Put one state with the reason into the history of a task run that is about to be retried."""
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
def shown_step(name: str) -> Iterator[Callable[[str], None]]:
    """Show what happens inside as a task run of the running flow run; outside of one, as nothing.

    For a step that is neither retried nor cached and calls no model: Prefect's task engine would cost it several
    times the time and three events, where one at its end shows when it began and how it ended.

    Yields:
        A function that takes the message of the final state.
    """
    began, said = datetime.now(UTC), [""]

    def say(message: str) -> None:
        said[0] = message

    try:
        yield say
    except Exception as error:
        _show_ended(name, began, Failed(message=redact(f"{type(error).__name__}: {error}")[:_MOST_CHARS]))
        raise
    _show_ended(name, began, Completed(message=redact(said[0]) or None))


def _show_ended(name: str, began: datetime, state: State[Any]) -> None:
    context = FlowRunContext.get()
    if context is None or context.flow_run is None:
        return
    tags = TagsContext.get().current_tags
    run = TaskRun(
        id=uuid4(),
        name=name,
        flow_run_id=context.flow_run.id,
        task_key=name,
        dynamic_key=str(uuid4()),
        tags=sorted(tags),
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
