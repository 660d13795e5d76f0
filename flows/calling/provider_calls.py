"""One model, one request: quota, reservation, call, settlement, and the waits that stay with the same model."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal

from tta_dev_primitives.blocks.ledger.guarded_call import GuardedReply
from tta_dev_primitives.blocks.quotas.availability import Blocked
from tta_dev_primitives.blocks.quotas.quota import Slot
from tta_dev_primitives.blocks.wire.reply_problems import reply_problem
from tta_dev_primitives.blocks.wire.types import ChatRequest
from tta_dev_primitives.config.errors import (
    BudgetExceededError,
    ConfigError,
    ErrorClass,
    LedgerAction,
    LedgerBusyError,
    MissingKeyError,
    OrchestrationError,
    ProviderError,
    QuarantinedError,
    UnknownPriceError,
    WrongClockError,
)
from tta_dev_primitives.config.models.targets import Target
from tta_dev_primitives.flows.calling.runtime import Runtime
from tta_dev_primitives.flows.routing.retry_policy import same_model_wait, stops_everything
from tta_dev_primitives.flows.tasks.result import Attempt, Role

__all__ = ["CallFailedError", "call_model"]

_REFUSALS: dict[type[Exception], ErrorClass] = {
    MissingKeyError: ErrorClass.AUTH,
    UnknownPriceError: ErrorClass.UNPRICED,
    BudgetExceededError: ErrorClass.BUDGET,
    LedgerBusyError: ErrorClass.BUDGET,
    QuarantinedError: ErrorClass.BUDGET,
    WrongClockError: ErrorClass.BUDGET,
}
_PROBLEMS = {
    ErrorClass.TRUNCATED: "the token limit cut the answer",
    ErrorClass.EMPTY: "the reply holds no answer text",
    ErrorClass.CONTENT: "the provider filtered or refused the answer",
}
_LARGER = 2
"""A cut or empty answer is asked for once more with this many times the output tokens."""


class CallFailedError(Exception):
    """This model did not answer: `error` says why, `attempts` holds every call that was made."""

    def __init__(
        self, error: ProviderError, attempts: list[Attempt], refusal: BudgetExceededError | None = None
    ) -> None:
        super().__init__(str(error))
        self.error = error
        self.attempts = attempts
        self.refusal = refusal


async def call_model(
    runtime: Runtime,
    target: Target,
    request: ChatRequest,
    *,
    role: Role,
    use_case: str,
    max_calls: int = 3,
    accept_cut: bool = False,
    slot: Slot | None = None,
    on_failure: Callable[[Attempt, ProviderError], None] | None = None,
    note: Callable[[str], None] | None = None,
) -> tuple[GuardedReply, list[Attempt]]:
    """Call one model until it answers or its error says to move on.

    Args:
        runtime: Clients, ledger, quotas and keys of this process.
        target: The model.
        request: What to ask.
        role: What the call is for, as the report shows it.
        use_case: The task's use case, for the report.
        max_calls: How many calls the task's attempt budget still allows.
        accept_cut: Take an answer that the token limit cut (a verdict may still be read).
        slot: A place in the model's quota that was taken already, for the first call.
        on_failure: Told of every failed attempt as it happens.
        note: Told what is odd about a reply's bill, for the result's warnings.

    Returns:
        The reply with what it cost, and one `Attempt` for each call, the last one `ok`.

    Raises:
        CallFailedError: No usable answer; paid calls are settled, presumed or released by then.
        ConfigError: The address answers with a redirect, or the key cannot be sent.
        LedgerError: The ledger cannot be used, so a paid call is refused.
        ConfigError: The address answers with a redirect: no model is asked before somebody corrects it.
    """
    attempts: list[Attempt] = []
    end = time.monotonic() + 2 * target.timeout_s
    while True:
        refusal: BudgetExceededError | None = None
        started = time.time()
        try:
            reply = await _guarded(runtime, target, request, role=role, use_case=use_case, end=end, slot=slot)
        except tuple(_REFUSALS) as refused:
            refusal = refused if isinstance(refused, BudgetExceededError) else None
            error = _refused(target, refused)
            attempts.append(_failed(target, role, error, started))
        except ProviderError as failed:
            error = failed
            attempts.append(_failed(target, role, failed, started))
        else:
            if note is not None and reply.warning:
                note(f"{target.name}: {reply.warning}")
            problem = reply_problem(reply.reply)
            cut_is_fine = accept_cut and problem is ErrorClass.TRUNCATED
            attempts.append(_made(target, role, reply, started, None if cut_is_fine else problem))
            if problem is None or cut_is_fine:
                return reply, attempts
            error = _unusable(target, problem)
        slot = None
        if on_failure is not None:
            on_failure(attempts[-1], error)
        if stops_everything(error):
            raise ConfigError(str(error))
        if len(attempts) >= max_calls:
            raise CallFailedError(error, attempts, refusal)
        larger = _with_larger_cap(target, request, error.error_class, len(attempts))
        if larger is not None:
            request = larger
            continue
        wait = same_model_wait(error, len(attempts), time_left_s=end - time.monotonic(), rng=runtime.rng)
        if wait is None:
            raise CallFailedError(error, attempts, refusal)
        await runtime.sleep(wait)


async def _guarded(
    runtime: Runtime,
    target: Target,
    request: ChatRequest,
    *,
    role: Role,
    use_case: str,
    end: float,
    slot: Slot | None,
) -> GuardedReply:
    """One call: the answer store first, then a quota slot, then reserve, send, settle."""
    step_key = runtime.step_key(target, request)
    async with runtime.alone(step_key):
        stored = await runtime.stored_reply(target, step_key)
        if stored is not None:
            if slot is not None:
                await runtime.quota.give_back(slot)
            return stored
        key = await runtime.key_of(target)
        out = await runtime.out_now(target)
        if out is not None:
            if slot is not None:
                await runtime.quota.give_back(slot)
            raise _out_already(target, out)
        if slot is None:
            wait_s = max(0.0, end - time.monotonic())
            slot = await runtime.take_slot(target, key, request, max_wait_s=wait_s)
        try:
            reply = await runtime.send(
                target, request, key=key, role=role, use_case=use_case, step_key=step_key
            )
        except ProviderError as failed:
            await runtime.learn_failure(target, key, slot, failed)
            raise
        except OrchestrationError:
            # Refused before anything was sent; a call that was cancelled on its way stays counted.
            await runtime.quota.give_back(slot)
            raise
        await runtime.learn_reply(target, key, slot, reply.reply)
        return reply


def _refused(target: Target, why: Exception) -> ProviderError:
    return ProviderError(
        str(why),
        provider=target.provider,
        model=target.name,
        error_class=_REFUSALS[type(why)],
        ledger_action=LedgerAction.RELEASE,
    )


def _out_already(target: Target, out: Blocked) -> ProviderError:
    """What an earlier call of this run has learned; nothing is sent, and no event tells it again."""
    return ProviderError(
        out.reason,
        provider=target.provider,
        model=target.name,
        error_class=out.error_class,
        ledger_action=LedgerAction.RELEASE,
        sent=False,
        known=True,
    )


def _unusable(target: Target, problem: ErrorClass) -> ProviderError:
    return ProviderError(
        f"{target.name}: {_PROBLEMS.get(problem, problem.value)}",
        provider=target.provider,
        model=target.name,
        error_class=problem,
        ledger_action=LedgerAction.SETTLE,
    )


def _with_larger_cap(
    target: Target, request: ChatRequest, problem: ErrorClass, tries: int
) -> ChatRequest | None:
    """The same request with room for a longer answer, once; None when that would not help."""
    if tries != 1 or problem not in (ErrorClass.TRUNCATED, ErrorClass.EMPTY):
        return None
    larger = request.max_output_tokens * _LARGER
    larger = min(larger, target.most_output_tokens or larger)
    return replace(request, max_output_tokens=larger) if larger > request.max_output_tokens else None


def _made(
    target: Target, role: Role, reply: GuardedReply, started: float, problem: ErrorClass | None
) -> Attempt:
    usage = reply.reply.usage
    return Attempt(
        role=role,
        model=target.name,
        provider=target.provider,
        outcome="ok" if problem is None else problem.value,
        reason=None if problem is None else _PROBLEMS.get(problem, problem.value),
        input_tokens=usage.total_input,
        output_tokens=usage.output_tokens,
        cost_usd=reply.cost_usd,
        list_value_usd=reply.list_value_usd or Decimal(0),
        latency_s=0.0 if reply.reused else round(time.time() - started, 4),
        billing=target.billing,
        reused=reply.reused,
        started_at=started,
    )


def _failed(target: Target, role: Role, error: ProviderError, started: float) -> Attempt:
    return Attempt(
        role=role,
        model=target.name,
        provider=target.provider,
        outcome=error.error_class.value,
        reason=str(error),
        cost_usd=error.charged_usd or Decimal(0),
        latency_s=round(time.time() - started, 4),
        billing=target.billing,
        started_at=started,
    )
