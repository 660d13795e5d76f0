"""Layer: a paid call of a batch job is not sent; it waits for a batch, where its provider has a batch API."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Protocol

from tta_dev_primitives.blocks.wire.batches.formats import batch_format
from tta_dev_primitives.flows.calling.call import Call, Layer, Outcome


class Batches(Protocol):
    """Where the paid calls of a batch job wait."""

    def counted(self) -> AbstractContextManager[None]:
        """The body is a call of the job: no batch is submitted while one of them may still join it."""

    def takes(self, call: Call) -> bool:
        """Whether the call's model is asked in batches now."""

    async def ask(self, call: Call) -> Outcome | None:
        """The outcome from a batch; None: the next layer has the answer in its store, or must send the call."""


class Batched:
    """Hands paid calls to `batches`. The job's plan is sent at once: every task waits for it."""

    def __init__(self, then: Layer, batches: Batches) -> None:
        self._then, self._batches = then, batches

    async def __call__(self, call: Call) -> Outcome:
        """The outcome of the batch, or what the next layer returns."""
        call.batched = False
        if call.role == "plan" or batch_format(call.target) is None or not self._batches.takes(call):
            return await self._then(call)
        # It holds no place: the calls that share its batch must all be able to wait.
        call.permit.leave()
        outcome = await self._batches.ask(call)
        if outcome is None:
            return await self._then(call)
        call.batched = True
        return outcome
