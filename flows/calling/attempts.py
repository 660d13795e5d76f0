"""Layer: the calls of one model for one question. A passing failure is waited out, a cut answer gets more room."""

from __future__ import annotations

import logging
import random
import time
from dataclasses import replace
from decimal import Decimal
from typing import TYPE_CHECKING

from tta_dev_primitives.blocks.ledger.stored_replies import GuardedReply
from tta_dev_primitives.blocks.providers.capabilities import Lesson, lesson_of
from tta_dev_primitives.blocks.wire.reply_problems import reply_problem
from tta_dev_primitives.blocks.wire.types import ChatRequest
from tta_dev_primitives.config.errors import ConfigError, LedgerError, MissingKeyError
from tta_dev_primitives.config.models.targets import Target
from tta_dev_primitives.config.provider_errors import ErrorClass, LedgerAction, ProviderError
from tta_dev_primitives.config.reading.api_keys import key_id
from tta_dev_primitives.flows.calling.call import Answered, Call, Failed, Layer, Outcome
from tta_dev_primitives.flows.routing.retry_policy import same_model_wait, stops_everything
from tta_dev_primitives.flows.tasks.result import Attempt, Role

if TYPE_CHECKING:
    from tta_dev_primitives.flows.calling.services import Services

_LOG = logging.getLogger("tta_dev_primitives.runtime")
_MOST_LESSONS = 4
"""A model may refuse several fields, one after the other."""

_PROBLEMS = {
    ErrorClass.TRUNCATED: "the token limit cut the answer",
    ErrorClass.EMPTY: "the reply holds no answer text",
    ErrorClass.CONTENT: "the provider filtered or refused the answer",
}
_LARGER = 2
"""A cut or empty answer is asked for once more with this many times the output tokens."""


class Attempts:
    """Calls one model until it answers or its error says to move on, and reports each attempt as it ends."""

    def __init__(self, then: Layer, services: Services, *, rng: random.Random) -> None:
        self._then, self._services, self._rng = then, services, rng

    async def __call__(self, call: Call) -> Outcome:
        """The last call's outcome.

        Raises:
            ConfigError: The address answers with a redirect: no model is asked before that is corrected.
        """
        call.target = await self._as_learned(call.target)
        call.request = call.request_of(call.target)
        call.until = time.monotonic() + 2 * call.target.timeout_s
        tries, lessons = 0, list[Lesson]()
        while True:
            started = time.time()
            answered = await self._then(call)
            if isinstance(answered, Failed) and answered.savings_short is not None:
                return self._ended(call, answered, tries)
            outcome = self._judged(call, answered, started)
            tries += 1
            if isinstance(outcome, Answered):
                await self._keep(call, lessons)
                return self._ended(call, outcome, tries)
            if stops_everything(outcome.error):
                raise ConfigError(str(outcome.error))
            lesson = lesson_of(call.target, call.request, outcome.error)
            if lesson is not None and len(lessons) < _MOST_LESSONS:
                # The model was not at work: the call that was refused is none of the model's tries.
                lessons.append(lesson)
                call.target, tries = lesson.applied_to(call.target), tries - 1
                continue
            if tries >= call.max_calls:
                return self._ended(call, outcome, tries)
            larger = _with_larger_cap(call.target, call.request, outcome.error.error_class, tries)
            if larger is not None:
                call.request = larger
                continue
            wait = same_model_wait(
                outcome.error, tries, time_left_s=call.until - time.monotonic(), rng=self._rng
            )
            if wait is None:
                return self._ended(call, outcome, tries)
            await self._services.sleep(wait)

    @staticmethod
    def _ended(call: Call, outcome: Outcome, tries: int) -> Outcome:
        return replace(outcome, target=call.permit.target, tries=max(1, tries))

    async def _as_learned(self, target: Target) -> Target:
        """The target with what its provider's refusals have taught this key."""
        try:
            key = await self._services.keys.key_of(target)
            return await self._services.capabilities.applied_to(target, key_id(key))
        except (MissingKeyError, LedgerError):
            # The layers below say so, and whether it matters: a free model needs no ledger.
            return target

    async def _keep(self, call: Call, lessons: list[Lesson]) -> None:
        """Remember what this answer has proved, and say it once in the warnings."""
        if not lessons:
            return
        call.note(
            f"{call.target.name} refused an optional field: {'; '.join(one.what for one in lessons)}. This is "
            "remembered for a week; `capabilities` of the model in the file sets it for good."
        )
        try:
            await self._services.capabilities.keep(call.target, key_id(call.key), lessons)
        except LedgerError as down:
            _LOG.warning("what %s takes is not kept: %s", call.target.name, down)

    def _judged(self, call: Call, outcome: Outcome, started: float) -> Outcome:
        """The outcome with an unusable reply taken as a failure; its attempt is reported."""
        if isinstance(outcome, Answered):
            guarded = outcome.reply
            if guarded.warning:
                call.note(f"{call.target.name}: {guarded.warning}")
            problem = reply_problem(guarded.reply)
            if problem is ErrorClass.TRUNCATED and call.accept_cut:
                problem = None
            attempt = _in_batch(call, _made(call.target, call.role, guarded, started, problem), guarded)
            call.on_attempt(attempt)
            if problem is None:
                return outcome
            outcome = Failed(call.target, _unusable(call.target, problem, guarded.cost_usd))
        else:
            attempt = _failed(call, outcome.error, started)
            call.on_attempt(attempt)
        call.on_failure(call.target, attempt, outcome.error)
        return outcome


def _unusable(target: Target, problem: ErrorClass, cost: Decimal) -> ProviderError:
    return ProviderError(
        f"{target.provider} model {target.name}: {problem.value}: {_PROBLEMS.get(problem, problem.value)}",
        provider=target.provider,
        model=target.name,
        error_class=problem,
        ledger_action=LedgerAction.SETTLE,
        charged_usd=cost,
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


def stored_attempt(target: Target, role: Role, guarded: GuardedReply) -> Attempt:
    """The attempt that a reply of the answer store counts as."""
    return _made(target, role, guarded, time.time(), None)


def _made(
    target: Target, role: Role, guarded: GuardedReply, started: float, problem: ErrorClass | None
) -> Attempt:
    usage = guarded.reply.usage
    return Attempt(
        role=role,
        model=target.name,
        provider=target.provider,
        outcome="ok" if problem is None else problem.value,
        reason=None if problem is None else _PROBLEMS.get(problem, problem.value),
        input_tokens=usage.total_input,
        output_tokens=usage.output_tokens,
        cost_usd=guarded.cost_usd,
        list_value_usd=guarded.list_value_usd or Decimal(0),
        latency_s=0.0 if guarded.reused else round(time.time() - started, 4),
        billing=target.billing,
        reused=guarded.reused,
        started_at=started,
    )


def _in_batch(call: Call, attempt: Attempt, guarded: GuardedReply) -> Attempt:
    """The attempt, marked when it came in a batch; its list value stays that of one call alone."""
    price = call.target.price
    if not call.batched or price is None:
        return attempt
    value = price.cost(guarded.reply.usage) if attempt.list_value_usd else attempt.list_value_usd
    return attempt.model_copy(update={"batch": True, "list_value_usd": value})


def _failed(call: Call, error: ProviderError, started: float) -> Attempt:
    return Attempt(
        role=call.role,
        model=call.target.name,
        provider=call.target.provider,
        outcome=error.error_class.value,
        reason=str(error),
        cost_usd=error.charged_usd or Decimal(0),
        latency_s=round(time.time() - started, 4),
        billing=call.target.billing,
        batch=call.batched,
        started_at=started,
    )
