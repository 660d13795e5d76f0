"""The way of a batch of tasks: plan, then execute and validate in turn, with a budget check between them.

The interactive flow sends one item this way, the bulk flow a chunk; there is no second implementation.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace

from prefect import tags
from prefect.concurrency.asyncio import ConcurrencySlotAcquisitionError

from tta_dev_primitives.blocks.ledger.months import month_begin
from tta_dev_primitives.blocks.ledger.savings_account import SavingsAccount
from tta_dev_primitives.config.errors import (
    AllModelsFailedError,
    BudgetExceededError,
    OrchestrationError,
    PrefectConfigError,
)
from tta_dev_primitives.config.models.targets import Target
from tta_dev_primitives.flows.approval import ask_person, must_ask, start_over
from tta_dev_primitives.flows.budget import BudgetState, budget_state, check_budget
from tta_dev_primitives.flows.calling.runtime import Runtime
from tta_dev_primitives.flows.compound import is_compound_item, run_parts
from tta_dev_primitives.flows.execute import run_chain
from tta_dev_primitives.flows.plan import plan, plan_items
from tta_dev_primitives.flows.prefect_support.loop_connection import needing_api
from tta_dev_primitives.flows.prefect_support.task_history import run_after
from tta_dev_primitives.flows.routing.model_scores import Outcome, outcomes_of
from tta_dev_primitives.flows.tasks.closing import close_item, keep_records
from tta_dev_primitives.flows.tasks.gather_all import gather_all
from tta_dev_primitives.flows.tasks.item import AttemptChain, Item
from tta_dev_primitives.flows.tasks.outcome import make_result, month_savings
from tta_dev_primitives.flows.tasks.result import BudgetView
from tta_dev_primitives.flows.validate import emit_drift, validate, waits
from tta_dev_primitives.flows.validation.labels import compared_label, label_of, orchestrator_accepts
from tta_dev_primitives.flows.validation.next_step import next_step
from tta_dev_primitives.flows.validation.risk_state import Label
from tta_dev_primitives.flows.validation.steps import Answers, Deliver, PaidSolve

_CLOCK_SKEW_S = 300.0
"""What an extra cost this shortly after the month began may stand in the month before: it is paid twice then."""
_GO_ON_S = 2.0
"""So often answered items of a batch go on without those that still wait for an answer."""
Done = Callable[[Item], None]


async def run_items(runtime: Runtime, items: Sequence[Item], *, done: Done | None = None) -> BudgetState:
    """Take every item from its text to a result or an error (`item.result`, `item.error`).

    Args:
        done: Called with each item as soon as it has ended, before the others have.

    Returns:
        The month's budget as the last check saw it.

    Raises:
        BudgetExceededError: The month is spent and `cost_tracking.on_exhausted` is `stop`.
        PrefectConfigError: A concurrency limit of a tag is 0.
        PrefectServerError: Prefect's API went away.
    """
    try:
        with needing_api():
            return await _run_items(runtime, items, done)
    except ConcurrencySlotAcquisitionError as refused:
        raise PrefectConfigError(
            f"Prefect's concurrency limits let no task run start: {refused}. To fix: raise the limit of the tag, or "
            "delete it with `prefect concurrency-limit delete TAG`."
        ) from None


async def _run_items(runtime: Runtime, items: Sequence[Item], done: Done | None) -> BudgetState:
    await _plan(runtime, items)
    budget = await check_budget(runtime, items, "execute")
    ended_one = done or (lambda _: None)
    unplanned = [item for item in items if item.error is not None]
    await keep_records(runtime, unplanned, budget.month)
    for item in unplanned:
        item.budget = budget.view()
        ended_one(item)
    compound = [item for item in items if item.error is None and is_compound_item(item)]
    simple = [item for item in items if item.error is None and not is_compound_item(item)]
    with tags(*sorted({f"use_case:{item.use_case}" for item in items if item.use_case})):
        return await _finish_planned(runtime, simple, compound, budget, ended_one)


async def _finish_planned(
    runtime: Runtime, simple: Sequence[Item], compound: Sequence[Item], budget: BudgetState, ended_one: Done
) -> BudgetState:
    works = [_end_compound(runtime, item, ended_one) for item in compound]
    if simple:
        works.append(_answer(runtime, simple, budget, ended_one))
    return (await gather_all(works))[-1] if works else budget


async def _end_compound(runtime: Runtime, item: Item, ended_one: Done) -> BudgetState:
    await run_parts(runtime, item, _run_parts)
    budget = await budget_state(runtime)
    await keep_records(runtime, [item], budget.month)
    item.budget = budget.view()
    ended_one(item)
    return budget


async def _run_parts(runtime: Runtime, parts: Sequence[Item]) -> BudgetView:
    await _plan(runtime, parts)
    return (await _answer(runtime, parts, await check_budget(runtime, parts, "execute"), None)).view()


async def _plan(runtime: Runtime, items: Sequence[Item]) -> None:
    await run_after(plan, AttemptChain([(item, ()) for item in items]), {"runtime": runtime})


async def _answer(
    runtime: Runtime, items: Sequence[Item], budget: BudgetState, done: Done | None
) -> BudgetState:
    """Execute and validate planned items until each has a result or an error.

    Args:
        done: Called with each whole task; None for the parts of one.
    """
    pending = [item for item in items if item.error is None]
    _hold_back_paid(pending, budget)
    for item in pending:
        item.step = next_step(item.open_case)
    budget, asking = await _rounds(runtime, pending, budget, done)
    return await _ask(runtime, asking, budget, done) if asking else budget


async def _rounds(
    runtime: Runtime, items: Sequence[Item], budget: BudgetState, done: Done | None
) -> tuple[BudgetState, list[Item]]:
    """Execute and validate in turn until each item has ended, or must be put before a person.

    Answered items do not wait for slow ones: from time to time they go on as a round of their own.

    Returns:
        The last budget, and the items for a person.
    """
    if not items:
        return budget, []
    left, answered = dict.fromkeys(items), list[Item]()
    fetching = asyncio.ensure_future(_fetch_answers(runtime, items, answered.append))
    rounds: list[asyncio.Future[tuple[BudgetState, list[Item]]]] = []
    try:
        while not (await asyncio.wait([fetching], timeout=_GO_ON_S))[0]:
            if answered:
                rounds.append(asyncio.ensure_future(_validate_round(runtime, answered[:], done)))
                for item in answered:
                    del left[item]
                answered.clear()
        if fetching.exception() is None and left:
            rounds.append(asyncio.ensure_future(_validate_round(runtime, list(left), done)))
        ends = await gather_all(rounds)
        await fetching
    except asyncio.CancelledError:
        fetching.cancel()
        for one in rounds:
            one.cancel()
        await asyncio.gather(fetching, *rounds, return_exceptions=True)
        raise
    finally:
        runtime.open_checks.ended(items)
    return ends[-1][0], [item for _, asking in ends for item in asking]


async def _validate_round(
    runtime: Runtime, items: Sequence[Item], done: Done | None
) -> tuple[BudgetState, list[Item]]:
    """Validate answered items and end those that are through; the others go into their next round."""
    try:
        return await _validated(runtime, items, done)
    finally:
        # Also after an error: others may wait for these checks.
        runtime.open_checks.ended(items)


async def _validated(
    runtime: Runtime, items: Sequence[Item], done: Done | None
) -> tuple[BudgetState, list[Item]]:
    budget = await check_budget(runtime, items, "validate")
    _hold_back_paid(items, budget)
    next_end = runtime.open_checks.next_end()
    chain = AttemptChain([(item, ()) for item in items if item.error is None])
    await run_after(validate, chain, {"runtime": runtime})
    await _teach_words(runtime, items)
    waiting = [i for i in items if i.error is None and waits(i)]
    going_on = [i for i in items if i.error is None and isinstance(i.step, Answers | PaidSolve)]
    ended = [i for i in items if i not in going_on and i not in waiting]
    asking = [item for item in ended if must_ask(runtime, item)]
    budget = await _end(runtime, [i for i in ended if i not in asking], budget, done)
    runtime.open_checks.ended(ended)
    works = [_rounds(runtime, going_on, budget, done)]
    if waiting:
        works.append(_after(next_end, runtime, waiting, done))
    ends = await gather_all(works)
    return ends[-1][0], asking + [item for _, more in ends for item in more]


async def _after(
    next_end: asyncio.Event, runtime: Runtime, items: Sequence[Item], done: Done | None
) -> tuple[BudgetState, list[Item]]:
    """Validate items again that wait for checks of other items."""
    await next_end.wait()
    return await _validate_round(runtime, items, done)


async def _ask(
    runtime: Runtime, items: Sequence[Item], budget: BudgetState, done: Done | None
) -> BudgetState:
    """Put the want of money before a person, and begin again with what was approved."""
    try:
        await ask_person(runtime, items, budget)
    except BudgetExceededError as refused:
        for item in items:
            item.error = refused
        return await _end(runtime, items, budget, done)
    for item in items:
        start_over(runtime, item)
    await plan_items(runtime, list(items))
    return await _answer(runtime, items, await check_budget(runtime, items, "execute"), done)


async def _end(
    runtime: Runtime, items: Sequence[Item], budget: BudgetState, done: Done | None
) -> BudgetState:
    """Make the results of ended items, teach the risk ledger what they showed, record them, and tell of each."""
    if not items:
        return budget
    budget = await budget_state(runtime)
    view = budget.view()
    months = sorted({item.month or budget.month for item in items})
    saved = {month: await runtime.ledger.savings(month) for month in months}
    for item in items:
        _finish(runtime, item, view, saved[item.month or budget.month])
    writes = [_teach(runtime, items), keep_records(runtime, items, budget.month, parts=done is None)]
    # Side by side they share one commit.
    await gather_all(writes)
    if done is not None:
        for item in items:
            done(item)
    return budget


def _hold_back_paid(items: Sequence[Item], budget: BudgetState) -> None:
    """The cases learn what the month has left. With all of it spent, what follows is free models only."""
    left = None if budget.limit is None else budget.limit - budget.spent
    for item in items:
        item.case = replace(item.open_case, month_left=left)
    for item in items if budget.exhausted else ():
        item.refusal = item.refusal or budget.refusal()
        item.case = item.open_case.without_paid()


async def _fetch_answers(runtime: Runtime, items: Sequence[Item], answered: Done) -> None:
    """Run the execute attempt chains that the items' steps ask for: one task run a slot, the slots at the same time.

    Args:
        answered: Called with each item that its last chain is done with.
    """
    chains: dict[tuple[int, str], list[tuple[Item, Sequence[Target]]]] = {}
    open_chains: Counter[Item] = Counter()

    def left(item: Item) -> None:
        open_chains[item] -= 1
        if not open_chains[item]:
            answered(item)

    for item in items:
        for slot, walk in enumerate(_walks(item)):
            chains.setdefault((slot, walk[0].name), []).append((item, walk))
            open_chains[item] += 1
    await gather_all(run_chain(runtime, AttemptChain(walks, left)) for walks in chains.values())


def _walks(item: Item) -> list[list[Target]]:
    match item.step:
        case Answers(slots):
            return [[item.targets[name] for name in slot] for slot in slots]
        case PaidSolve(models, _):
            return [[item.targets[name] for name in models]]
        case _:
            return []


async def _teach(runtime: Runtime, items: Sequence[Item]) -> None:
    """Record in the risk ledger, and for learned routing, what the ended items have shown: one transaction each."""
    await _learn(runtime, [label for item in items for label in labels_of(runtime, item)])
    if runtime.config.routing == "learned":
        await runtime.scores.learn([o for item in items if item.error is None for o in _outcomes(item)])


async def _teach_words(runtime: Runtime, items: Sequence[Item]) -> None:
    """Record words of the orchestrator at once: a rejection must not wait for the paid answer that follows it."""
    known: list[Label] = []
    for item in items:
        ruling = None if item.case is None else item.case.ruling
        if item.error is None and ruling is not None and isinstance(item.step, Answers | PaidSolve):
            passed = orchestrator_accepts(item.open_case, ruling.evidence.answer)
            if passed is not None:
                known.append(_marked(runtime, item, Label(ruling, passed, ended=False)))
    await _learn(runtime, known)


async def _learn(runtime: Runtime, labels: Sequence[Label]) -> None:
    for stratum in await runtime.learn(labels):
        emit_drift(stratum, "audits fail more often than before")


def labels_of(runtime: Runtime, item: Item) -> list[Label]:
    """What the end of an item says to the risk ledger; one that failed or was put off leaves its label open."""
    case, step = item.case, item.step
    if case is None or item.kept is not None:
        return []
    label = label_of(case, step) if item.error is None and step is not None else None
    if label is None and case.ruling is not None:
        label = Label(case.ruling, None, accepted=isinstance(step, Deliver) and item.error is None)
    found = [compared_label(case), label]
    return [_marked(runtime, item, one) for one in found if one is not None]


def _marked(runtime: Runtime, item: Item, label: Label) -> Label:
    """The label with its task, and whether the orchestrator's word (or all that the task needed) was in the store."""
    done = [a for a in item.attempts if a.outcome == "ok"]
    words = [a for a in done if a.model == runtime.orchestrator.name and a.role != "plan"]
    reused = bool(done) and all(a.reused for a in words or done)
    return replace(label, task=item.content_key, use_case=item.use_case, reused=reused)


def _outcomes(item: Item) -> list[Outcome]:
    """What the orchestrator said of this item's answers."""
    if item.case is None or item.step is None or item.kept is not None:
        return []
    return outcomes_of(item.case, item.step)


def _finish(runtime: Runtime, item: Item, budget: BudgetView, saved: SavingsAccount) -> None:
    item.budget = budget
    if item.error is not None:
        return
    if isinstance(item.step, Deliver):
        made = make_result(runtime, item, item.step, budget)
        since = month_begin(saved.month, runtime.ledger.timezone) + _CLOCK_SKEW_S
        close_item(item, item.step, made, runtime.config, since=since)
        item.result = made.model_copy(update={"saved": month_savings(saved, made)})
    else:
        item.error = _why_none(item)


def _why_none(item: Item) -> OrchestrationError:
    """No answer: the budget when it refused a model, else every model's reason."""
    if item.refusal is not None:
        return item.refusal
    passed = [f"{p.model}: passed over: {p.reason}" for p in item.route.passed_over]
    return AllModelsFailedError.of(item.attempts, [*item.reasons, *passed])
