"""Layer: who may call now, and how many calls may be open at once.

One task passes an `Admission`, which only counts. A bulk job passes a `BulkAdmission` (`flows.bulk.call_order`).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tta_dev_primitives.blocks.quotas.availability import Blocked
from tta_dev_primitives.blocks.quotas.quota import Slot, tokens_of
from tta_dev_primitives.blocks.wire.types import ChatRequest
from tta_dev_primitives.config.errors import OrchestrationError
from tta_dev_primitives.config.models.targets import Target
from tta_dev_primitives.config.provider_errors import ErrorClass, ProviderError
from tta_dev_primitives.flows.calling.call import Call, Failed, Layer, NotAdmitted, Result

if TYPE_CHECKING:
    from tta_dev_primitives.flows.calling.services import Services

PASSING = frozenset({ErrorClass.QUOTA, ErrorClass.RATE_LIMIT})
"""Refusals that end by themselves."""
_WAITED_FOR = PASSING | {ErrorClass.OVERLOADED}
_AHEAD = 4
"""For so many open calls one more may prepare (take its quota, hold its money), which takes a sixth of a call."""


class PostponedError(OrchestrationError):
    """The job stopped before this task was answered: nothing is wrong with it, the next run does it."""


class Permit:
    """Leave to call one model, held until its first reply is in.

    What follows a reply (its settlement, its checks) holds no permit. A second try needs only a connection.
    """

    __slots__ = ("_connections", "_held", "_permits", "check", "slot", "target")

    def __init__(
        self,
        target: Target,
        slot: Slot | None,
        permits: asyncio.Semaphore,
        connections: asyncio.Semaphore,
        check: Callable[[], None],
    ) -> None:
        self.target = target
        self.check = check
        """Raises when nothing may be sent any more."""
        self.slot = slot
        """The place in the model's quota, when admission has taken it already."""
        self._permits, self._connections = permits, connections
        self._held = True

    @asynccontextmanager
    async def connection(self) -> AsyncGenerator[None]:
        """One of the connections that may be open at once, for the body; the permit ends with it."""
        async with self._connections:
            self.check()
            try:
                yield
            finally:
                self.leave()

    def leave(self) -> None:
        """Give the permit up, if it is still held."""
        if self._held:
            self._held = False
            self._permits.release()


@dataclass(frozen=True, slots=True)
class Chosen:
    """The model that is called, with its place in the quota if one was taken."""

    target: Target
    slot: Slot | None = None


def request_tokens(target: Target, request: ChatRequest) -> int:
    """A guess of what a request counts against the target's token limits, from its length."""
    size = sum(len(m.content) for m in request.messages) + len(request.system or "")
    return tokens_of(target.limits, size // 3 + 16, request.max_output_tokens)


def waits_for(block: Blocked, waits_for_quota: bool) -> bool:
    """Whether a model that is out stays a candidate, since the run waits until it is back."""
    return waits_for_quota and block.error_class in _WAITED_FOR


class Admitted:
    """The layer: gets a permit for the call, and queues again when a free model refuses for want of quota."""

    def __init__(self, then: Layer, services: Services, admission: Admission) -> None:
        self._then, self._services, self._admission = then, services, admission

    async def __call__(self, call: Call) -> Result:
        """What the next layer returns; `NotAdmitted` when no model may be called.

        Raises:
            PostponedError: The job has stopped.
        """
        returns = 0
        while True:
            async with self._admission.enter(self._services, call) as permit:
                if permit is None:
                    return NotAdmitted()
                call.permit, call.target, call.slot = permit, permit.target, permit.slot
                try:
                    outcome = await self._then(call)
                finally:
                    if call.slot is not None:
                        # The answer was stored, or nothing was sent.
                        await self._services.quota.give_back(call.slot)
                        call.slot = None
            if not isinstance(outcome, Failed) or not self._admission.comes_back(
                permit.target, outcome.error, returns
            ):
                return outcome
            call.targets = [permit.target, *(t for t in call.targets if t is not permit.target)]
            returns += 1


class Admission:
    """Lets `permits` calls be open at a time, and a few more prepare: no connection waits for a reservation."""

    def __init__(self, permits: int = 50) -> None:
        self._permits = asyncio.Semaphore(permits + permits // _AHEAD)
        self._connections = asyncio.Semaphore(permits)
        self.under_way = 0
        """Calls that were admitted and have not ended: their quota is taken already."""

    @asynccontextmanager
    async def enter(self, services: Services, call: Call) -> AsyncGenerator[Permit | None]:
        """Wait for a permit and hold it for the body. None: no model may be called."""
        await self._permits.acquire()
        with self.permit_for(Chosen(call.targets[0])) as permit:
            yield permit

    @contextmanager
    def permit_for(self, chosen: Chosen) -> Iterator[Permit]:
        """A permit over a place that was just taken."""
        permit = Permit(chosen.target, chosen.slot, self._permits, self._connections, self.check_open)
        self.under_way += 1
        try:
            yield permit
        finally:
            self.under_way -= 1
            permit.leave()

    def check_open(self) -> None:
        """Raise when nothing new may be started; one task may always go on."""

    def comes_back(self, target: Target, error: ProviderError, returns: int) -> bool:
        """Whether a call whose model refused it for want of quota queues again."""
        return False
