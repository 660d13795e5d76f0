"""The gate before every provider call: how many may be open at once, and which free model has quota now.

One task passes a `Gate`, which only counts. A bulk job passes a `BulkGate`: a task goes to the first of its free
models that has quota at this moment, and when none has, the job waits, sleeps, spends or stops (blocks.patience).
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol

from pydantic import SecretStr

from tta_dev_primitives.blocks.credentials.key_ids import key_id
from tta_dev_primitives.blocks.quotas.availability import Availability, Blocked
from tta_dev_primitives.blocks.quotas.quota import Quota, Slot, tokens_of
from tta_dev_primitives.blocks.quotas.wait_policy import IN_PROCESS_S, Decision, Step, decide
from tta_dev_primitives.blocks.wire.types import ChatRequest
from tta_dev_primitives.config.errors import ErrorClass, MissingKeyError, OrchestrationError, ProviderError
from tta_dev_primitives.config.models.targets import Target

__all__ = ["BulkGate", "Entry", "Gate", "PostponedError", "on_the_wire", "request_tokens"]

_PASSING = frozenset({ErrorClass.QUOTA, ErrorClass.RATE_LIMIT})
_FINAL = frozenset({ErrorClass.AUTH, ErrorClass.MODEL_GONE})
"""No wait brings these back: the call itself goes to the replacement or the next model."""
_MOST_RETURNS = 25
"""How often one task may come back to the gate after a provider's own refusal; then it counts as a failure."""
_NAP_S = 5.0
_LONGEST_NAP_S = 300.0
"""Somebody may give quota back, or a person may raise a limit: nobody sleeps longer without looking."""
_BELIEVED_S = 1.0
_AHEAD = 4
"""For so many open calls one more may prepare (take its quota, set its money aside), which takes a sixth of a call."""


class PostponedError(OrchestrationError):
    """The job stopped before this task was answered: nothing is wrong with it, the next run does it."""


@dataclass(frozen=True, slots=True)
class Entry:
    """Leave to call one model. `target` None: no model of the list has quota, and the job will not wait."""

    target: Target | None
    slot: Slot | None = None
    """The place in the model's quota, when the gate has taken it already."""


class Place:
    """One of the calls that have passed the gate, held until its first reply is in.

    What follows a reply (its settlement, its checks) holds no place. A second try needs only the wire.
    """

    __slots__ = ("_held", "_places", "wire")

    def __init__(self, places: asyncio.Semaphore, wire: asyncio.Semaphore) -> None:
        self._places = places
        self._held = True
        self.wire = wire
        """How many requests may be open."""

    def leave(self) -> None:
        """Give the place up, if it is still held."""
        if self._held:
            self._held = False
            self._places.release()


_PLACE: ContextVar[Place | None] = ContextVar("tta_place", default=None)


def on_the_wire() -> _OnTheWire:
    """Around the sending of one request: its turn on the wire, if the caller went through a gate."""
    return _OnTheWire()


class _OnTheWire:
    __slots__ = ("_place",)

    async def __aenter__(self) -> None:
        self._place = _PLACE.get()
        if self._place is not None:
            await self._place.wire.acquire()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._place is not None:
            self._place.wire.release()
            self._place.leave()


class Needs(Protocol):
    """What a gate uses of a runtime."""

    quota: Quota
    availability: Availability

    async def key_of(self, target: Target) -> SecretStr:
        """The target's key."""


RequestOf = Callable[[Target], ChatRequest]


def request_tokens(target: Target, request: ChatRequest) -> int:
    """A guess of what a request counts against the target's token limits, from its length."""
    size = sum(len(m.content) for m in request.messages) + len(request.system or "")
    return tokens_of(target.limits, size // 3 + 16, request.max_output_tokens)


class Gate:
    """Lets `places` calls be open at a time, and a few more prepare: a wire must not wait for a reservation."""

    def __init__(self, places: int = 50) -> None:
        self._places = asyncio.Semaphore(places + places // _AHEAD)
        self._wire = asyncio.Semaphore(places)
        self.under_way = 0
        """Tasks that have passed and not come out again: their quota is taken already."""

    @asynccontextmanager
    async def enter(
        self, runtime: Needs, targets: Sequence[Target], request_of: RequestOf, *, may_spend: bool
    ) -> AsyncGenerator[Entry]:
        """Wait for a place and hold it for the body.

        Args:
            runtime: Quotas and keys.
            targets: The models that may be asked, in order of preference; at least one.
            request_of: What each would be asked.
            may_spend: Whether a paid model would be asked if no free one is left.
        """
        await self._places.acquire()
        with self._placed():
            yield Entry(targets[0])

    @contextmanager
    def _placed(self) -> Iterator[None]:
        """Keep a place that was just taken for the calls of the body."""
        place = Place(self._places, self._wire)
        token = _PLACE.set(place)
        self.under_way += 1
        try:
            yield
        finally:
            self.under_way -= 1
            _PLACE.reset(token)
            place.leave()

    def comes_back(self, target: Target, error: ProviderError, returns: int) -> bool:
        """Whether a task whose model refused it for want of quota queues up again."""
        return False


class BulkGate(Gate):
    """The gate of one bulk job.

    Args:
        places: Calls open at once.
        patience_s: How long the job may wait for free quota before it may spend; infinity: it never does.
        waited_s: How much of that earlier runs of the job have used up.
        until: Epoch seconds after which nothing new is started.
        in_process_s: The longest wait in this process; a longer one closes the gate until then.
        clock: Epoch seconds.
        sleep: How to wait.
    """

    def __init__(
        self,
        places: int,
        *,
        patience_s: float = 0.0,
        waited_s: float = 0.0,
        until: float = math.inf,
        in_process_s: float = IN_PROCESS_S,
        clock: Callable[[], float] = time.time,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        super().__init__(places)
        self.patience_s = patience_s
        self.until = until
        self.closed: PostponedError | None = None
        """Why nothing new is started; None while the gate is open."""
        self.opens_at: float | None = None
        """Epoch seconds at which free quota comes back, when that is why the gate is closed."""
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

    def check_open(self) -> None:
        """Raise when nothing new may be started.

        Raises:
            PostponedError: The gate is closed, or the deadline has passed.
        """
        if self.closed is None and self._clock() >= self.until:
            self.close("the deadline has passed")
        if self.closed is not None:
            raise self.closed

    def comes_back(self, target: Target, error: ProviderError, returns: int) -> bool:
        """True when a free model refused for want of quota: the task waits for it as for our own scheduler."""
        self._blocked.clear()
        return target.billing == "free" and error.error_class in _PASSING and returns < _MOST_RETURNS

    @asynccontextmanager
    async def enter(
        self, runtime: Needs, targets: Sequence[Target], request_of: RequestOf, *, may_spend: bool
    ) -> AsyncGenerator[Entry]:
        """As `Gate.enter`, at the first of the leading free models that has quota.

        Raises:
            PostponedError: The job has stopped.
        """
        free = _leading_free(targets)
        rest = targets[len(free) :]
        entry = await self._admit(runtime, free, request_of, may_spend or bool(rest)) if free else None
        if entry is None:
            if free and not rest:
                yield Entry(None)
                return
            await self._place()
            entry = Entry(rest[0])
        with self._placed():
            yield entry

    async def _place(self) -> None:
        self.check_open()
        await self._places.acquire()
        try:
            self.check_open()
        except PostponedError:
            self._places.release()
            raise

    async def _admit(
        self, runtime: Needs, free: Sequence[Target], request_of: RequestOf, may_spend: bool
    ) -> Entry | None:
        """A place and a slot at one of the free models; None when the job will not wait for one."""
        turn = self._turns.setdefault(tuple(target.key for target in free), asyncio.Lock())
        if not turn.locked():
            got = await self._try(runtime, free, request_of)
            if isinstance(got, Entry):
                return got
        # One task at a time asks again and again; the others queue up behind it, in order.
        async with turn:
            while True:
                got = await self._try(runtime, free, request_of)
                if isinstance(got, Entry):
                    return got
                if not await self._wait(got, may_spend):
                    return None

    async def _try(self, runtime: Needs, free: Sequence[Target], request_of: RequestOf) -> Entry | float:
        """A place with a slot, or the seconds until one of the models is free. The slot is taken last."""
        await self._place()
        entry: Entry | None = None
        try:
            found = await self._slot(runtime, free, request_of)
            if isinstance(found, float):
                return found
            entry = found
            return entry
        finally:
            if entry is None:
                self._places.release()

    async def _slot(self, runtime: Needs, free: Sequence[Target], request_of: RequestOf) -> Entry | float:
        keyed: list[tuple[Target, str]] = []
        for target in free:
            try:
                keyed.append((target, key_id(await runtime.key_of(target))))
            except MissingKeyError:
                return Entry(target)  # the call itself says what is missing
        blocked = await self._out(runtime, keyed)
        for target, _ in keyed:
            if target.key in blocked and blocked[target.key].error_class in _FINAL:
                return Entry(target)
        open_now = [(target, name) for target, name in keyed if target.key not in blocked]
        now = self._clock()
        soonest = min((max(0.05, b.until - now) for b in blocked.values()), default=math.inf)
        if not open_now:
            return soonest
        tokens = max(request_tokens(target, request_of(target)) for target, _ in open_now)
        got = (await runtime.quota.acquire_many(open_now, [tokens], priority="bulk"))[0]
        return Entry(got.target, got) if isinstance(got, Slot) else min(got.seconds, soonest)

    async def _out(self, runtime: Needs, keyed: Sequence[tuple[Target, str]]) -> Mapping[str, Blocked]:
        """Which models are out, as of a second ago at most: a job asks this before every call."""
        names = tuple(target.key for target, _ in keyed)
        at, asked = self._blocked.get(names, (-math.inf, None))
        now = self._clock()
        if asked is None or now - at > _BELIEVED_S:
            # Kept before the answer is there, so that all who come meanwhile wait for the same one.
            asked = asyncio.ensure_future(runtime.availability.blocked(keyed))
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
