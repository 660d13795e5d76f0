"""What all wire formats have in common: address, key header, and the steps from a reply's bytes to a `ChatReply`."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import SecretStr

from tta_dev_primitives.blocks.wire.error_rules import Classify, error_of, failed, unreadable
from tta_dev_primitives.blocks.wire.reading import (
    Unreadable,
    decode_json,
    error_payload,
    lower_headers,
    read_body,
    read_events,
)
from tta_dev_primitives.blocks.wire.types import ChatReply, ChatRequest, ModelInfo, WireRequest
from tta_dev_primitives.config.models.targets import Target

Events = Iterator[tuple[str, Any]]
"""Name and decoded data of each event of a stream; data is None for the mark of its end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WireFormat:
    """How one provider is spoken to. All functions are pure."""

    provider: str
    base_url: str | None
    """The provider's own address, written as its official SDK takes it; None: only with a `base_url`."""
    models_path: str
    build: Callable[[Target, ChatRequest], WireRequest]
    """Translates a request, sending only what the model's capabilities allow."""
    reply: Callable[[Target, int, Mapping[str, str], Any, float], ChatReply]
    """Reads a decoded body (target, status, headers in lower case, body, epoch seconds)."""
    stream: Callable[[Target, Events, Mapping[str, str], float], ChatReply]
    """Reads an event stream as the one reply it adds up to."""
    classify: Classify
    parse_models: Callable[[Any], tuple[ModelInfo, ...]]
    key_header: str = "authorization"
    """The key travels in this header and nowhere else."""
    key_prefix: str = "Bearer "
    headers: Mapping[str, str] = field(default_factory=dict)
    """Sent with every request, the model list included."""

    def key_headers(self, key: SecretStr) -> dict[str, str]:
        """The one header that carries the key; a server that needs none gets an `x`."""
        return {self.key_header: f"{self.key_prefix}{key.get_secret_value() or 'x'}"}

    def parse(
        self,
        target: Target,
        status: int,
        headers: Mapping[str, str],
        body: bytes,
        *,
        now: float | None = None,
    ) -> ChatReply:
        """Read one whole reply, or a recorded stream."""
        low, now = lower_headers(headers), time.time() if now is None else now
        if not 200 <= status < 300:
            raise failed(self.classify, target, status, low, error_payload(low, body), now)
        try:
            read = read_body(low, body)
        except Unreadable as error:
            raise error_of(target, unreadable(str(error)), status=status, headers=low) from None
        if read.stream is not None:
            return self.parse_stream(target, read.stream, headers=low, now=now)
        return self.reply(target, status, low, read.value, now)

    def parse_stream(
        self, target: Target, text: str, *, headers: Mapping[str, str] | None = None, now: float | None = None
    ) -> ChatReply:
        """Read a recorded event stream as the one reply it adds up to."""
        low, now = lower_headers(headers or {}), time.time() if now is None else now
        try:
            return self.stream(target, _decoded(text), low, now)
        except Unreadable as error:
            raise error_of(target, unreadable(str(error)), status=200, headers=low) from None


def _decoded(text: str) -> Events:
    for name, data in read_events(text):
        yield name, None if data.strip() == "[DONE]" else decode_json(data)
