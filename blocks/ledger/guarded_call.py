"""The one way to a provider: reserve, send, settle.

A paid call cannot be made without a hold: the hold is taken here, right before `client_send`, and ends here,
whatever happens in between.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any, TypeVar

from tta_dev_primitives.blocks.ledger.billing import (
    Bill,
    bill_of,
    checked_usage,
    free_bill_of,
    list_value_of,
    other_model,
    with_checked_usage,
)
from tta_dev_primitives.blocks.ledger.clocks import vouches
from tta_dev_primitives.blocks.ledger.core import AskDate
from tta_dev_primitives.blocks.ledger.cost_bound import bound_usd
from tta_dev_primitives.blocks.ledger.failpoints import failpoint
from tta_dev_primitives.blocks.ledger.ledger import Ledger
from tta_dev_primitives.blocks.ledger.money import MAX_USD
from tta_dev_primitives.blocks.ledger.shielded import uninterrupted
from tta_dev_primitives.blocks.ledger.stored_replies import GuardedReply, encoded_reply
from tta_dev_primitives.blocks.ledger.types import CallInfo, Hold, Outcome, provider_key
from tta_dev_primitives.blocks.redaction import mask_keys, redact
from tta_dev_primitives.blocks.wire.reply_problems import reply_problem
from tta_dev_primitives.blocks.wire.types import ChatReply, ChatRequest
from tta_dev_primitives.config.errors import ConfigError, LedgerError
from tta_dev_primitives.config.models.targets import Target, Usage
from tta_dev_primitives.config.provider_errors import ErrorClass, LedgerAction, ProviderError

T = TypeVar("T")
_log = logging.getLogger("tta_dev_primitives.ledger")
_GRACE_S = 5.0
"""Seconds that the client's own deadline gets before this one cuts the call off."""


async def guarded_send(
    *,
    ledger: Ledger,
    client_send: Callable[[], Awaitable[ChatReply]],
    target: Target,
    request: ChatRequest,
    call: CallInfo,
    limit: Decimal | None,
    wait_busy_s: float = 30.0,
    turn: Callable[[], AbstractAsyncContextManager[None]] = nullcontext,
    was_sent: Callable[[], bool] = lambda: True,
    ask_date: AskDate | None = None,
) -> GuardedReply:
    """Make one attempt at a provider, with its money accounted for. That its answer is not stored is known before.

    Args:
        call: Its `step_key` is the content key under which the answer is stored.
        client_send: Sends the request; called once at most, after the money is set aside.
        limit: The month's limit in USD now; None: no limit, spending is only recorded.
        ask_date: Asks the provider for its `Date`, without a key; called only when its clock counts.
        turn: Held while the request is open; the wait for it is no part of the call's deadline.
        was_sent: Whether a byte may have left, once `client_send` runs; asked when the call is cut off.

    Raises:
        BudgetExceededError: The month does not allow this call; nothing was sent.
        LedgerError: The ledger cannot be used, is busy, closed this model, or has a wrong clock; nothing was sent.
        UnknownPriceError: The model is paid and has no price; nothing was sent.
        ProviderError: The attempt failed; its money is released, presumed or settled.
    """
    bound = bound_usd(target, request) if target.billing == "paid" else Decimal(0)
    attempt = _Attempt(ledger, target, request, call, turn, was_sent)
    if target.billing == "free":
        return await attempt.free(client_send)
    await ledger.check_clock()
    ceiling, asks = MAX_USD if limit is None else limit, ask_date if vouches(target) else None
    hold = await ledger.reserve(call, bound, ceiling, wait_busy_s=wait_busy_s, ask_date=asks)
    return await attempt.paid(client_send, hold)


@dataclass(frozen=True, slots=True)
class _Attempt:
    ledger: Ledger
    target: Target
    request: ChatRequest
    call: CallInfo
    turn: Callable[[], AbstractAsyncContextManager[None]]
    was_sent: Callable[[], bool]
    shared: bool = False
    """Another process may settle the same call with the same result; it is paid for by whichever was first."""

    async def paid(self, client_send: Callable[[], Awaitable[ChatReply]], hold: Hold) -> GuardedReply:
        sending = False

        async def send() -> ChatReply:
            nonlocal sending
            sending = True
            return await client_send()

        try:
            failpoint("call.before_send")
            reply = await self._send(send)
            failpoint("call.after_send")
        except ProviderError as error:
            await self._finish(self.failed(hold, error))
            raise
        except ConfigError as error:
            # A key or option that is missing: raised before anything is sent.
            await self._finish(self.ledger.release(hold, str(error), outcome="config"))
            raise
        except GeneratorExit:
            # A coroutine that is thrown away may not wait; the sweep charges the bound after the lease.
            raise
        except BaseException as error:
            if not sending or not self.was_sent():
                why = f"{type(error).__name__} before anything was sent"
                await self._finish(self.ledger.release(hold, why))
                raise
            await self._finish(
                self.ledger.charge_at_bound(hold, f"{type(error).__name__} while the call was in flight")
            )
            raise
        return await self.settled(hold, reply)

    async def settled(self, hold: Hold, reply: ChatReply) -> GuardedReply:
        other = other_model(self.target, reply.model_returned)
        bill = bill_of(self.target, self.request, reply.usage, hold.bound, answered=other)
        cost = hold.bound if bill.charge is None else bill.charge
        flag = bill.flag or _model_differs(self.target, reply)
        value = list_value_of(self.target, self.request, reply.usage)
        guarded = GuardedReply(reply, cost, value, hold.id, flag=flag, warning=bill.note)
        if bill.close_key is not None:
            _log.error("%s; no further call goes to %s until `tta ledger resolve`", bill.note, bill.close_key)
        end: dict[str, Any] = {"outcome": self._outcome(guarded, bill), "answer": self._kept(guarded)}
        if bill.charge is None:
            entry = self.ledger.charge_at_bound(hold, "", **end, close_key=bill.close_key)
        else:
            entry = self.ledger.settle(hold, bill.charge, **end, close_key=bill.close_key)
        closed = await self._finish(entry)
        if isinstance(closed, LedgerError):
            unsettled = f"its cost could not be written and is charged at the bound later: {closed}"
            return replace(guarded, cost_usd=hold.bound, flag="unsettled", warning=unsettled)
        if self.shared and not closed.changed:
            return replace(guarded, cost_usd=Decimal(0), reused=True)
        return guarded

    async def failed(self, hold: Hold, error: ProviderError) -> None:
        usage = error.usage if isinstance(error.usage, Usage) else None
        outcome = _failure(error, usage)
        error.add(charged_usd=Decimal(0) if error.ledger_action is LedgerAction.RELEASE else hold.bound)
        if error.ledger_action is LedgerAction.RELEASE:
            await self.ledger.release(hold, str(error), outcome=error.error_class.value, details=outcome)
            return
        if error.ledger_action is LedgerAction.SETTLE and usage is not None:
            usage = checked_usage(self.request, usage)
            bill = bill_of(self.target, self.request, usage, hold.bound)
            if bill.charge is not None:
                outcome = replace(outcome, flag=bill.flag)
                error.add(charged_usd=bill.charge)
                await self.ledger.settle(hold, bill.charge, outcome=outcome, close_key=bill.close_key)
                return
        await self.ledger.charge_at_bound(hold, "", outcome=outcome)

    async def free(self, client_send: Callable[[], Awaitable[ChatReply]]) -> GuardedReply:
        began = time.monotonic()
        try:
            reply = await self._send(client_send)
        except ProviderError as error:
            await self._finish(self.ledger.record_free(self.call, _failure(error, None)))
            raise
        bill = free_bill_of(self.target, self.request, reply.usage)
        billed = bill.charge or Decimal(0)
        if billed:
            _log.error("%s; no further call goes to %s until `tta ledger resolve`", bill.note, bill.close_key)
        flag = bill.flag or _model_differs(self.target, reply)
        value = list_value_of(self.target, self.request, reply.usage)
        guarded = GuardedReply(reply, billed, value, self.call.id, flag=flag, warning=bill.note)
        outcome = self._outcome(guarded, bill)
        kept = await self._finish(
            self.ledger.record_free(
                self.call,
                outcome,
                billed=billed,
                answer=self._kept(guarded),
                seconds=time.monotonic() - began,
            )
        )
        if isinstance(kept, LedgerError):
            return replace(guarded, flag="unrecorded", warning=f"this free call was not recorded: {kept}")
        return guarded

    async def _send(self, client_send: Callable[[], Awaitable[ChatReply]]) -> ChatReply:
        """Send under a deadline that no slow body can outlive; the hold's lease ends a minute later."""
        async with self.turn():
            began = time.monotonic()
            try:
                async with asyncio.timeout(self.call.deadline_s + _GRACE_S):
                    reply = _accepted(self.request, await client_send())
            except TimeoutError as error:
                raise ProviderError(
                    f"{self.target.name}: no whole reply within {self.call.deadline_s:.0f} s; "
                    f"it may have been billed",
                    provider=self.target.provider,
                    model=self.target.name,
                    error_class=ErrorClass.TIMEOUT,
                    ledger_action=LedgerAction.CHARGE_AT_BOUND,
                ) from error
            took_s = time.monotonic() - began
            if vouches(self.target):
                self.ledger.clocks.hear(provider_key(self.target), reply.headers.get("date"), took_s)
                try:
                    await self.ledger.keep_time()
                except LedgerError as error:
                    _log.debug("%s The time that %s gave is not kept.", error, self.target.provider)
            return reply

    async def _finish(self, entry: Coroutine[Any, Any, T]) -> T | LedgerError:
        """Write the end of a call even under cancellation; a ledger that is down is left to the sweep."""
        try:
            return await uninterrupted(entry)
        except LedgerError as error:
            _log.error(
                "%s Call %s stays held and is charged at its bound after its lease.", error, self.call.id
            )
            return error

    def _outcome(self, guarded: GuardedReply, bill: Bill) -> Outcome:
        reply = guarded.reply
        problem = reply_problem(reply)
        untrusted = bill.flag in ("disputed", "usage_invalid")
        return Outcome(
            outcome="ok" if problem is None else problem.value,
            usage=None if untrusted else reply.usage,
            request_id=reply.request_id,
            list_value=guarded.list_value_usd,
            flag=guarded.flag,
            note=bill.note,
            raw_usage=repr(reply.usage) if untrusted else None,
        )

    def _kept(self, guarded: GuardedReply) -> tuple[str, bytes] | None:
        """Whole answers are stored; a cut one only when it was paid for, since asking again costs again."""
        problem = reply_problem(guarded.reply)
        cut = problem is ErrorClass.TRUNCATED and self.target.billing == "paid" and guarded.reply.text.strip()
        key = self.call.step_key
        return (key, encoded_reply(guarded)) if key and (problem is None or cut) else None


def _failure(error: ProviderError, usage: Usage | None) -> Outcome:
    return Outcome(
        outcome=error.error_class.value,
        usage=usage,
        status=error.status,
        request_id=None if error.request_id is None else redact(error.request_id),
        note=str(error),
    )


def _accepted(request: ChatRequest, reply: ChatReply) -> ChatReply:
    """The reply with counts that its text allows and without our keys: a provider may quote what it was sent."""
    reply = with_checked_usage(request, reply)
    texts = {name: getattr(reply, name) for name in _TEXTS}
    masked: dict[str, Any] = {name: mask_keys(text) for name, text in texts.items() if text is not None}
    return reply if masked.items() <= texts.items() else replace(reply, **masked)


_TEXTS = ("text", "reasoning", "raw_finish", "model_returned", "request_id", "reply_id")


def _model_differs(target: Target, reply: ChatReply) -> str | None:
    return None if other_model(target, reply.model_returned) is None else "model_differs"


async def settle_batch_reply(
    ledger: Ledger, target: Target, request: ChatRequest, hold: Hold, step_key: str, reply: ChatReply
) -> GuardedReply:
    """Settle the hold of a batch's request with its reply, and store the answer. Safe to repeat.

    Args:
        target: The model, at the batch price of the submission.
    """
    attempt = _in_batch(ledger, target, request, hold, step_key)
    return await attempt.settled(hold, _accepted(request, reply))


async def settle_batch_failure(
    ledger: Ledger, target: Target, request: ChatRequest, hold: Hold, step_key: str, error: ProviderError
) -> None:
    """End the hold of a request that has no usable reply, as the error says. Safe to repeat."""
    await _in_batch(ledger, target, request, hold, step_key).failed(hold, error)


def _in_batch(ledger: Ledger, target: Target, request: ChatRequest, hold: Hold, step_key: str) -> _Attempt:
    call = replace(CallInfo.of(target, role="", step_key=step_key), id=hold.id)
    return _Attempt(ledger, target, request, call, nullcontext, lambda: True, shared=True)
