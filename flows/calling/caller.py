"""How a process calls providers: key, stored answer, place in the quota, a call through the ledger, what it teaches."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Awaitable, Callable, Sequence
from decimal import Decimal
from functools import cached_property, partial

from prefect.context import FlowRunContext, TaskRunContext
from pydantic import SecretStr

from tta_dev_primitives.blocks.credentials.key_ids import key_id
from tta_dev_primitives.blocks.credentials.keys import forget_keys, load_key
from tta_dev_primitives.blocks.ledger.cost_bound import bound_usd
from tta_dev_primitives.blocks.ledger.database.protocol import Database
from tta_dev_primitives.blocks.ledger.guarded_call import (
    GuardedReply,
    content_key,
    guarded_send,
    missing_answers,
    stored_reply,
)
from tta_dev_primitives.blocks.ledger.ledger import CallInfo, Ledger
from tta_dev_primitives.blocks.providers.client import ProviderClient
from tta_dev_primitives.blocks.quotas.availability import Availability
from tta_dev_primitives.blocks.quotas.quota import Quota, Slot, Wait
from tta_dev_primitives.blocks.quotas.windows import Priority
from tta_dev_primitives.blocks.wire.types import ChatReply, ChatRequest
from tta_dev_primitives.config import OrchestrationConfig
from tta_dev_primitives.config.errors import (
    BudgetExceededError,
    ConfigError,
    ErrorClass,
    LedgerAction,
    LedgerError,
    ProviderError,
)
from tta_dev_primitives.config.models.targets import Target
from tta_dev_primitives.flows.calling.admission import on_the_wire, request_tokens
from tta_dev_primitives.flows.calling.job_budget import Purse
from tta_dev_primitives.flows.routing.retry_policy import MAX_WAIT_S
from tta_dev_primitives.flows.tasks.result import Role

__all__ = ["Caller"]

_LOG = logging.getLogger("tta_dev_primitives.runtime")
_KEY_BELIEVED_S = 2.0
"""Finding a key reads `.env`; a job asks for it before every call."""
_MOST_AHEAD = 5000
_MISSING_BELIEVED_S = 10.0
"""How long it is believed that the store holds no answer; each such finding is used once."""


class Caller:
    """The connections, books and quotas that calls go through; `Runtime` adds what decides which calls are made."""

    def __init__(self, config: OrchestrationConfig, database: Database) -> None:
        self.config = config
        self.client = ProviderClient()
        self.ledger = Ledger(
            database, timezone=config.cost_tracking.timezone, alert_threshold=_alert_line(config)
        )
        self.quota = Quota(database)
        self.availability = Availability(database)
        self.purse = Purse(None)
        self.priority: Priority = "interactive"
        self.clock: Callable[[], float] = time.time
        """Epoch seconds, for what providers say about waits."""
        self.sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
        """How the wait before a second try of the same model passes."""
        self._keys: dict[str, tuple[float, SecretStr]] = {}
        self._missing: dict[str, float] = {}
        self._ahead: dict[int, tuple[ChatRequest, Target, str]] = {}
        """Content keys that `look_ahead` has made, by the identity of their request; each is used once."""
        self._under_way: dict[str, asyncio.Future[None]] = {}

    @cached_property
    def limit(self) -> Decimal | None:
        """The month's limit, USD, without approvals (the ledger adds those); None when cost tracking is off."""
        tracking = self.config.cost_tracking
        return tracking.budget_limit if tracking.enabled else None

    async def key_of(self, target: Target) -> SecretStr:
        """The target's API key, from the environment, `.env` or its Prefect block.

        Raises:
            MissingKeyError: It is nowhere; the message names the variable.
        """
        kept = self._keys.get(target.name)
        if kept is not None and time.monotonic() - kept[0] < _KEY_BELIEVED_S:
            return kept[1]
        key = await load_key(target)
        self._keys[target.name] = (time.monotonic(), key)
        return key

    def step_key(self, target: Target, request: ChatRequest) -> str:
        """The content key under which this request's answer is kept."""
        ahead = self._ahead.pop(id(request), None)
        if ahead is not None and ahead[0] is request and ahead[1] is target:
            return ahead[2]
        return content_key(target, request)

    async def stored_reply(self, target: Target, step_key: str) -> GuardedReply | None:
        """An answer that was brought before for the same request.

        Raises:
            QuarantinedError: There is none, and the target is closed after a wrong bill.
        """
        if time.monotonic() - self._missing.pop(step_key, -math.inf) < _MISSING_BELIEVED_S:
            return None
        return await stored_reply(self.ledger, step_key, target)

    async def look_ahead(self, asked: Sequence[tuple[Target, ChatRequest]]) -> None:
        """Look for the stored answers of many requests at once, so that each need not look for its own."""
        keys = [self.step_key(target, request) for target, request in asked]
        if len(self._ahead) > _MOST_AHEAD:
            self._ahead.clear()
        self._ahead.update(
            (id(request), (request, target, key)) for (target, request), key in zip(asked, keys, strict=True)
        )
        missing = await missing_answers(self.ledger, keys, [target for target, _ in asked])
        self._missing.update(dict.fromkeys(missing, time.monotonic()))

    async def send(
        self,
        target: Target,
        request: ChatRequest,
        *,
        key: SecretStr,
        role: Role,
        use_case: str,
        step_key: str,
    ) -> GuardedReply:
        """One provider call through the ledger: reserve, send, settle."""
        flow, task = FlowRunContext.get(), TaskRunContext.get()
        call = CallInfo.of(
            target,
            role=role,
            use_case=use_case,
            step_key=step_key,
            flow_run_id=str(flow.flow_run.id) if flow is not None and flow.flow_run is not None else None,
            task_run_id=str(task.task_run.id) if task is not None else None,
        )
        send = partial(
            guarded_send,
            ledger=self.ledger,
            client_send=partial(self._request, target, request, key),
            turn=on_the_wire,
            target=target,
            request=request,
            call=call,
            limit=self.limit,
            step_key=step_key,
            looked_up=True,
        )
        if target.billing == "free" or self.purse.limit is None:
            reply = await send()
            self.purse.charge(reply.cost_usd)
            return reply
        async with self.purse.hold(bound_usd(target, request)) as hold:
            try:
                reply = await send()
            except (ProviderError, LedgerError, ConfigError, BudgetExceededError) as error:
                sent = isinstance(error, ProviderError) and error.ledger_action is not LedgerAction.RELEASE
                hold.cost = None if sent else Decimal(0)
                raise
            hold.cost = reply.cost_usd
            return reply

    async def _request(self, target: Target, request: ChatRequest, key: SecretStr) -> ChatReply:
        try:
            return await self.client.send(target, request, key=key, clock=self.clock)
        except ProviderError as error:
            # Before the place is free: the next call of this model must not be made in vain.
            self.availability.hear(target, key_id(key), error)
            raise

    def alone(self, step_key: str) -> _Alone:
        """Let one call at a time of this process ask for an answer: the second finds the first one's in the store."""
        return _Alone(self._under_way, step_key)

    async def take_slot(
        self, target: Target, key: SecretStr, request: ChatRequest, *, max_wait_s: float
    ) -> Slot:
        """A place in the target's quota.

        Raises:
            ProviderError: No place within the wait; nothing was sent.
        """
        tokens = request_tokens(target, request)
        wait_s = min(max_wait_s, MAX_WAIT_S)
        got = await self.quota.acquire(target, key_id(key), tokens, priority=self.priority, max_wait_s=wait_s)
        if isinstance(got, Wait):
            raise ProviderError(
                f"{target.name}: its quota ({got.limit}) is used up; free again in {got.seconds:.0f} s",
                provider=target.provider,
                model=target.name,
                error_class=ErrorClass.QUOTA,
                retry_after_s=got.seconds,
                ledger_action=LedgerAction.RELEASE,
                own_quota=True,
            )
        return got

    async def learn_failure(self, target: Target, key: SecretStr, slot: Slot, error: ProviderError) -> None:
        """Keep what a failed attempt says about quotas and availability."""
        try:
            await self.quota.done(slot, error=error)
            await self.availability.record_failure(target, key_id(key), error)
        except LedgerError as down:
            _LOG.warning("what this failure says about %s is not kept: %s", target.name, down)
        if error.error_class is ErrorClass.AUTH:
            # The key may have been replaced since it was read.
            forget_keys()
            self._keys.clear()

    async def learn_reply(self, target: Target, key: SecretStr, slot: Slot, reply: ChatReply) -> None:
        """Keep what a reply says about quotas, and that the model is there; no answer is lost for want of that."""
        try:
            await self.quota.done(slot, reply.usage, reply.headers)
            await self.availability.record_success(target, key_id(key), sent_at=slot.at)
        except LedgerError as down:
            _LOG.warning("what this reply says about %s is not kept: %s", target.name, down)


class _Alone:
    """Holds a content key for the body of `async with`; whoever comes meanwhile waits."""

    __slots__ = ("_key", "_mine", "_under_way")

    def __init__(self, under_way: dict[str, asyncio.Future[None]], key: str) -> None:
        self._under_way, self._key = under_way, key

    async def __aenter__(self) -> None:
        while (other := self._under_way.get(self._key)) is not None:
            await asyncio.wait([other])
        self._mine = self._under_way[self._key] = asyncio.get_running_loop().create_future()

    async def __aexit__(self, *_: object) -> None:
        del self._under_way[self._key]
        self._mine.set_result(None)


def _alert_line(config: OrchestrationConfig) -> Decimal | None:
    tracking = config.cost_tracking
    return Decimal(repr(tracking.alert_threshold)) if tracking.enabled else None
