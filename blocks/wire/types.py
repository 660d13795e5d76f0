"""What every wire format translates from and to: one request, one reply."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from tta_dev_primitives.config.models.targets import Usage

Finish = Literal["stop", "length", "content_filter", "tool", "error", "unknown"]
Lifecycle = Literal["active", "deprecated", "retired", "unknown"]


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of the conversation."""

    role: Literal["user", "assistant"]
    content: str


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """One chat call, independent of any provider."""

    messages: tuple[Message, ...]
    system: str | None = None
    max_output_tokens: int = 2048
    """Always sent: it bounds the cost of the call."""
    temperature: float | None = None
    """Sent only to models whose capabilities say that they take it."""
    stop: tuple[str, ...] = ()
    json_schema: Mapping[str, Any] | None = None
    """Ask for structured output; models without the ability get an instruction and the strict parser."""
    schema_name: str = "answer"
    thinking: Literal["low", "default"] = "default"
    """`low` asks for as little hidden reasoning as the model allows (planning, verdicts)."""
    seed: int | None = None
    """Which of several independent answers this is; it is not sent, the answers are stored apart."""
    cache_system: bool = False
    """Mark the system text for the provider's prompt cache, where marks exist. The answer does not depend on it."""


@dataclass(frozen=True, slots=True)
class WireRequest:
    """What goes out on the socket; the key is added by the client, as a header, last."""

    path: str
    """Relative to the provider's base address."""
    body: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class ChatReply:
    """One parsed reply."""

    text: str
    finish: Finish
    usage: Usage
    raw_finish: str | None = None
    reasoning: str = ""
    """Thoughts of the model, as far as the provider shows them; never part of `text`."""
    model_returned: str | None = None
    request_id: str | None = None
    """What the provider's support asks for: of the HTTP request where the provider gives one."""
    reply_id: str | None = None
    """The provider's id of the answer itself (`msg_...`, `chatcmpl-...`)."""
    headers: Mapping[str, str] = field(default_factory=dict)
    """Rate-limit headers and `date` only, lower case; what the quota scheduler learns from."""


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """One entry of a provider's own model list (`tta check --live`)."""

    id: str
    lifecycle: Lifecycle = "unknown"
    retires_at: str | None = None
    """As the provider writes it (RFC 3339)."""
