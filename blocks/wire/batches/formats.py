"""One dispatch from a target to its batch format; which providers have batches is catalogue data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from decimal import Decimal

from tta_dev_primitives.blocks.wire.batches.anthropic import AnthropicBatches
from tta_dev_primitives.blocks.wire.batches.gemini import GeminiBatches
from tta_dev_primitives.blocks.wire.batches.openai import (
    MistralBatches,
    OpenAIBatches,
    TogetherBatches,
)
from tta_dev_primitives.blocks.wire.batches.types import BatchFormat, BatchLine
from tta_dev_primitives.blocks.wire.formats import wire_format
from tta_dev_primitives.blocks.wire.types import ChatRequest
from tta_dev_primitives.config.models.providers import BatchEntry, load_providers
from tta_dev_primitives.config.models.targets import Target

_FORMATS: Mapping[str, BatchFormat] = {
    "anthropic": AnthropicBatches(),
    "gemini": GeminiBatches(),
    "openai": OpenAIBatches(),
    "groq": OpenAIBatches("/openai/v1"),
    "together": TogetherBatches(),
    "mistral": MistralBatches(),
}


def batch_format(target: Target) -> BatchFormat | None:
    """The batch format of a paid target; None when its provider has no batches, or the target is free."""
    batch = _entry(target)
    return None if batch is None else _FORMATS[batch.format]


def batch_factor(target: Target) -> Decimal:
    """What a call in a batch costs against one alone; 1 without batches."""
    batch = _entry(target)
    return Decimal(1) if batch is None else batch.price_factor


def at_batch_price(target: Target) -> Target:
    """The target at what its provider asks in batches; unchanged when it has none or its price is not known."""
    batch = _entry(target)
    if target.price is None or batch is None:
        return target
    return replace(target, price=target.price.scaled(batch.price_factor, batch.source))


def _entry(target: Target) -> BatchEntry | None:
    provider = load_providers().get(target.provider)
    return provider.batch if provider is not None and target.billing == "paid" else None


def batch_line(target: Target, request: ChatRequest, name: str) -> BatchLine:
    """One request as a line: the body of the chat endpoint, without what a batch decides itself."""
    body = dict(wire_format(target.provider).build(target, request).body)
    body.pop("stream", None)
    return BatchLine(name, body)
