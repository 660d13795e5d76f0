"""Layer: a model that is out is not called; a call takes a place in the model's quota and reports what it taught."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any

from tta_dev_primitives.blocks.quotas.quota import Slot, Wait
from tta_dev_primitives.blocks.quotas.windows import Priority
from tta_dev_primitives.blocks.wire.retry_after import MAX_WAIT_S
from tta_dev_primitives.config.errors import LedgerError, MissingKeyError, OrchestrationError
from tta_dev_primitives.config.models.targets import Target
from tta_dev_primitives.config.provider_errors import ErrorClass, LedgerAction, ProviderError
from tta_dev_primitives.config.reading.api_keys import key_id
from tta_dev_primitives.flows.calling.admission import request_tokens, waits_for
from tta_dev_primitives.flows.calling.call import Answered, Call, Failed, Layer, Outcome, refused

if TYPE_CHECKING:
    from tta_dev_primitives.flows.calling.services import Services

_LOG = logging.getLogger("tta_dev_primitives.runtime")


class QuotaSlots:
    """Takes a slot for each call. A call that never left gives its slot back."""

    def __init__(self, then: Layer, services: Services, *, priority: Priority, waits: bool) -> None:
        self._then, self._services = then, services
        self._priority: Priority = priority
        self._waits = waits
        """Whether the run waits for models that are out for want of quota."""

    async def __call__(self, call: Call) -> Outcome:
        """What the next layer returns, or a failure when the model is out or its quota is used up."""
        target = call.target
        try:
            call.key = await self._services.keys.key_of(target)
        except MissingKeyError as missing:
            return refused(target, missing)
        out = self._services.availability.known(target, key_id(call.key))
        if out is not None and not waits_for(out, self._waits):
            # What an earlier call of this run has learned: no second event is emitted.
            return Failed(target, _not_sent(target, out.reason, error_class=out.error_class, known=True))
        got: Slot | Wait
        if call.slot is not None:
            got, call.slot = call.slot, None
        else:
            got = await self._acquire(call)
        if isinstance(got, Wait):
            why = f"{target.name}: its quota ({got.limit}) is used up; free again in {got.seconds:.0f} s"
            return Failed(target, _not_sent(target, why, retry_after_s=got.seconds, own_quota=True))
        try:
            outcome = await self._then(call)
        except OrchestrationError:
            # Refused before anything was sent; a call that was cancelled on its way stays counted.
            await self._services.quota.give_back(got)
            raise
        await self._learn(call, got, outcome)
        return outcome

    async def _acquire(self, call: Call) -> Slot | Wait:
        wait_s = min(max(0.0, call.until - time.monotonic()), MAX_WAIT_S)
        tokens = request_tokens(call.target, call.request)
        return await self._services.quota.acquire(
            call.target, key_id(call.key), tokens, priority=self._priority, max_wait_s=wait_s
        )

    async def _learn(self, call: Call, slot: Slot, outcome: Outcome) -> None:
        """Keep what the call says about quotas and availability; no answer is lost for want of that."""
        services, name = self._services, key_id(call.key)
        try:
            match outcome:
                case Answered(reply=guarded):
                    await services.quota.done(slot, guarded.reply.usage, guarded.reply.headers)
                    await services.availability.record_success(call.target, name, sent_at=slot.at)
                case Failed(error=error):
                    if error.sent:
                        await services.quota.done(slot, error=error)
                    else:
                        await services.quota.give_back(slot)
                    await services.availability.record_failure(call.target, name, error)
                    if error.error_class is ErrorClass.AUTH:
                        services.keys.forget()
        except LedgerError as down:
            _LOG.warning("what this call says about %s is not kept: %s", call.target.name, down)


def _not_sent(
    target: Target, reason: str, *, error_class: ErrorClass = ErrorClass.QUOTA, **facts: Any
) -> ProviderError:
    return ProviderError(
        reason,
        provider=target.provider,
        model=target.name,
        error_class=error_class,
        ledger_action=LedgerAction.RELEASE,
        sent=False,
        **facts,
    )
