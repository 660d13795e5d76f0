"""The validate task: evidence in the order of its cost, until each item is delivered or needs another answer."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from prefect import task

from tta_dev_primitives.blocks.wire.types import ChatRequest
from tta_dev_primitives.config.models.targets import Target
from tta_dev_primitives.config.provider_errors import ErrorClass
from tta_dev_primitives.flows.calling.admission import PostponedError
from tta_dev_primitives.flows.calling.call import Answered, Call, Failed, NotAdmitted
from tta_dev_primitives.flows.calling.runtime import Runtime
from tta_dev_primitives.flows.prefect_support import events
from tta_dev_primitives.flows.prefect_support.task_history import log_line
from tta_dev_primitives.flows.routing.retired_models import emit_failure, replace_retired
from tta_dev_primitives.flows.tasks.gather_all import gather_all
from tta_dev_primitives.flows.tasks.item import AttemptChain, Item
from tta_dev_primitives.flows.validation.case import Candidate, Case, Comparison, Verdict
from tta_dev_primitives.flows.validation.case_evidence import first_pair
from tta_dev_primitives.flows.validation.evidence import Evidence
from tta_dev_primitives.flows.validation.local_checks import prompt_was_cut
from tta_dev_primitives.flows.validation.next_step import next_step
from tta_dev_primitives.flows.validation.steps import (
    Answers,
    Consult,
    Deliver,
    FreeCompare,
    FreeJudge,
    GiveUp,
    PaidSolve,
    PaidVerdict,
)
from tta_dev_primitives.flows.validation.verdicts import (
    comparison_request,
    parse_verdict,
    reads_all,
    verdict_request,
)

_JUDGING = (FreeJudge, FreeCompare, PaidVerdict)
_Judging = FreeJudge | FreeCompare | PaidVerdict
_AS_GOOD = 0.5


@task(name="validate", task_run_name="validate", persist_result=False, retries=0, retry_delay_seconds=0)
async def validate(runtime: Runtime, chain: AttemptChain) -> dict[str, str]:
    """Take each item of the chain as far as evidence goes: delivered, given up, or in need of another answer.

    Returns:
        Item id -> the step it stands at: `Deliver`, `GiveUp`, `Answers`, `PaidSolve`, or `Consult` if it `waits`.
    """
    await validate_items(runtime, chain.open)
    for item in chain.open:
        log_line(item, f"verdict: {_verdict_of(item)}")
    return {item.id: type(item.step).__name__ for item in chain.open}


async def validate_items(runtime: Runtime, items: Sequence[Item]) -> None:
    """Drive each item's state machine until its next step is an answer or an end, or until it must wait.

    All items that stand before the risk ledger go there in one transaction.
    """
    pending = list(items)
    while pending:
        for item in pending:
            item.step = next_step(item.open_case)
        judging = [i for i in pending if isinstance(i.step, _JUDGING)]
        consulting = [i for i in pending if isinstance(i.step, Consult)]
        if len(judging) > 1:
            await runtime.calls.look_ahead([_first_verdict(item) for item in judging])
        await gather_all(_judge(runtime, item) for item in judging)
        await _consult(runtime, pending, consulting)
        pending = [i for i in judging + consulting if i.error is None and not waits(i)]
    for item in items:
        _emit_events(item)


def waits(item: Item) -> bool:
    """Whether an item has been put off until checks of its like have ended."""
    return isinstance(item.step, Consult) and item.open_case.ruling is None


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
        if not ruling.put_off:
            item.case = item.open_case.with_ruling(ruling)
        if ruling.checks:
            runtime.open_checks.open(item, ruling.evidence.stratum)
    for ruling in rulings:
        if ruling.drifted:
            emit_drift(ruling.evidence.group or "", "free answers disagree more often than before")


def _first_verdict(item: Item) -> tuple[Target, ChatRequest]:
    """The request to the first judge of an item that stands before one."""
    assert isinstance(item.step, _JUDGING)
    target = item.targets[item.step.models[0]]
    return target, _judge_request(item, target)


def _judge_request(item: Item, target: Target, *, again: bool = False) -> ChatRequest:
    """The request for the verdict or comparison that the item stands before."""
    step, answers = item.step, item.open_case.answers
    assert isinstance(step, _JUDGING)
    judged = answers[step.answer].text
    reference = answers[step.own].text if isinstance(step, FreeCompare) else None
    criteria = () if item.plan is None else tuple(item.plan.acceptance_criteria)
    key = ("verdict", judged, reference, target.name, again, criteria)
    if key not in item.requests:
        item.requests[key] = (
            verdict_request(item, judged, target, again=again)[0]
            if reference is None
            else comparison_request(item, judged, reference, target, again=again)
        )
    return item.requests[key]


def _judged(case: Case, step: _Judging, by: Target, score: float | None) -> Case:
    """The case after a judge's reply; an unreadable one rejects."""
    if isinstance(step, FreeCompare):
        passed = score is not None and score >= _AS_GOOD
        return case.with_comparison(Comparison(step.answer, Candidate.of(by), passed))
    return case.with_verdict(Verdict(step.answer, Candidate.of(by), score))


async def _judge(runtime: Runtime, item: Item) -> None:
    """Ask for one verdict, from the first judge that can give one; an unreadable verdict is asked for once more.

    A judge whose window does not hold the whole text is not asked.
    """
    step = item.step
    if not isinstance(step, _JUDGING):
        return
    named = [item.targets[name] for name in step.models]
    judges = [target for target in named if reads_all(target, _judge_request(item, target))]
    item.case = item.open_case.without_judges([target.name for target in named if target not in judges])
    try:
        while judges and (judge := await _verdict_by(runtime, item, step, judges)) is not None:
            judges.remove(judge)
    except PostponedError as postponed:
        item.error = postponed


async def _verdict_by(
    runtime: Runtime, item: Item, step: _Judging, judges: Sequence[Target]
) -> Target | None:
    """Ask the first judge that may be called. None: the case has moved on; else the judge that failed."""
    judged, score = item.open_case.answers[step.answer].text, None
    for again in (False, True):
        outcome = await runtime.calls(_judge_call(runtime, item, judges, again=again))
        if isinstance(outcome, NotAdmitted):
            item.case = item.open_case.without([judge.name for judge in judges])
            return None
        if isinstance(outcome, Failed):
            return await _judge_failed(runtime, item, step, outcome)
        judges = [outcome.target]
        reply = outcome.reply.reply
        asked = _judge_request(item, outcome.target, again=again)
        if prompt_was_cut(asked.messages[0].content, reply):
            item.case = item.open_case.without_judges([outcome.target.name])
            return None
        score = _read_verdict(item, outcome, judged)
        if score is not None:
            break
    item.case = _judged(item.open_case, step, judges[0], score)
    return None


def _judge_call(runtime: Runtime, item: Item, judges: Sequence[Target], *, again: bool) -> Call:
    return Call(
        targets=judges,
        request_of=partial(_judge_request, item, again=again),
        role="validate",
        use_case=item.use_case,
        pays=partial(runtime.paid_from, "validate"),
        may_spend=item.open_case.orchestrator_left,
        accept_cut=True,
        on_attempt=item.attempts.append,
        on_failure=partial(emit_failure, item),
        note=item.note,
    )


async def _judge_failed(runtime: Runtime, item: Item, step: _Judging, failed: Failed) -> Target | None:
    """Take a judge that failed off the case. None: what comes next is decided anew."""
    target, error, case = failed.target, failed.error, item.open_case
    if failed.savings_short is not None:
        item.case = case.without_extras() if isinstance(step, PaidVerdict) else case.without([target.name])
        return None
    item.reasons.append(f"{target.name} (judge): {error.short}")
    if failed.refusal is not None:
        item.refusal = failed.refusal
        item.case = case.without_paid()
    else:
        item.case = case.without([target.name])
    if error.error_class is ErrorClass.MODEL_GONE:
        replaced = await replace_retired(runtime, item, target, "validate", error)
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


def emit_drift(stratum: str, what: str) -> None:
    """Say that what was learned of a kind of evidence no longer holds; its trust starts again."""
    events.emit("tta.quality.drift", {"stratum": stratum, "what": what}, resource=f"tta.stratum.{stratum}")


_WHY_PAID = {
    "escalate": "such answers are not trusted yet",
    "audit": "a drawn check",
    "rejected": "the free answers were judged too low",
    "disputed": "free models disagree",
    "no_free_answer": "no free model answered",
}


def _verdict_of(item: Item) -> str:
    """How the item stands after validation, in one line."""
    step = item.step
    if isinstance(step, Consult):
        return "waits for the checks of earlier answers"
    if not isinstance(step, Deliver):
        return _escalation(item) or "another free answer is needed"
    judge = item.open_case.judged_by(step.index)
    by = f" by {judge}" if judge is not None else ""
    score = f", quality {step.quality_score:.2f}" if step.quality_score is not None else ""
    return f"{'accepted' if step.accepted else 'not accepted'} ({step.evidence}{by}{score})"


def _escalation(item: Item) -> str | None:
    """Why an item's answer is not simply delivered."""
    match item.step:
        case Answers(slots) if any(item.targets[slot[0]].billing == "paid" for slot in slots):
            return "no free model is left: a paid one answers"
        case PaidSolve(_, why):
            return f"the orchestrator answers: {_WHY_PAID.get(why, why)}"
        case GiveUp(_, why):
            return why
        case Deliver(accepted=False):
            return "delivered without acceptance"
        case _:
            return None


def _emit_events(item: Item) -> None:
    reason = _escalation(item)
    if reason is None:
        return
    payload = {"item": item.id, "use_case": item.use_case, "reason": reason}
    events.emit("tta.quality.escalated", payload, resource=f"tta.use-case.{item.use_case}")
