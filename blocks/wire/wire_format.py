"""What all wire formats have in common: address, key header, and the steps from a reply's bytes to a `ChatReply`."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from pydantic import SecretStr

from tta_dev_primitives.blocks.wire.error_rules import Fault, after_start, error_of, request_id_of, unreadable
from tta_dev_primitives.blocks.wire.reading import (
    Unreadable,
    at,
    decode_json,
    error_payload,
    lower_headers,
    read_body,
    read_events,
    seq,
)
from tta_dev_primitives.blocks.wire.types import ChatReply, ChatRequest, ModelInfo, WireRequest
from tta_dev_primitives.config.models.targets import Target, Usage
from tta_dev_primitives.config.provider_errors import ErrorClass, LedgerAction, ProviderError

Events = Iterator[tuple[str, Any]]
"""Name and decoded data of each event of a stream; data is None for the mark of its end."""


@dataclass(frozen=True, slots=True)
class Answered:
    """What a model sent back, besides its body."""

    target: Target
    status: int
    headers: Mapping[str, str]
    """In lower case."""
    now: float
    """Epoch seconds."""

    def error(self, fault: Fault, usage: Usage | None = None, payload: Any = None) -> ProviderError:
        """The exception for a verdict on it."""
        return error_of(
            self.target,
            fault,
            status=self.status,
            headers=self.headers,
            usage=usage,
            request_id=request_id_of(self.headers, payload),
        )

    def cut_off(self) -> ProviderError:
        """A stream that ended before its answer did: what was generated until then is charged at the bound."""
        said = "the stream ended before the answer did"
        return self.error(Fault(ErrorClass.TRANSPORT, LedgerAction.CHARGE_AT_BOUND, said))


class WireFormat(ABC):
    """How one provider is spoken to. All functions are pure."""

    provider: str
    base_url: str | None
    """The provider's own address, written as its official SDK takes it; None: only with a `base_url`."""
    models_path: str
    key_header = "authorization"
    """The key travels in this header and nowhere else."""
    key_prefix = "Bearer "
    headers: Mapping[str, str] = MappingProxyType({})
    """Headers of every request, the model list included."""

    @abstractmethod
    def build(self, target: Target, request: ChatRequest) -> WireRequest:
        """Translate a request, sending only what the model's capabilities allow."""

    @abstractmethod
    def reply(self, got: Answered, payload: Any) -> ChatReply:
        """Read a decoded body."""

    @abstractmethod
    def stream(self, got: Answered, events: Events) -> ChatReply:
        """Read an event stream as the one reply it adds up to."""

    @abstractmethod
    def classify(self, status: int, headers: Mapping[str, str], payload: Any, now: float) -> Fault:
        """Judge an error reply by its status, headers in lower case and decoded body (None: it has none)."""

    @abstractmethod
    def model_of(self, entry: Any) -> ModelInfo:
        """Read one entry of the provider's list of models."""

    def parse_models(self, payload: Any) -> tuple[ModelInfo, ...]:
        """Read the provider's list of models; servers name the array as they like, or send it bare."""
        entries = seq(at(payload, "data")) or seq(at(payload, "models")) or seq(payload)
        return tuple(model for entry in entries if (model := self.model_of(entry)).id)

    def failed(self, got: Answered, payload: Any, usage: Usage | None = None) -> ProviderError:
        """The error of a reply; inside a 200 the generation had begun."""
        fault = self.classify(got.status, got.headers, payload, got.now)
        return got.error(after_start(fault, usage) if 200 <= got.status < 300 else fault, usage, payload)

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
        """Read one whole reply, or a recorded stream; `ProviderError` for whatever is no answer of this format."""
        got = Answered(target, status, lower_headers(headers), time.time() if now is None else now)
        if not 200 <= status < 300:
            raise self.failed(got, error_payload(got.headers, body))
        try:
            read = read_body(got.headers, body)
            if read.stream is not None:
                return self.stream(got, _decoded(read.stream))
        except Unreadable as error:
            raise got.error(unreadable(str(error))) from None
        return self.reply(got, read.value)


def _decoded(text: str) -> Events:
    for name, data in read_events(text):
        yield name, None if data.strip() == "[DONE]" else decode_json(data)
