"""Replies in the ledger's answer store: the key of a request, the reply kept under it, and how it is written."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, fields
from decimal import Decimal

from tta_dev_primitives.blocks.ledger.ledger import Ledger
from tta_dev_primitives.blocks.ledger.types import StoredAnswer, provider_key
from tta_dev_primitives.blocks.wire.types import ChatReply, ChatRequest
from tta_dev_primitives.config.models.targets import Target, Usage

_KEY_VERSION = "tta-1"
_USAGE = tuple(f.name for f in fields(Usage) if f.name != "reported_cost_usd")


@dataclass(frozen=True, slots=True)
class GuardedReply:
    """A reply and what it cost."""

    reply: ChatReply
    cost_usd: Decimal
    """USD charged to the month for it: 0 when free or reused."""
    list_value_usd: Decimal | None
    """USD the observed tokens cost at list price; None when that is not known."""
    call_id: str
    reused: bool = False
    """It came from the answer store: nothing was sent, nothing was paid."""
    flag: str | None = None
    """What is odd about its bill: `usage_missing`, `bound_broken`, `disputed`, `unsettled` ..."""
    warning: str | None = None
    """A sentence about the flag, for the result's warnings."""


def content_key(target: Target, request: ChatRequest) -> str:
    """The key of a request's answer: equal when provider, address, model and every field are equal."""
    parts = {
        "version": _KEY_VERSION,
        "provider": target.provider,
        "base_url": target.base_url,
        "api_model": target.api_model,
        "messages": [[message.role, message.content] for message in request.messages],
        "system": request.system,
        "max_output_tokens": request.max_output_tokens,
        "temperature": request.temperature,
        "stop": list(request.stop),
        "json_schema": request.json_schema,
        "schema_name": request.schema_name,
        "thinking": request.thinking,
        **({} if request.seed is None else {"seed": request.seed}),
    }
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), default=dict)
    return hashlib.sha256(text.encode()).hexdigest()


async def stored_reply(ledger: Ledger, step_key: str, target: Target | None = None) -> GuardedReply | None:
    """The reply kept under a content key, at no cost; None when there is none.

    Raises:
        QuarantinedError: There is none, and `target` is closed after a wrong bill.
    """
    keys = () if target is None else (target.key, provider_key(target))
    stored = await ledger.lookup(step_key, *keys)
    return None if stored is None else reply_of(stored)


async def missing_answers(ledger: Ledger, step_keys: Sequence[str], targets: Sequence[Target]) -> list[str]:
    """Those of `step_keys` without a stored answer; none of them when one of `targets` is closed."""
    closable = sorted({key for target in targets for key in (target.key, provider_key(target))})
    return await ledger.missing(step_keys, closable)


def encoded_reply(guarded: GuardedReply) -> bytes:
    """A reply as the answer store keeps it."""
    reply = guarded.reply
    cost = reply.usage.reported_cost_usd
    document = {
        "text": reply.text,
        "finish": reply.finish,
        "raw_finish": reply.raw_finish,
        "model_returned": reply.model_returned,
        "request_id": reply.request_id,
        "usage": {name: getattr(reply.usage, name) for name in _USAGE},
        "reported_cost_usd": None if cost is None else str(cost),
        "list_value_usd": None if guarded.list_value_usd is None else str(guarded.list_value_usd),
    }
    return json.dumps(document, separators=(",", ":")).encode()


def reply_of(stored: StoredAnswer) -> GuardedReply:
    """The reply that a stored answer holds, at no cost."""
    document = json.loads(stored.body)
    cost, value = document["reported_cost_usd"], document["list_value_usd"]
    reply = ChatReply(
        text=document["text"],
        finish=document["finish"],
        usage=Usage(**document["usage"], reported_cost_usd=None if cost is None else Decimal(cost)),
        raw_finish=document["raw_finish"],
        model_returned=document["model_returned"],
        request_id=document["request_id"],
    )
    return GuardedReply(
        reply, Decimal(0), None if value is None else Decimal(value), stored.call_id, reused=True
    )
