"""Layer: an answer that was paid for before is taken from the ledger's store; equal requests wait for each other."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from tta_dev_primitives.blocks.ledger.stored_replies import content_key, missing_answers, stored_reply
from tta_dev_primitives.blocks.wire.types import ChatRequest
from tta_dev_primitives.config.errors import QuarantinedError
from tta_dev_primitives.config.models.targets import Target
from tta_dev_primitives.flows.calling.call import Answered, Call, Layer, Outcome, refused

if TYPE_CHECKING:
    from tta_dev_primitives.flows.calling.services import Services

_MOST_AHEAD = 5000
_MISSING_BELIEVED_S = 10.0
"""How long the store is believed to hold no answer; each such finding is used once."""


class AnswerIndex:
    """What a process knows of the store without asking it: keys looked up ahead, and keys that are being answered."""

    def __init__(self) -> None:
        self.missing: dict[str, float] = {}
        self.ahead: dict[int, tuple[ChatRequest, Target, str]] = {}
        """Content keys made by `look_ahead`, by the identity of their request; each is used once."""
        self.under_way: dict[str, asyncio.Future[None]] = {}

    def step_key(self, target: Target, request: ChatRequest) -> str:
        """The content key under which this request's answer is kept."""
        ahead = self.ahead.pop(id(request), None)
        if ahead is not None and ahead[0] is request and ahead[1].key == target.key:
            return ahead[2]
        return content_key(target, request)


class StoredAnswers:
    """One call at a time of this process asks for an answer: the second finds the first one's in the store.

    Args:
        fresh: Forget what was stored before this run, when it is asked for.
    """

    def __init__(self, then: Layer, services: Services, *, fresh: bool = False) -> None:
        self._then, self._services, self._index = then, services, services.answers
        self._fresh, self._asked = fresh, set[str]()

    async def __call__(self, call: Call) -> Outcome:
        """The stored answer, or what the next layer returns."""
        key = call.step_key = self._index.step_key(call.target, call.request)
        async with _alone(self._index.under_way, key):
            if self._fresh and key not in self._asked:
                self._asked.add(key)
                await self._services.ledger.forget_answer(key)
            if time.monotonic() - self._index.missing.pop(key, -math.inf) >= _MISSING_BELIEVED_S:
                try:
                    stored = await stored_reply(self._services.ledger, key, call.target)
                except QuarantinedError as closed:
                    return refused(call.target, closed)
                if stored is not None:
                    return Answered(call.target, stored)
            return await self._then(call)

    async def look_ahead(
        self, asked: Sequence[tuple[Target, ChatRequest]]
    ) -> list[tuple[Target, ChatRequest, str]]:
        """Look up many requests at once, so that each need not be looked up alone.

        Returns:
            Those without a stored answer, with their content keys.
        """
        index = self._index
        keys = [index.step_key(target, request) for target, request in asked]
        if len(index.ahead) > _MOST_AHEAD:
            index.ahead.clear()
        index.ahead.update(
            (id(request), (request, target, key)) for (target, request), key in zip(asked, keys, strict=True)
        )
        missing = await missing_answers(self._services.ledger, keys, [target for target, _ in asked])
        index.missing.update(dict.fromkeys(missing, time.monotonic()))
        unanswered = set(missing)
        return [(*one, key) for one, key in zip(asked, keys, strict=True) if key in unanswered]


@asynccontextmanager
async def _alone(under_way: dict[str, asyncio.Future[None]], key: str) -> AsyncIterator[None]:
    """Hold a content key for the body; a second holder waits."""
    while (other := under_way.get(key)) is not None:
        await asyncio.wait([other])
    mine = under_way[key] = asyncio.get_running_loop().create_future()
    try:
        yield
    finally:
        del under_way[key]
        mine.set_result(None)
