"""The most a call can cost, known before it is sent and without any tokenizer."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from tta_dev_primitives.blocks.wire.types import ChatRequest
from tta_dev_primitives.config.errors import UnknownPriceError
from tta_dev_primitives.config.models.targets import Price, Target

_PER_MESSAGE = 16
_OVERHEAD = 256
"""What providers add of their own: role marks, system preambles."""
_SCHEMA_OVERHEAD = 1024
"""Structured output: hidden tool preambles (Anthropic up to about 700 tokens) or our own instruction."""
_LARGEST_CONTEXT = 10_000_000
"""Tokens no known model can take; used where the model's window is not known."""
_MTOK = Decimal(1_000_000)


def bound_usd(target: Target, request: ChatRequest) -> Decimal:
    """USD that `request` costs at most: every byte a token, every output token used, the dearest tier it can
    reach.

    Byte-level vocabularies never make more tokens than bytes; one that normalises first (NFKC) can make
    more of a few characters, so the longer of both spellings counts. English text is over-reserved by a
    factor of 3 to 5, but only while the call is in flight.
    """
    return required_price(target).most(input_token_bound(request), request.max_output_tokens)


def token_ceiling(target: Target, request: ChatRequest) -> int:
    """Tokens, prompt and answer together, that no honest usage of this call can pass."""
    window = max(target.context_tokens or _LARGEST_CONTEXT, input_token_bound(request))
    return window + max(window, request.max_output_tokens)


def plausible_usd(target: Target, request: ChatRequest) -> Decimal:
    """USD that a bill cannot pass even if the bound was wrong: all those tokens at the dearest price."""
    price = required_price(target)
    return token_ceiling(target, request) * max(price.highest_input, price.highest_output) / _MTOK


def required_price(target: Target) -> Price:
    """The price of a paid target.

    Raises:
        UnknownPriceError: It is not known.
    """
    if target.price is None:
        raise UnknownPriceError(
            f"Model '{target.name}' ({target.provider}, {target.api_model}) is paid and its price is not "
            f"known: set price: {{input_usd_per_mtok, output_usd_per_mtok}} for it, or billing: free"
        )
    return target.price


def input_token_bound(request: ChatRequest) -> int:
    """Prompt tokens that `request` has at most, with every provider's overhead."""
    tokens = _OVERHEAD + _PER_MESSAGE * (len(request.messages) + 1)
    if request.json_schema is not None:
        tokens += _SCHEMA_OVERHEAD
        tokens += text_token_bound(request.schema_name) + _schema_bound(request.json_schema)
    for message in request.messages:
        tokens += text_token_bound(message.content)
    for text in request.stop:
        tokens += text_token_bound(text)
    return tokens + (0 if request.system is None else text_token_bound(request.system))


def _schema_bound(schema: Mapping[str, Any]) -> int:
    """The schema at its longest. A job sends the same object thousands of times: the last one's bound is kept."""
    global _last_schema
    kept, bound = _last_schema
    if kept is not schema:
        bound = text_token_bound(json.dumps(schema, indent=4, default=dict))
        _last_schema = (schema, bound)
    return bound


_last_schema: tuple[Mapping[str, Any] | None, int] = (None, 0)


def text_token_bound(text: str) -> int:
    """Tokens that `text` has at most: one a byte, in the longer of its two spellings."""
    if text.isascii():
        return len(text)
    normal = unicodedata.normalize("NFKC", text)
    return max(len(text.encode("utf-8", "surrogatepass")), len(normal.encode("utf-8", "surrogatepass")))
