"""`on_exhausted: ask`: a task that needs money the month no longer has waits for a person in the Prefect UI.

Free work goes on unasked; only what would end without an accepted answer for want of money is put before a person.
A deployed `orchestrate` run is suspended, so that no process waits, and starts again from the top when it is
resumed; what was answered before comes from the answer store. Other runs pause where they are. The approval raises
the limit of this one month, in the ledger's journal, with name and reason.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Sequence
from decimal import ROUND_UP, Decimal
from typing import Annotated, Any, Literal
from uuid import UUID
from weakref import WeakValueDictionary

from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.client.schemas.responses import SetStateStatus
from prefect.context import FlowRunContext
from prefect.exceptions import ObjectNotFound, Pause
from prefect.input import RunInput
from prefect.input.run_input import keyset_from_paused_state
from prefect.logging.loggers import flow_run_logger
from prefect.settings import PREFECT_API_URL, PREFECT_UI_URL
from prefect.states import Paused, Suspended
from pydantic import Field, WithJsonSchema, create_model

from tta_dev_primitives.blocks.ledger.types import Question
from tta_dev_primitives.blocks.prefect_server.server_settings import EMBEDDED_MARK
from tta_dev_primitives.flows.budget import BudgetState, budget_state
from tta_dev_primitives.flows.calling.runtime import Runtime
from tta_dev_primitives.flows.prefect_support import events
from tta_dev_primitives.flows.reporting.page import shown_usd
from tta_dev_primitives.flows.tasks.item import Item
from tta_dev_primitives.flows.validation.steps import Deliver

_POLL_S = 2
_CENT = Decimal("0.01")
_MOST_USD = 1_000_000


_Amount = Annotated[
    Decimal,
    Field(gt=0, le=_MOST_USD),
    # As a number: the form in the UI then has a field for one.
    WithJsonSchema({"type": "number", "exclusiveMinimum": 0, "maximum": _MOST_USD}),
]


class BudgetApproval(RunInput):
    """What the person who resumes the run decides."""

    decision: Literal["approve", "decline"] = Field(
        default="approve", description="Decline ends the run with a budget error."
    )
    amount_usd: _Amount = Field(title="Amount in USD", description="On top of this month's limit.")
    reason: str = Field(min_length=1, max_length=300, description="Why; kept in the ledger's journal.")
    approved_by: str = Field(
        title="Your name",
        min_length=1,
        max_length=100,
        description="Kept in the ledger's journal as what was typed here; it is not verified.",
    )


class _Question:
    """One flow run's questions, one at a time."""

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.suspended: Pause | None = None


_QUESTIONS: WeakValueDictionary[str, _Question] = WeakValueDictionary()


def must_ask(runtime: Runtime, item: Item) -> bool:
    """True when the item would end without an accepted answer because the month's money is gone."""
    if runtime.services.safety.now.on_exhausted != "ask" or item.error is not None or item.refusal is None:
        return False
    accepted = isinstance(item.step, Deliver) and item.step.accepted
    return item.refusal.reason != "max_cost" and not accepted


def start_over(runtime: Runtime, item: Item) -> None:
    """Let an item begin again, with its plan; its attempts stay counted."""
    item.refusal, item.step, item.case = None, None, None
    item.replies, item.reasons = [], []
    item.calls_left = runtime.config.fallback_strategy.max_attempts


async def ask_person(runtime: Runtime, items: Sequence[Item], budget: BudgetState) -> None:
    """Wait for a person to raise the month's limit, and record it; returns when there is money again.

    Raises:
        BudgetExceededError: Declined, or not answered in time (`cost_tracking.approval_timeout_s`).
        Pause: The flow run is suspended; it starts again from the top when it is resumed.
    """
    context = FlowRunContext.get()
    if context is None or context.flow_run is None:
        raise budget.refusal()
    question = _QUESTIONS.setdefault(str(context.flow_run.id), _Question())
    async with question.lock:
        if question.suspended is not None:
            raise question.suspended
        now = await budget_state(runtime)
        if (now.month, now.limit) != (budget.month, budget.limit):
            return  # approved while this waited, or a new month has begun
        try:
            answer = await _answer(runtime, context.flow_run, items, now)
        except Pause as pause:
            question.suspended = pause
            raise
    await _record(runtime, now, answer)


async def _answer(
    runtime: Runtime, run: FlowRun, items: Sequence[Item], budget: BudgetState
) -> BudgetApproval:
    needed = max((i.refusal.needed for i in items if i.refusal is not None), default=Decimal(0))
    form = _form(suggested_amount(budget, needed), _question(budget, items, needed))
    key = await _key(runtime, run)
    timeout = runtime.services.safety.now.approval_timeout_s
    line = await _notify(runtime, run, budget, needed)
    deployed = run.deployment_id is not None and run.parent_task_run_id is None
    state = Suspended if deployed and runtime.priority == "interactive" else Paused
    asked: State[Any] = state(timeout_seconds=timeout, pause_key=key, message=line)
    if not await _answered(run, form, asked, timeout):
        why = f"no person approved more within {timeout} s"
        await _note(runtime, budget, "unanswered", why)
        raise budget.refusal(why)
    return await _loaded(run, asked)


async def _answered(run: FlowRun, form: type[BudgetApproval], asked: State[Any], within_s: int) -> bool:
    """Put the run into the state `asked`, and wait for its end; False when no person resumed it in time.

    Prefect's own functions do the same, without a message in the state.

    Raises:
        Pause: The state is that of a suspended run: this process is done with it.
    """
    keys = keyset_from_paused_state(asked)
    asked.state_details.run_input_keyset = {str(name): key for name, key in keys.items()}
    async with get_client() as client:
        reply = await client.set_flow_run_state(run.id, asked)
        if reply.status is not SetStateStatus.ACCEPT:
            # Resumed before, with this key.
            return bool((await client.read_flow_run(run.id)).state_type is StateType.RUNNING)
        await form.asave(keys, run.id)
        if asked.state_details.pause_reschedule:
            raise Pause(state=reply.state or asked)
        ends = time.monotonic() + within_s
        while True:
            late = time.monotonic() >= ends
            state = (await client.read_flow_run(run.id)).state
            if late or state is None or not state.is_paused():
                return state is not None and state.is_running()
            await asyncio.sleep(min(_POLL_S, within_s / 2))


def suggested_amount(budget: BudgetState, needed: Decimal) -> Decimal:
    """What the form proposes: what is overspent, and what the refused call or a tenth of the limit needs."""
    left = budget.left or Decimal(0)
    amount = max(needed - left, (budget.limit or Decimal(0)) / 10 - min(left, Decimal(0)), _CENT)
    return min(amount, Decimal(_MOST_USD)).quantize(_CENT, rounding=ROUND_UP)


async def _key(runtime: Runtime, run: FlowRun) -> str:
    """The pause key of the run's next question: it counts the run's answers that stand in the journal.

    A run that starts again finds the answer that it was given, whatever the limit is by then.
    """
    return f"tta-budget-{await runtime.ledger.count_answers(_with_run(runtime, '')) + 1}"


async def take_answer(runtime: Runtime) -> None:
    """Record what a person has answered to a run that was suspended and starts again, before anything else.

    Raises:
        BudgetExceededError: The person declined.
    """
    context = FlowRunContext.get()
    run = context.flow_run if context is not None else None
    if run is None or runtime.services.safety.now.on_exhausted != "ask" or run.deployment_id is None:
        return
    key = await _key(runtime, run)
    if key not in (run.empirical_policy.pause_keys or ()):
        return
    try:
        answer = await _loaded(run, Suspended(pause_key=key))
    except ObjectNotFound:
        return
    await _record(runtime, await budget_state(runtime), answer)


async def _loaded(run: FlowRun, asked: State[Any]) -> BudgetApproval:
    return await BudgetApproval.aload(keyset_from_paused_state(asked), flow_run_id=run.id)


async def note_unanswered(runtime: Runtime) -> None:
    """Write into the journal which questions had no answer before their runs ended: a suspended run has no process."""
    for month, ending in await runtime.ledger.open_questions():
        run_id = ending.rpartition(" ")[2].rstrip(")")
        async with get_client() as client:
            try:
                state = (await client.read_flow_run(UUID(run_id))).state
            except (ObjectNotFound, ValueError):
                continue  # Of another server.
        if state is not None and state.is_final():
            why = f"the run ended as {state.name} without an answer"
            await runtime.ledger.note_question(month, "unanswered", reason=f"{why} {ending}")


def _form(suggested: Decimal, question: str) -> type[BudgetApproval]:
    """The form with a suggested amount; Prefect's `with_initial_data` would drop the bounds of the fields."""
    amount = Field(
        default=suggested,
        title=BudgetApproval.model_fields["amount_usd"].title,
        description=BudgetApproval.model_fields["amount_usd"].description,
        json_schema_extra={"default": float(suggested)},
    )
    form = create_model("BudgetApproval", __base__=BudgetApproval, amount_usd=(_Amount, amount))
    form._description = question
    return form


async def _record(runtime: Runtime, budget: BudgetState, answer: BudgetApproval) -> None:
    note = _with_run(runtime, answer.reason)
    who = f"{answer.approved_by} (as typed, not verified)"
    if answer.decision == "decline":
        await runtime.ledger.note_question(budget.month, "decline", who=who, reason=note)
        raise budget.refusal(f"{who} declined to raise it: {answer.reason}")
    await runtime.ledger.approve(budget.month, answer.amount_usd, who=who, reason=note)
    payload = {
        "month": budget.month,
        "amount_usd": f"{answer.amount_usd:f}",
        "approved_by": who,
        "reason": answer.reason,
    }
    events.emit("tta.budget.approved", payload, resource=f"tta.budget.{budget.month}")


async def _note(runtime: Runtime, budget: BudgetState, what: Question, reason: str) -> None:
    await runtime.ledger.note_question(budget.month, what, reason=_with_run(runtime, reason))


def _with_run(runtime: Runtime, reason: str) -> str:
    return f"{reason} (flow run {runtime.flow_run_id()})"


def _question(budget: BudgetState, items: Sequence[Item], needed: Decimal) -> str:
    """What the form says above its fields (markdown)."""
    tasks = "1 task needs" if len(items) == 1 else f"{len(items)} tasks need"
    return (
        f"**The budget of {budget.month} is spent.** {tasks} a paid call.\n\n"
        f"- limit: {shown_usd(budget.limit or Decimal(0))}\n- spent: {shown_usd(budget.spent)}\n"
        f"- held: {shown_usd(budget.held)}\n"
        + (f"- the refused call needs up to {shown_usd(needed)}\n" if needed else "")
        + "\nApprove an amount on top of this month's limit, or decline."
    )


async def _notify(runtime: Runtime, run: FlowRun, budget: BudgetState, needed: Decimal) -> str:
    """Put the question into the journal, the events and the run's log; returns the line, with its link."""
    await _note(runtime, budget, "ask", f"needs up to {needed:f} USD" if needed else "needs a paid call")
    payload = {
        "month": budget.month,
        "spent_usd": f"{budget.spent:f}",
        "limit_usd": f"{budget.limit or 0:f}",
        "needed_usd": f"{needed:f}",
    }
    events.emit("tta.budget.ask", payload, resource=f"tta.budget.{budget.month}")
    ui = PREFECT_UI_URL.value()
    where = f"{ui}/runs/flow-run/{run.id}" if ui else f"the Prefect UI, flow run {run.name}"
    if os.environ.get(EMBEDDED_MARK) == PREFECT_API_URL.value():
        where += f" (`tta server open /runs/flow-run/{run.id}` prints a link that opens it)"
    line = f"the budget of {budget.month} is spent: approve or decline at {where} (Resume)"
    flow_run_logger(run).warning(line)
    return line
