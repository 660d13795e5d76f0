"""Which call of a bulk job goes next, and to which model.

A task goes to the first of its free models that has quota at this moment. When none has, the job waits, sleeps,
spends or stops (`flows.bulk.quota_wait`).
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tta_dev_primitives.blocks.quotas.availability import Blocked
from tta_dev_primitives.blocks.quotas.quota import Slot
from tta_dev_primitives.config.errors import MissingKeyError
from tta_dev_primitives.config.models.targets import Target
from tta_dev_primitives.config.provider_errors import ErrorClass, ProviderError
from tta_dev_primitives.config.reading.api_keys import key_id
from tta_dev_primitives.flows.bulk.quota_wait import IN_PROCESS_S, Decision, Step, decide
from tta_dev_primitives.flows.calling.admission import (
    PASSING,
    Admission,
    Chosen,
    Permit,
    PostponedError,
    request_tokens,
)
from tta_dev_primitives.flows.calling.call import Call

if TYPE_CHECKING:
    from tta_dev_primitives.flows.calling.services import Services

_FINAL = frozenset({ErrorClass.AUTH, ErrorClass.MODEL_GONE})
"""No wait brings these back: the call itself goes to the replacement or the next model."""
_MOST_RETURNS = 25
"""How often one task may queue again after a provider's own refusal; then it counts as a failure."""
_NAP_S = 5.0
_LONGEST_NAP_S = 300.0
"""Quota may be given back and a limit may be raised: no wait is longer than this without looking."""
_BELIEVED_S = 1.0


@dataclass(frozen=True, slots=True)
class _NoQuota:
    """No free model can be called before so many seconds have passed."""

    seconds: float


class BulkAdmission(Admission):
    """The admission of one bulk job.

    Args:
        patience_s: How long the job may wait for free quota before it may spend; infinity: it never does.
        waited_s: How much of that earlier runs of the job have used up.
        until: Epoch seconds after which nothing new is started.
        in_process_s: The longest wait in this process; a longer one closes the admission until then.
    """

    def __init__(
        self,
        permits: int,
        *,
        patience_s: float = 0.0,
        waited_s: float = 0.0,
        until: float = math.inf,
        in_process_s: float = IN_PROCESS_S,
        clock: Callable[[], float] = time.time,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        super().__init__(permits)
        self.patience_s = patience_s
        self.until = until
        self.closed: PostponedError | None = None
        """Why nothing new is started; None while it is open."""
        self.opens_at: float | None = None
        """Epoch seconds at which free quota comes back, when that is why it is closed."""
        self.waiting_until: float | None = None
        """Epoch seconds until which the job waits now, for the progress line."""
        self._in_process_s = in_process_s
        self._clock, self._sleep = clock, sleep
        self._blocked: dict[tuple[str, ...], tuple[float, asyncio.Future[dict[str, Blocked]]]] = {}
        self._turns: dict[tuple[str, ...], asyncio.Lock] = {}
        self._stop = asyncio.Event()
        self._waited_s = waited_s
        self._sleepers = 0
        self._since = 0.0

    @property
    def waited_s(self) -> float:
        """Seconds that the job has waited for quota, in all."""
        return self._waited_s + (self._clock() - self._since if self._sleepers else 0.0)

    def close(self, reason: str, *, opens_at: float | None = None) -> None:
        """Start nothing new; what is under way ends. The first reason stays."""
        if self.closed is None:
            self.closed = PostponedError(reason)
            self.opens_at = opens_at
            self._stop.set()

    async def stopped(self) -> None:
        """Wait until nothing new is started."""
        await self._stop.wait()

    def check_open(self) -> None:
        """Raise when nothing new may be started.

        Raises:
            PostponedError: The job has stopped, or the deadline has passed.
        """
        if self.closed is None and self._clock() >= self.until:
            self.close("the deadline has passed")
        if self.closed is not None:
            raise self.closed

    def comes_back(self, target: Target, error: ProviderError, returns: int) -> bool:
        """True when a free model refused for want of quota: the task waits for it as for our own scheduler."""
        self._blocked.clear()
        return target.billing == "free" and error.error_class in PASSING and returns < _MOST_RETURNS

    @asynccontextmanager
    async def enter(self, services: Services, call: Call) -> AsyncGenerator[Permit | None]:
        """As `Admission.enter`, for the first of the leading free models that has quota.

        Raises:
            PostponedError: The job has stopped.
        """
        # A job's plan is made before its tasks: it does not queue for the quota that they wait for.
        free = [] if call.role == "plan" else _leading_free(call.targets)
        rest = call.targets[len(free) :]
        chosen = await self._admit(services, free, call, call.may_spend or bool(rest)) if free else None
        if chosen is None:
            if not rest:
                yield None
                return
            await self._take_permit()
            chosen = Chosen(rest[0])
        with self.permit_for(chosen) as permit:
            yield permit

    async def _take_permit(self) -> None:
        self.check_open()
        await self._permits.acquire()
        try:
            self.check_open()
        except PostponedError:
            self._permits.release()
            raise

    async def _admit(
        self, services: Services, free: Sequence[Target], call: Call, may_spend: bool
    ) -> Chosen | None:
        """A place and a slot at one of the free models; None when the job will not wait for one."""
        turn = self._turns.setdefault(tuple(target.key for target in free), asyncio.Lock())
        if not turn.locked():
            got = await self._try(services, free, call)
            if isinstance(got, Chosen):
                return got
        # One task at a time asks again and again; the others queue up behind it, in order.
        async with turn:
            while True:
                got = await self._try(services, free, call)
                if isinstance(got, Chosen):
                    return got
                if not await self._wait(got.seconds, may_spend):
                    return None

    async def _try(self, services: Services, free: Sequence[Target], call: Call) -> Chosen | _NoQuota:
        """A place with a slot, or when one of the models is free. The slot is taken last."""
        await self._take_permit()
        chosen: Chosen | None = None
        try:
            found = await self._slot(services, free, call)
            if isinstance(found, _NoQuota):
                return found
            chosen = found
            return chosen
        finally:
            if chosen is None:
                self._permits.release()

    async def _slot(self, services: Services, free: Sequence[Target], call: Call) -> Chosen | _NoQuota:
        keyed: list[tuple[Target, str]] = []
        for target in free:
            try:
                keyed.append((target, key_id(await services.keys.key_of(target))))
            except MissingKeyError:
                return Chosen(target)  # the call itself says what is missing
        blocked = await self._out(services, keyed)
        for target, _ in keyed:
            if target.key in blocked and blocked[target.key].error_class in _FINAL:
                return Chosen(target)
        open_now = [(target, name) for target, name in keyed if target.key not in blocked]
        now = self._clock()
        soonest = min((max(0.05, b.until - now) for b in blocked.values()), default=math.inf)
        if not open_now:
            return _NoQuota(soonest)
        tokens = max(request_tokens(target, call.request_of(target)) for target, _ in open_now)
        got = await services.quota.acquire_first(open_now, tokens)
        return Chosen(got.target, got) if isinstance(got, Slot) else _NoQuota(min(got.seconds, soonest))

    async def _out(self, services: Services, keyed: Sequence[tuple[Target, str]]) -> Mapping[str, Blocked]:
        """Which models are out, as of a second ago at most: a job asks this before every call."""
        names = tuple(target.key for target, _ in keyed)
        at, asked = self._blocked.get(names, (-math.inf, None))
        now = self._clock()
        if asked is None or now - at > _BELIEVED_S:
            # Kept before the answer is there, so that calls that come meanwhile wait for the same one.
            asked = asyncio.ensure_future(services.availability.blocked(keyed))
            self._blocked[names] = (now, asked)
        return {key: block for key, block in (await asyncio.shield(asked)).items() if block.until > now}

    async def _wait(self, seconds: float, may_spend: bool) -> bool:
        """Wait for free quota; False when the job will not.

        Raises:
            PostponedError: It sleeps until the quota is back, or there is no time left.
        """
        now = self._clock()
        decision = decide(
            seconds,
            self.patience_s,
            waited_s=self.waited_s,
            may_spend=may_spend,
            deadline_s=max(0.0, self.until - now),
            in_process_s=self._in_process_s,
        )
        if decision.step is Step.SPEND or math.isinf(seconds):
            return False
        if decision.step in (Step.SLEEP, Step.STOP):
            self._close_for(decision, now)
        self.check_open()
        await self._nap(
            min(max(seconds, 0.05), max(_NAP_S, min(seconds / 10, _LONGEST_NAP_S))), now + seconds
        )
        self.check_open()
        return True

    def _close_for(self, decision: Decision, now: float) -> None:
        if decision.step is Step.SLEEP:
            self.close(decision.reason, opens_at=now + decision.seconds)
        else:
            self.close(f"{decision.reason}, which is after the deadline")

    async def _nap(self, seconds: float, until: float) -> None:
        if not self._sleepers:
            self._since = self._clock()
        self._sleepers += 1
        self.waiting_until = until
        nap = asyncio.ensure_future(self._sleep(seconds))
        stop = asyncio.ensure_future(self._stop.wait())
        try:
            await asyncio.wait([nap, stop], return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (nap, stop):
                task.cancel()
            self._sleepers -= 1
            if not self._sleepers:
                self._waited_s += self._clock() - self._since
                self.waiting_until = None


def _leading_free(targets: Sequence[Target]) -> list[Target]:
    free: list[Target] = []
    for target in targets:
        if target.billing != "free":
            break
        free.append(target)
    return free
