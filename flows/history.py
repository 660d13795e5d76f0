"""A task run's state history that tells why it went on to the next model.

Prefect's own `Retrying` state carries no message. Before it, this puts an `AwaitingRetry` state with the reason; task
run states are events that the client emits, so this costs no request.
"""

from __future__ import annotations

from prefect.client.schemas.objects import TaskRun
from prefect.states import AwaitingRetry
from prefect.types._datetime import now
from prefect.utilities.engine import emit_task_run_state_change_event

from tta_dev_primitives.blocks.redaction import redact

__all__ = ["show_retry"]

_MOST_CHARS = 500


def show_retry(task_run: TaskRun, why: str) -> None:
    """Put one state with the reason into the history of a task run that is about to be retried."""
    last = task_run.state
    at = now("UTC")
    state = AwaitingRetry(scheduled_time=at, message=redact(why)[:_MOST_CHARS])  # type: ignore[var-annotated]
    state.state_details.task_run_id, state.state_details.flow_run_id = task_run.id, task_run.flow_run_id
    if last is not None and last.is_running():
        task_run.total_run_time += at - last.timestamp
    task_run.state, task_run.state_id = state, state.id
    task_run.state_type, task_run.state_name = state.type, state.name
    emit_task_run_state_change_event(task_run=task_run, initial_state=last, validated_state=state)
