"""The validate task: evidence in the order of its cost, until each item is delivered or needs another answer."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from prefect import task

from tta_dev_primitives.blocks.wire.types import ChatRequest
from tta_dev_primitives.config.errors import ErrorClass
from tta_dev_primitives.config.models.targets import Target
from tta_dev_primitives.flows.calling.admission import PostponedError
from tta_dev_primitives.flows.calling.call import Answered, Call, Failed, NotAdmitted
from tta_dev_primitives.flows.calling.runtime import Runtime
from tta_dev_primitives.flows.prefect_support import events
from tta_dev_primitives.flows.routing.retired_models import replace_gone, tell_failure
from tta_dev_primitives.flows.tasks.gather_all import together
from tta_dev_primitives.flows.tasks.item import Item, Lane
from tta_dev_primitives.flows.validation.case import Candidate, Verdict
from tta_dev_primitives.flows.validation.next_step import (
    Answers,
    Consult,
    Deliver,
    FreeJudge,
    GiveUp,
    PaidSolve,
    PaidVerdict,
    first_pair,
    next_step,
)
from tta_dev_primitives.flows.validation.risk import Evidence
from tta_dev_primitives.flows.validation.verdicts import parse_verdict, verdict_request

__all__ = ["tell_drift", "validate", "validate_items"]


@task(name="validate", task_run_name="validate", persist_result=False)
async def validate(runtime: Runtime, lane: Lane) -> dict[str, str]:
    """Take each item of the lane as far as evidence goes: delivered, given up, or in need of another answer.

    Returns:
        Item id -> the step it stands at (`Deliver`, `GiveUp`, `Answers` or `PaidSolve`).
    """
    await validate_items(runtime, lane.open)
    return {item.id: type(item.step).__name__ for item in lane.open}


async def validate_items(runtime: Runtime, items: Sequence[Item]) -> None:
    """Drive each item's state machine until its next step is an answer or an end.

    All items that stand before the risk ledger go there in one transaction.
    """
    pending = list(items)
    while pending:
        for item in pending:
            item.step = next_step(item.open_case)
        judging = [i for i in pending if isinstance(i.step, FreeJudge | PaidVerdict)]
        consulting = [i for i in pending if isinstance(i.step, Consult)]
        if len(judging) > 1:
            await runtime.calls.look_ahead([_first_verdict(item) for item in judging])
        await together(_judge(runtime, item) for item in judging)
        await _consult(runtime, pending, consulting)
        pending = [i for i in judging + consulting if i.error is None]
    for item in items:
        _tell(item)


async def _consult(runtime: Runtime, items: Sequence[Item], consulting: Sequence[Item]) -> None:
    """Ask the risk ledger; whether first answers agree is reported for all items in order, also for those that wait."""
    evidence = [(i.content_key, i.step.evidence) for i in consulting if isinstance(i.step, Consult)]
    observed = [
        (item.content_key, Evidence(item.use_case, "", pair=pair, disagreed=disagreed))
        for item in items
        for pair, disagreed in [first_pair(item.open_case)]
        if pair and item.open_case.ruling is None
    ]
    if not evidence and not observed:
        return
    rulings = await runtime.rule(evidence, observed)
    for item, ruling in zip(consulting, rulings, strict=False):
        item.case = item.open_case.with_ruling(ruling)
    for ruling in rulings:
        if ruling.drifted:
            tell_drift(ruling.evidence.group or "", "free answers disagree more often than before")


def _first_verdict(item: Item) -> tuple[Target, ChatRequest]:
    """The request to the first judge of an item that stands before one."""
    step = item.step
    assert isinstance(step, FreeJudge | PaidVerdict)
    target = item.targets[step.models[0]]
    return target, _verdict_request(item, item.open_case.answers[step.answer].text, target)


def _verdict_request(item: Item, judged: str, target: Target, *, again: bool = False) -> ChatRequest:
    criteria = () if item.plan is None else tuple(item.plan.acceptance_criteria)
    key = ("verdict", judged, target.name, again, criteria)
    if key not in item.requests:
        item.requests[key] = verdict_request(item, judged, target, again=again)[0]
    return item.requests[key]


async def _judge(runtime: Runtime, item: Item) -> None:
    """Ask for one verdict, from the first judge that can give one; an unreadable verdict is asked for once more."""
    step = item.step
    if not isinstance(step, FreeJudge | PaidVerdict):
        return
    judges = [item.targets[name] for name in step.models]
    try:
        while judges and (judge := await _verdict_by(runtime, item, step.answer, judges)) is not None:
            judges.remove(judge)
    except PostponedError as postponed:
        item.error = postponed


async def _verdict_by(runtime: Runtime, item: Item, answer: int, judges: Sequence[Target]) -> Target | None:
    """Ask the first judge that may be called. None: the case has moved on; else the judge that failed."""
    judged = item.open_case.answers[answer].text
    outcome = await runtime.calls(_verdict_call(item, judged, judges, again=False))
    score: float | None = None
    if isinstance(outcome, Answered):
        score = _read_verdict(item, outcome, judged)
        if score is None:
            outcome = await runtime.calls(_verdict_call(item, judged, [outcome.target], again=True))
    if isinstance(outcome, NotAdmitted):
        item.case = item.open_case.without([judge.name for judge in judges])
        return None
    if isinstance(outcome, Failed):
        return await _judge_failed(runtime, item, outcome)
    if score is None:
        score = _read_verdict(item, outcome, judged)
    item.case = item.open_case.with_verdict(Verdict(answer, Candidate.of(outcome.target), score))
    return None


def _verdict_call(item: Item, judged: str, judges: Sequence[Target], *, again: bool) -> Call:
    return Call(
        targets=judges,
        request_of=partial(_verdict_request, item, judged, again=again),
        role="validate",
        use_case=item.use_case,
        may_spend=item.open_case.orchestrator_left,
        accept_cut=True,
        on_attempt=item.attempts.append,
        on_failure=partial(tell_failure, item),
        note=item.note,
    )


async def _judge_failed(runtime: Runtime, item: Item, failed: Failed) -> Target | None:
    """Take a judge that failed off the case. None: a replacement came in, and who judges is decided anew."""
    target, error = failed.target, failed.error
    item.reasons.append(f"{target.name} (judge): {error.error_class.value}: {error}")
    if failed.refusal is not None:
        item.refusal = failed.refusal
        item.case = item.open_case.without_paid()
    else:
        item.case = item.open_case.without([target.name])
    if error.error_class is ErrorClass.MODEL_GONE:
        replaced = await replace_gone(runtime, item, target, "validate", error)
        return target if replaced is None else None
    return target


def _read_verdict(item: Item, answered: Answered, judged: str) -> float | None:
    """The score of a judge's reply; a reply without one is said in its attempt and in the warnings."""
    score = parse_verdict(answered.reply.reply.text, judged=judged, task=item.task)
    if score is None:
        why = "the reply holds no verdict: one JSON object with a score from 0 to 1 and a reason"
        item.attempts[-1] = item.attempts[-1].model_copy(update={"outcome": "unreadable", "reason": why})
        item.note(f"{answered.target.name}: its verdict could not be read")
    return score


def tell_drift(stratum: str, what: str) -> None:
    """Say that what was learned of a kind of evidence no longer holds; its trust starts again."""
    events.emit("tta.quality.drift", {"stratum": stratum, "what": what}, resource=f"tta.stratum.{stratum}")


def _tell(item: Item) -> None:
    """The event of an item whose answer is not simply delivered."""
    match item.step:
        case Answers():
            reason = "another free answer is needed"
        case PaidSolve(_, why):
            reason = f"the orchestrator answers: {why}"
        case GiveUp(_, why):
            reason = why
        case Deliver(accepted=False):
            reason = "delivered without acceptance"
        case _:
            return
    payload = {"item": item.id, "use_case": item.use_case, "reason": reason}
    events.emit("tta.quality.escalated", payload, resource=f"tta.use-case.{item.use_case}")
