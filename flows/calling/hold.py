"""Layer: the request is built, the month's money is held, the call is sent and settled. Below it is only the client."""

from __future__ import annotations

import asyncio
from decimal import Decimal
from functools import partial
from typing import TYPE_CHECKING

from prefect.context import FlowRunContext, TaskRunContext

from tta_dev_primitives.blocks.ledger.guarded_call import guarded_send
from tta_dev_primitives.blocks.ledger.types import CallInfo
from tta_dev_primitives.blocks.providers.client import Prepared
from tta_dev_primitives.blocks.wire.types import ChatReply
from tta_dev_primitives.config.provider_errors import ProviderError
from tta_dev_primitives.config.reading.api_keys import key_id
from tta_dev_primitives.flows.calling.call import REFUSALS, Answered, Call, Failed, Outcome, refused

if TYPE_CHECKING:
    from tta_dev_primitives.flows.calling.services import Services


class LedgerHold:
    """Holds the cost bound of a paid call and settles it. Nothing is held for a request that cannot be built."""

    def __init__(self, services: Services) -> None:
        self._services = services

    async def __call__(self, call: Call) -> Outcome:
        """The reply with its cost, or why there is none."""
        target, sent = call.target, asyncio.Event()
        try:
            prepared = self._services.client.prepare(target, call.request, key=call.key)
            reply = await guarded_send(
                ledger=self._services.ledger,
                client_send=partial(self._send, call, prepared, sent),
                was_sent=sent.is_set,
                turn=call.permit.connection,
                ask_date=partial(self._services.client.date_of, target),
                target=target,
                request=call.request,
                call=call_info(call, self._services.safety.learning_credit),
                limit=self._services.limit,
            )
        except REFUSALS as refusal:
            return refused(target, refusal)
        except ProviderError as error:
            return Failed(target, error)
        return Answered(target, reply)

    async def _send(self, call: Call, prepared: Prepared, sent: asyncio.Event) -> ChatReply:
        """The provider's reply; `sent` is set when a byte of the request may have left."""
        services = self._services
        try:
            return await services.client.exchange(prepared, on_sent=sent.set, clock=services.clock)
        except ProviderError as error:
            # Before the connection is free: the next call of this model must not be made in vain.
            services.availability.hear(call.target, key_id(call.key), error)
            raise


def call_info(call: Call, learning_credit: Decimal) -> CallInfo:
    """A new attempt of a call, with the runs that it belongs to and what pays for it."""
    pays = call.pays(call.target)
    flow, task = FlowRunContext.get(), TaskRunContext.get()
    return CallInfo.of(
        call.target,
        role=call.role,
        use_case=call.use_case,
        step_key=call.step_key,
        flow_run_id=str(flow.flow_run.id) if flow is not None and flow.flow_run is not None else None,
        task_run_id=str(task.task_run.id) if task is not None else None,
        extra=pays if pays in ("savings", "credit", "choice") else None,
        credit=learning_credit if pays == "credit" else Decimal(0),
    )
