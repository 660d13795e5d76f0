"""The execute task: one Prefect task run whose retries walk the model list.

Attempt n of the task run sends only the items that still fail, each to its next model. What the attempts of one
task run share is in the `AttemptChain` that they all receive: attempts of one task run share a process.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from functools import lru_cache, partial
from typing import Any

from prefect import task
from prefect.client.schemas.objects import State, TaskRun
from prefect.tasks import Task

from tta_dev_primitives.blocks.ledger.stored_replies import GuardedReply
from tta_dev_primitives.blocks.redaction import redact
from tta_dev_primitives.blocks.wire.types import ChatReply
from tta_dev_primitives.config.errors import OrchestrationError
from tta_dev_primitives.config.models.targets import Target
from tta_dev_primitives.config.provider_errors import ErrorClass, ProviderError
from tta_dev_primitives.flows.calling.admission import PostponedError
from tta_dev_primitives.flows.calling.attempts import stored_attempt
from tta_dev_primitives.flows.calling.call import Answered, Call, NotAdmitted
from tta_dev_primitives.flows.calling.runtime import Runtime
from tta_dev_primitives.flows.prefect_support import events
from tta_dev_primitives.flows.prefect_support.log_filter import never_said
from tta_dev_primitives.flows.prefect_support.task_history import (
    attempt_number,
    log_line,
    name_attempt,
    run_after,
    show_retry,
)
from tta_dev_primitives.flows.routing.retired_models import emit_failure, replace_retired
from tta_dev_primitives.flows.tasks.gather_all import gather_all
from tta_dev_primitives.flows.tasks.item import AttemptChain, Item
from tta_dev_primitives.flows.tasks.request import answer_request, repair_request
from tta_dev_primitives.flows.validation.local_checks import Checked, check_answer

_INVALID = "wrong_format"


@never_said
class ModelFailedError(OrchestrationError):
    """Some items have no answer from this attempt's model: the next attempt asks their next one, if there is one."""

    next_name: str | None = None
    """The name of the task run in its next attempt; None: there is none."""


async def _another_model_is_left(task: Task[Any, Any], task_run: TaskRun, state: State[Any]) -> bool:
    """Retry condition: only a model's failure moves on; anything else ends the task run."""
    result = await state.aresult(raise_on_failure=False)
    if not isinstance(result, ModelFailedError) or result.next_name is None:
        return False
    show_retry(task_run, str(result), result.next_name)
    return True


@task(
    name="execute",
    retry_condition_fn=_another_model_is_left,
    persist_result=False,
    retries=0,
    retry_delay_seconds=0,
)
async def execute(runtime: Runtime, chain: AttemptChain, key: str | None = None) -> dict[str, str]:
    """Bring an answer for each item of the chain; attempt n asks each open item's n-th model.

    Args:
        runtime: Clients, ledger, quotas and keys of this process.
        chain: The items and their models.
        key: Under which the result is persisted.

    Returns:
        Item id -> the model that answered, for the items that this task run answered.

    Raises:
        ModelFailedError: Some items go on to their next model, or no model had an answer for any.
    """
    number, why = attempt_number(), tuple(chain.failures)
    answered = await chain_attempt(runtime, chain)
    if answered:
        name_attempt(chain.attempt_name(number, answered.values(), why))
    going_on = [item for item in chain.open if chain.following(item) is not None]
    if going_on:
        failed = ModelFailedError(f"{len(going_on)} of {chain.size} to the next model: {_reasons(going_on)}")
        failed.next_name = chain.attempt_name(number + 1, None, chain.failures)
        raise failed
    if len(chain.open) == chain.size:
        raise ModelFailedError(f"no model answered: {_reasons(chain.open)}")
    return {id: target.name for id, target in answered.items()}


def _reasons(items: Sequence[Item]) -> str:
    return "; ".join(item.reasons[-1] for item in items[:3] if item.reasons)


@lru_cache(maxsize=128)
def _chain_task(name: str, retries: int, persisted: bool) -> Any:
    """The execute task for such attempt chains, made once: Prefect reads the task's source each time (1 ms)."""
    kept: dict[str, Any] = {}
    if persisted:
        kept = {"persist_result": True, "result_storage_key": "{parameters[key]}"}
    return execute.with_options(retries=retries, task_run_name=name, **kept)


async def run_chain(runtime: Runtime, chain: AttemptChain) -> None:
    """Run the execute task over the chain, named after its first model, with a retry for each further model.

    The result of a chain of one item is persisted under the content key of its first request, the key of the answer
    store: a run that is repeated shows the task as Cached and takes the answer from the store.
    """
    if not chain.length:
        return
    key = _content_key(runtime, chain)
    # A chain without any answer is a failed task run; what comes after it is decided from the items.
    with suppress(ModelFailedError):
        named = _chain_task(chain.attempt_name(1), chain.length - 1, key is not None)
        await run_after(named, chain, {"runtime": runtime, "key": key})
    # Cached, the task's body did not run: the answers are in the store, or are asked for again.
    while any(chain.following(item) is not None for item in chain.open):
        await chain_attempt(runtime, chain)


def _content_key(runtime: Runtime, chain: AttemptChain) -> str | None:
    if chain.size != 1 or chain.open[0].check is not None:
        return None
    item = chain.open[0]
    walk = chain.walks[item.id]
    names = ",".join(target.key for target in walk)
    first = runtime.services.answers.step_key(walk[0], answer_request(item, walk[0]))
    return f"tta-execute-{hashlib.sha256(f'{first}|{names}'.encode()).hexdigest()}"


async def chain_attempt(runtime: Runtime, chain: AttemptChain) -> dict[str, Target]:
    """One attempt: every open item to its next model, as many at a time as admission allows."""
    chain.failures.clear()

    async def one(item: Item) -> Target | None:
        if not chain.walks[item.id]:
            return None
        by = await _ask(runtime, chain, item)
        if by is not None or not chain.walks[item.id]:
            chain.left(item)
        return by

    if len(chain.open) > 1:
        asking = [item for item in chain.open if chain.walks[item.id] and item.kept is None]
        firsts = [(chain.walks[item.id][0], item) for item in asking]
        await runtime.calls.look_ahead([(target, answer_request(item, target)) for target, item in firsts])
    models = await gather_all(one(item) for item in chain.open)
    answered = {item.id: by for item, by in zip(chain.open, models, strict=True) if by is not None}
    chain.open = [item for item in chain.open if item.id not in answered and item.error is None]
    return answered


async def _ask(runtime: Runtime, chain: AttemptChain, item: Item) -> Target | None:
    """The model that answered, now or when the same task was done before."""
    if item.kept is not None:
        return _answer_as_before(chain, item, item.kept)
    try:
        return await _ask_next(runtime, chain, item)
    except PostponedError as postponed:
        item.error = postponed
        chain.walks[item.id].clear()
        return None


def _answer_as_before(chain: AttemptChain, item: Item, kept: GuardedReply) -> Target:
    """The same task again: the reply that was delivered then."""
    target = chain.walks[item.id][0]
    chain.take_named(item, target)
    item.attempts.append(stored_attempt(target, "execute", kept))
    item.answered(target, kept, Checked(kept.reply.text))
    return target


async def _ask_next(runtime: Runtime, chain: AttemptChain, item: Item) -> Target | None:
    """Ask the item's next model, or the replacement of a retired one: that model if its answer passes the checks."""
    while walk := chain.walks[item.id]:
        outcome = await runtime.calls(_call(runtime, chain, item, walk))
        if isinstance(outcome, NotAdmitted):
            _drop_models(chain, item)
            return None
        target = outcome.target
        chain.take_named(item, target)
        item.calls_left -= outcome.tries
        if isinstance(outcome, Answered):
            reply, found = await _checked(runtime, item, target, outcome.reply)
            passed = await _keep_answer(chain, item, target, reply, found)
            return target if passed else None
        if outcome.savings_short is not None:
            item.reasons.append(f"{target.name}: {outcome.error}")
            item.case = item.open_case.without([target.name])
            return None
        item.refusal = outcome.refusal or item.refusal
        if not await _replaced(runtime, chain, item, target, outcome.error):
            return None
    return None


def _call(runtime: Runtime, chain: AttemptChain, item: Item, walk: Sequence[Target]) -> Call:
    return Call(
        targets=walk,
        request_of=partial(answer_request, item),
        role="execute",
        use_case=item.use_case,
        # A model asks again only with what the models after it leave over: each of them has its turn.
        max_calls=max(1, item.calls_left - len(walk) + 1),
        may_spend=item.open_case.can_solve,
        pays=partial(runtime.paid_from, "execute"),
        on_attempt=item.attempts.append,
        on_failure=partial(emit_failure, item),
        note=item.note,
    )


def _drop_models(chain: AttemptChain, item: Item) -> None:
    """No free model has quota and the job will not wait: what is left is a paid solution, or nothing."""
    for target in chain.walks[item.id]:
        item.failed(target, ErrorClass.QUOTA, "its free quota is used up, and the job does not wait for it")
    chain.walks[item.id].clear()


async def _checked(
    runtime: Runtime, item: Item, target: Target, guarded: GuardedReply
) -> tuple[GuardedReply, Checked]:
    """A reply with what its checks found; one that can be corrected goes back to its model once, with the fault."""
    reply = guarded.reply
    found = check_answer(item, reply, item.part)
    problem = await _repairable(item, reply, found) if item.calls_left > 0 else None
    if problem is None:
        return guarded, found
    _mark_invalid(item, target, found.failures)
    outcome = await runtime.calls(
        Call(
            targets=[target],
            request_of=lambda _: repair_request(item, target, reply.text, problem),
            role="execute",
            use_case=item.use_case,
            max_calls=1,
            pays=runtime.repair_paid_from,
            may_spend=item.open_case.can_solve,
            on_attempt=item.attempts.append,
            on_failure=partial(emit_failure, item),
            note=item.note,
        )
    )
    item.calls_left -= 1
    if not isinstance(outcome, Answered):
        return guarded, found
    return outcome.reply, check_answer(item, outcome.reply.reply)


async def _repairable(item: Item, reply: ChatReply, found: Checked) -> str | None:
    """What is wrong with an answer, when the model that gave it can be asked to correct it."""
    if item.output is not None and found.failures[:1] and found.failures[0].startswith(_INVALID):
        return found.failures[0].removeprefix(f"{_INVALID}: ")
    if item.repairs is None or item.check is None or found.failures:
        return None
    return "; ".join(await item.check(reply.text)) or None


def _mark_invalid(item: Item, target: Target, failures: Sequence[str]) -> None:
    """Let the model's last attempt say that its answer was no data of the item's type, and why."""
    if item.output is None or not failures or not failures[0].startswith(_INVALID):
        return
    for index in reversed(range(len(item.attempts))):
        attempt = item.attempts[index]
        if attempt.role == "execute" and attempt.model == target.name and attempt.outcome == "ok":
            item.attempts[index] = attempt.model_copy(
                update={"outcome": _INVALID, "reason": redact(failures[0].removeprefix(f"{_INVALID}: "))}
            )
            return


async def _keep_answer(
    chain: AttemptChain, item: Item, target: Target, guarded: GuardedReply, found: Checked
) -> bool:
    """Whether an answer passes the local checks; it is kept with what they found."""
    if not found.failures and item.check is not None:
        found = replace(found, failures=tuple(await item.check(found.text)))
    failures = found.failures
    item.answered(target, guarded, found)
    how = "from the store" if guarded.reused else f"for ${guarded.cost_usd:f}"
    log_line(
        item, f"answer: {target.provider}/{target.name}, {guarded.reply.usage.output_tokens} tokens {how}"
    )
    if failures:
        _mark_invalid(item, target, failures)
        item.reasons.append(f"{target.name}: {ErrorClass.QUALITY.value}: {', '.join(failures)}")
        _emit_fallback(chain, item, target, ErrorClass.QUALITY)
    return not failures


async def _replaced(
    runtime: Runtime, chain: AttemptChain, item: Item, target: Target, error: ProviderError
) -> bool:
    """A model failed: whether its replacement is asked at once; otherwise it is the next model's turn."""
    item.failed(target, error.error_class, error.short)
    replacement = None
    if error.error_class is ErrorClass.MODEL_GONE:
        replacement = await replace_retired(runtime, item, target, "execute", error)
    if replacement is not None:
        chain.walks[item.id].insert(0, replacement)
    _emit_fallback(chain, item, target, error.error_class)
    return replacement is not None


def _emit_fallback(chain: AttemptChain, item: Item, target: Target, error_class: ErrorClass) -> None:
    following = chain.following(item)
    then = "no model is left" if following is None else f"next: {following.provider}/{following.name}"
    log_line(item, f"fallback: {item.reasons[-1]}; {then}")
    if following is None:
        return
    chain.failures[error_class.value] = None
    payload = {
        "item": item.id,
        "from": target.name,
        "to": following.name,
        "error_class": error_class.value,
    }
    resource = f"tta.model.{target.provider}/{target.name}"
    events.emit("tta.fallback", payload, resource=resource)
    if target.billing == "free" and following.billing == "paid":
        events.emit("tta.fallback.paid", payload, resource=resource)
