"""The paid calls of a batch job: they wait until the job has nothing else to do, then go out together.

A call that waits is parked. When every call of the job is parked, and none has moved for a moment, the parked ones
are submitted: one batch for each model and key. The driver looks at open batches at growing intervals and gives each
call its outcome. Whenever it guesses the end of a round wrongly, a batch is smaller than it could be, nothing else.
"""

from __future__ import annotations

import asyncio
import logging
import math
import uuid
from collections.abc import Awaitable, Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from decimal import Decimal

from tta_dev_primitives.blocks.ledger.batches import Batch, BatchCall, Opened
from tta_dev_primitives.blocks.ledger.money import MAX_USD
from tta_dev_primitives.blocks.ledger.stored_replies import GuardedReply, content_key
from tta_dev_primitives.config.errors import (
    LedgerBusyError,
    MissingKeyError,
    OrchestrationError,
    UnknownPriceError,
)
from tta_dev_primitives.config.provider_errors import ProviderError
from tta_dev_primitives.config.reading.api_keys import key_id
from tta_dev_primitives.flows.bulk.batch_lifecycle import (
    Looked,
    NotRun,
    ProviderBatches,
    Settled,
    encode_request,
    new_batch,
)
from tta_dev_primitives.flows.bulk.call_order import BulkAdmission
from tta_dev_primitives.flows.bulk.parked_calls import InStore, OneByOne, ParkedCall, mark_shared, park, parts
from tta_dev_primitives.flows.bulk.quota_wait import span_text
from tta_dev_primitives.flows.calling.admission import PostponedError
from tta_dev_primitives.flows.calling.call import Answered, Call, Failed, Outcome, refused
from tta_dev_primitives.flows.calling.job_budget import JobBudget
from tta_dev_primitives.flows.calling.services import Services

_LOG = logging.getLogger("tta_dev_primitives.bulk")
MOST_TASKS = 10_000
"""Tasks of a batch job that are under way at once."""
_LAST_LOOK_S = 60.0
"""A run that is suspended goes on so long before its deadline at the latest."""
_BUSY_TRIES = 30
_NO_BATCHES = frozenset({404, 405, 501})


@dataclass(slots=True)
class _Open:
    """A batch that calls of this job wait for."""

    next_look: float
    since: float
    """When it was submitted, as far as this run knows."""
    waiting: dict[str, list[ParkedCall]] = field(default_factory=dict)
    """By content key."""
    held: set[str] = field(default_factory=set)
    """Content keys whose bounds count as held in the job's budget."""
    words: str = "submitted"


@dataclass(slots=True)
class BatchRounds:
    """The parked calls and open batches of one run of a job."""

    services: Services
    """The job's, with its clock."""
    batches: ProviderBatches
    admission: BulkAdmission
    budget: JobBudget
    wait_s: float
    """How long the run waits for its batches before it ends and says when to go on."""
    patience_s: float
    """How old a batch may become before the job stops waiting for it, over all runs."""
    change_before: Callable[[], Awaitable[Decimal]]
    """By how much the cost of earlier runs has changed: their holds end when a batch is collected."""
    runs: Callable[[], Collection[str | None]]
    """Flow runs of this job, this one included."""
    _under_way: int = 0
    _waiting: int = 0
    _moves: int = 0
    _moved: asyncio.Event = field(default_factory=asyncio.Event)
    _parked: list[ParkedCall] = field(default_factory=list)
    _open: dict[str, _Open] = field(default_factory=dict)
    _one_by_one: set[str] = field(default_factory=set)
    _busy_tries: int = 0
    _idle_since: float | None = None

    @contextmanager
    def counted(self) -> Iterator[None]:
        """The body is a call of the job."""
        self._under_way += 1
        self._move()
        try:
            yield
        finally:
            self._under_way -= 1
            self._move()

    def takes(self, call: Call) -> bool:
        """Whether the call's model is asked in batches now."""
        return call.target.key not in self._one_by_one

    async def ask(self, call: Call) -> Outcome | None:
        """Wait for the outcome from a batch.

        Raises:
            PostponedError: The job stopped first, or the request was canceled or expired; the next run goes on.
        """
        self.admission.check_open()
        step_key = content_key(call.target, call.request)
        if await self.services.ledger.lookup(step_key) is not None:
            self._look_again(step_key)
            return None
        try:
            parked = await park(self.services, call, step_key)
        except (MissingKeyError, UnknownPriceError) as why:
            return refused(call.target, why)
        except ProviderError as error:
            return Failed(call.target, error)
        self._parked.append(parked)
        self._waiting += 1
        self._move()
        try:
            return await parked.future
        except (InStore, OneByOne):
            self._look_again(step_key)
            return None
        finally:
            self._waiting -= 1
            self._move()

    def _look_again(self, step_key: str) -> None:
        """The next layer must look into the store itself: it may have found the answer missing before it came."""
        self.services.answers.missing.pop(step_key, None)

    def _move(self) -> None:
        self._moves += 1
        self._moved.set()

    @property
    def _idle(self) -> bool:
        return self._under_way <= self._waiting

    def state(self) -> str | None:
        """How the batches are, for the progress line; None when there is none."""
        if not self._open:
            return None
        requests = sum(len(batch.waiting) for batch in self._open.values())
        words = next(iter(self._open.values())).words
        soonest = min(batch.next_look for batch in self._open.values()) - self.services.clock()
        count = len(self._open)
        return (
            f"{count} batch{'es' if count != 1 else ''} of {requests} requests at the provider ({words}), next look "
            f"in {span_text(max(0.0, soonest))}"
        )

    async def run(self) -> None:
        """Submit, look and give outcomes until cancelled; a failure is given to every call that waits."""
        try:
            while True:
                await self._step()
        except OrchestrationError as error:
            self._fail_all(error)
            raise
        except Exception as error:
            self._fail_all(OrchestrationError(f"batches: unexpected {type(error).__name__}"))
            raise

    def _fail_all(self, error: Exception) -> None:
        at_providers = (p for b in self._open.values() for calls in b.waiting.values() for p in calls)
        for parked in (*self._parked, *at_providers):
            parked.fail(error)

    async def _step(self) -> None:
        self._moved.clear()
        now = self.services.clock()
        if now >= self.admission.until:
            if self.admission.closed is None and self._open:
                await self._look(list(self._open))
            self.admission.close("the deadline has passed")
        if self.admission.closed is not None:
            self._fail_all(PostponedError(str(self.admission.closed)))
            await self._moved.wait()
            return
        due = [name for name, batch in self._open.items() if batch.next_look <= now]
        if due:
            await self._look(due)
            return
        if self._parked and self._idle:
            before = self._moves
            await asyncio.sleep(self.batches.timing.quiet_s)
            if before == self._moves and self._idle:
                await self._submit()
            return
        if self._open and self._idle:
            self._suspend_when_long(now)
            if self.admission.closed is not None:
                return
        else:
            self._idle_since = None
        await self._nap(now)

    def _suspend_when_long(self, now: float) -> None:
        """End the run when all that is left is waiting, and that takes longer than a process should wait.

        A run that is to go on goes on before the deadline, for a last look.
        """
        if self._idle_since is None:
            self._idle_since = now
        soonest = min(batch.next_look for batch in self._open.values())
        soonest = min(soonest, self.admission.until - _LAST_LOOK_S)
        if soonest - self._idle_since > self.wait_s:
            self.admission.close(f"waits for {len(self._open)} batch(es) at the provider", opens_at=soonest)

    async def _nap(self, now: float) -> None:
        """Until a call moves, a batch is due, the deadline comes or the job stops."""
        looks = [batch.next_look for batch in self._open.values()]
        seconds = min([*looks, self.admission.until], default=math.inf) - now
        waits = [asyncio.ensure_future(self._moved.wait()), asyncio.ensure_future(self.admission.stopped())]
        if math.isfinite(seconds):
            waits.append(asyncio.ensure_future(self.services.sleep(max(0.0, seconds))))
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()

    # --- submit

    async def _submit(self) -> None:
        self._parked = [parked for parked in self._parked if not parked.future.done()]
        groups: dict[tuple[str, str], list[ParkedCall]] = {}
        for parked in self._parked:
            groups.setdefault((parked.target.key, key_id(parked.key)), []).append(parked)
        held_before = len(self._open)
        progressed = False
        for group in groups.values():
            for part in parts(group, self.budget):
                progressed |= await self._submit_part(part)
        if progressed or held_before:
            self._busy_tries = 0
            if not progressed:
                await self._nap(self.services.clock())
            return
        # Only holds of others stand in the way: as for single calls, wait a little, then give up.
        self._busy_tries += 1
        if self._busy_tries < _BUSY_TRIES:
            await asyncio.sleep(1.0)

    async def _submit_part(self, part: Sequence[ParkedCall]) -> bool:
        """Whether anything has changed by it."""
        first, name = part[0], f"tta-{uuid.uuid4().hex}"
        mark_shared(part)
        calls = [BatchCall(p.info, p.bound, encode_request(p.call.request)) for p in part]
        try:
            opened = await self.batches.submit(
                new_batch(name, first.target, first.key),
                first.target,
                calls,
                {p.info.id: p.line for p in part},
            )
        except ProviderError as error:
            if error.status in _NO_BATCHES:
                self._send_alone(part, error)
                return True
            error.add(charged_usd=Decimal(0))
            for parked in part:
                parked.give(Failed(parked.target, error))
            return True
        except (MissingKeyError, LedgerBusyError) as why:
            for parked in part:
                parked.give(refused(parked.target, why))
            return True
        return await self._opened(name, part, opened)

    def _send_alone(self, part: Sequence[ParkedCall], error: ProviderError) -> None:
        target = part[0].target
        _LOG.warning(
            "%s: no batch API at this address (%s); its calls are sent one by one", target.name, error
        )
        self._one_by_one.add(target.key)
        part[0].call.note(f"{target.name}: no batch API at its address: its calls were sent one by one")
        for parked in list(self._parked):
            if parked.target.key == target.key:
                parked.fail(OneByOne())

    async def _opened(self, name: str, part: Sequence[ParkedCall], opened: Opened) -> bool:
        changed, joined, same = False, set[str](), dict[str, list[ParkedCall]]()
        for parked in self._parked:
            same.setdefault(parked.step_key, []).append(parked)
        for parked in part:
            key = parked.step_key
            if parked.info.id in opened.held:
                self._join(name, key, same[key])
                joined.add(key)
                self._open[name].held.add(key)
                self.budget.held += parked.bound
            elif key in opened.elsewhere:
                self._join(opened.elsewhere[key], key, same[key])
                joined.add(key)
            elif key in opened.stored:
                parked.fail(InStore())
            elif parked.info.id in opened.short:
                parked.give(refused(parked.target, opened.short[parked.info.id]))
            elif parked.info.id in opened.refused:
                found = opened.refused[parked.info.id]
                if found.reason == "busy" and (self._open or self._busy_tries + 1 < _BUSY_TRIES):
                    continue  # it goes out when other holds have ended
                limit = MAX_USD if self.services.limit is None else self.services.limit
                why = await self.services.ledger.refusal(found, parked.bound, limit)
                parked.give(refused(parked.target, why))
            changed = True
        gone = {id(parked) for key in joined for parked in same[key]}
        self._parked = [p for p in self._parked if id(p) not in gone and not p.future.done()]
        return changed

    def _join(self, name: str, step_key: str, calls: Sequence[ParkedCall]) -> None:
        """Let a call, and all that ask the same, wait for a batch."""
        batch = self._open.get(name)
        if batch is None:
            now = self.services.clock()
            batch = self._open[name] = _Open(
                now + min(self.batches.timing.first_s, self.patience_s), since=now
            )
        batch.waiting.setdefault(step_key, []).extend(calls)

    # --- look

    async def _look(self, due: Sequence[str]) -> None:
        for batch in await self.services.ledger.batches(ids=list(due)):
            looked = await self.batches.look(batch)
            if looked.over:
                await self._over(batch, looked)
            else:
                now = self.services.clock()
                mine = self._open[batch.id]
                mine.since = batch.submitted_at
                mine.words = looked.words
                mine.next_look = now + self.batches.timing.interval(now - batch.submitted_at)
                ends = mine.since + self.patience_s
                if now < ends:
                    mine.next_look = min(mine.next_look, ends)
                elif self._idle:
                    self.admission.close("the patience for what is at the provider is used up")

    async def _over(self, batch: Batch, looked: Looked) -> None:
        mine = self._open.pop(batch.id)
        self._idle_since = None
        for key, settled in looked.results.items():
            if key in mine.held:
                self.budget.held -= looked.lines[key].hold.bound
                self.budget.spent += _cost(settled)
        if any(key not in mine.held for key in looked.lines):
            # What earlier runs held is settled now: the budget counts the cost instead of the bounds.
            self.budget.spent += await self.change_before()
        for key, calls in mine.waiting.items():
            settled_here = looked.results.get(key)
            if settled_here is None:
                # Another process has collected it: what it brought is in the store, or may be asked again.
                self._parked += [p for p in calls if not p.future.done()]
            elif calls:
                ours = looked.lines[key].flow_run_id in self.runs()
                if isinstance(settled_here, GuardedReply) and not ours:
                    # Another job has asked for it, and counts its cost.
                    settled_here = replace(settled_here, cost_usd=Decimal(0), reused=True)
                self._give_settled(batch, calls, settled_here)
        self._move()

    def _give_settled(self, batch: Batch, calls: Sequence[ParkedCall], settled: Settled) -> None:
        first, rest = calls[0], calls[1:]
        match settled:
            case GuardedReply():
                first.give(Answered(first.target, settled))
                for parked in rest:
                    parked.fail(InStore())
            case ProviderError():
                for parked in calls:
                    parked.give(Failed(parked.target, settled))
            case NotRun(why):
                for parked in calls:
                    parked.fail(PostponedError(f"batch {batch.id}: {why}; the next run asks again"))


def _cost(settled: Settled) -> Decimal:
    match settled:
        case GuardedReply():
            return settled.cost_usd
        case ProviderError():
            return settled.charged_usd or Decimal(0)
        case _:
            return Decimal(0)
