"""Layer of a job: a system text that its calls share is kept in the provider's prompt cache.

The first call writes the text at a higher price, the others wait for it and read the text at a lower one. Calls are
marked when at least `LEAST_CALLS` of them are known to come, or while the text is known to be in the cache.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from tta_dev_primitives.blocks.wire.types import ChatRequest
from tta_dev_primitives.config.models.targets import Target
from tta_dev_primitives.flows.calling.call import Answered, Call, Layer, Outcome

if TYPE_CHECKING:
    from tta_dev_primitives.flows.calling.services import Services

LEAST_CALLS = 3
"""Calls that must be known before a text is written to the cache."""
_LIFETIME_S = 280.0
"""The provider keeps a text for five minutes from its last use."""
_GATHER_S = 0.05
"""How long the first call of a text waits for others."""
_BYTES_A_TOKEN = 4

Prefix = tuple[str, str, str]


def shared_prefix(target: Target, request: ChatRequest) -> Prefix | None:
    """What calls have in common that share a cache entry; None when the text is too short or caching saves nothing.

    The size is an estimate: a text that the provider finds too short is not kept, and costs nothing more.
    """
    least, system = target.capabilities.cache_min_tokens, request.system or ""
    if not least or len(system.encode("utf-8", "replace")) < least * _BYTES_A_TOKEN:
        return None
    if target.billing == "free" or target.price is None or not target.price.caching_saves(LEAST_CALLS):
        return None
    schema = "" if request.json_schema is None else json.dumps(request.json_schema, default=dict)
    return target.key, schema, system


@dataclass(slots=True)
class _Text:
    """One shared text."""

    announced: set[str] = field(default_factory=set)
    """Content keys of calls that will come."""
    waiting: int = 0
    """Calls that have come and are not sent."""
    writer: asyncio.Future[None] | None = None
    """Ends when the call that writes the text has ended."""
    kept_until: float = 0.0
    unread: bool = False
    """It was written, and no call has read it since."""
    off: bool = False
    """The provider does not keep it, or it was written in vain: no call is marked any more."""

    @property
    def expected(self) -> int:
        return len(self.announced) + self.waiting


class PrefixCache:
    """Marks the calls of one job that share a long system text."""

    def __init__(self, then: Layer, services: Services) -> None:
        self._then, self._services = then, services
        self._texts: dict[Prefix, _Text] = {}

    def announce(self, asked: Iterable[tuple[Target, ChatRequest, str]]) -> None:
        """Calls that will come: model, request, content key."""
        for target, request, step_key in asked:
            prefix = shared_prefix(target, request)
            if prefix is not None:
                self._texts.setdefault(prefix, _Text()).announced.add(step_key)

    async def __call__(self, call: Call) -> Outcome:
        """What the next layer returns."""
        prefix = shared_prefix(call.target, call.request)
        if prefix is None:
            return await self._then(call)
        text = self._texts.setdefault(prefix, _Text())
        text.announced.discard(call.step_key)
        text.waiting += 1
        try:
            marked = await self._marked(text)
        finally:
            text.waiting -= 1
        call.request = replace(call.request, cache_system=marked)
        if not marked:
            return await self._then(call)
        if self._kept(text):
            return await self._sent(text, call)
        text.writer = asyncio.get_running_loop().create_future()
        try:
            return await self._sent(text, call)
        finally:
            text.writer.set_result(None)
            text.writer = None

    def _kept(self, text: _Text) -> bool:
        return self._services.clock() < text.kept_until

    async def _marked(self, text: _Text) -> bool:
        """Whether the call is marked. It waits for the call that writes the text."""
        if text.expected < LEAST_CALLS and text.writer is None and not self._kept(text):
            await asyncio.sleep(_GATHER_S)
        while text.writer is not None:
            await asyncio.wait([text.writer])
        if text.off or self._kept(text):
            return not text.off
        text.off = text.unread
        return not text.off and text.expected >= LEAST_CALLS

    async def _sent(self, text: _Text, call: Call) -> Outcome:
        """Send a marked call, and keep what its usage says of the cache."""
        at = self._services.clock()
        outcome = await self._then(call)
        if isinstance(outcome, Answered) and not outcome.reply.reused:
            usage = outcome.reply.reply.usage
            if usage.cache_read_tokens:
                text.unread = False
            elif usage.cache_write_tokens:
                text.off, text.unread = text.off or text.unread, True
            else:
                text.off = True
            text.kept_until = max(text.kept_until, at + _LIFETIME_S)
        return outcome
