"""What a sandbox call asks and what is answered, apart from any wire format."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from tta_dev_primitives.config.models.targets import Usage

Finish = Literal["stop", "length", "content_filter", "refusal", "tool"]

ErrorKind = Literal[
    "invalid_request", "context_length", "too_large", "bad_key", "forbidden", "no_credit", "model_gone", "rate_limit",
    "token_limit", "daily_limit", "request_over_limit", "content_policy", "json_failed", "server_error", "bad_gateway",
    "timeout", "overloaded",
]  # fmt: skip
"""Faults that every provider has, each with a status and body of its own."""

_KIND = re.compile(r"^\s*\[tta:([a-z]+)/\d+\]")
_SCHEMA_KINDS = {"tta_plan": "plan", "tta_verdict": "verdict"}


def estimate_tokens(text: str) -> int:
    """A plausible token count for `text`: a quarter of its characters, at least 1 when there are any."""
    return (len(text) + 3) // 4


def prompt_kind(system: str, user: str, schema_name: str | None) -> str:
    """`plan`, `verdict` or `solve`, by the marker on the first line or by the schema's name."""
    marker = _KIND.match(system) or _KIND.match(user)
    if marker:
        return marker.group(1)
    return _SCHEMA_KINDS.get(schema_name or "", "solve")


@dataclass(frozen=True, slots=True)
class Ask:
    """One well-formed chat request, as every wire format is translated to it."""

    provider: str
    model: str
    system: str
    user: str
    """Text of the last user turn."""
    transcript: str
    """All text that was sent; what input tokens are estimated on."""
    max_tokens: int | None = None
    stream: bool = False
    stream_usage: bool = True
    """OpenAI's `stream_options.include_usage`; other formats always report usage."""
    stop: tuple[str, ...] = ()
    json_mode: bool = False
    schema: Mapping[str, Any] | None = None
    schema_name: str | None = None
    tool: str | None = None
    """A tool the caller forces; then `schema` is that tool's input schema."""
    marked: tuple[tuple[str, Literal["5m", "1h"]], ...] = ()
    """The prompt up to each block that is marked for the prompt cache, and how long it is kept."""

    @classmethod
    def of_turns(cls, provider: str, model: str, turns: Sequence[tuple[str, str]], **more: Any) -> Ask:
        """The question in texts by role: `system`, `user`, or the model's own under any other name."""
        texts = {role: [text for who, text in turns if who == role] for role in ("system", "user")}
        system, user = "\n".join(texts["system"]), texts["user"][-1] if texts["user"] else ""
        return cls(provider, model, system, user, "\n".join(text for _, text in turns), **more)

    @property
    def prompt(self) -> str:
        """`plan`, `verdict`, `solve`, or what the prompt's own marker says."""
        return prompt_kind(self.system, self.user, self.schema_name or self.tool)

    @property
    def input_tokens(self) -> int:
        """Estimated prompt tokens: text, schema and a few for the frame of each request."""
        schema = json.dumps(self.schema) if self.schema else ""
        return estimate_tokens(self.transcript) + estimate_tokens(schema) + 8


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer before it is put into a provider's words. `usage` is the truth that is billed."""

    text: str
    usage: Usage
    finish: Finish = "stop"
    thinking: str = ""
    stop_sequence: str | None = None
    usage_override: Literal["missing", "invalid"] | dict[str, Any] | None = None
    """What the reply says instead of the true usage; a mapping is merged over the provider's usage object."""

    def within(self, ask: Ask) -> Answer:
        """Cut the answer as a provider would: at a stop sequence, and at `max_tokens`."""
        answer = self
        cuts = [(at, stop) for stop in ask.stop if (at := answer.text.find(stop)) >= 0]
        if cuts:
            at, stop = min(cuts)
            text = answer.text[:at]
            usage = replace(answer.usage, output_tokens=estimate_tokens(text + answer.thinking))
            answer = replace(answer, text=text, stop_sequence=stop, usage=usage)
        limit = ask.max_tokens
        if limit is not None and answer.usage.output_tokens > limit:
            kept = len(answer.text) * limit // answer.usage.output_tokens
            thinking = min(answer.usage.thinking_tokens, limit)
            usage = replace(answer.usage, output_tokens=limit, thinking_tokens=thinking)
            text = answer.text[:kept]
            answer = replace(answer, text=text, finish="length", usage=usage, stop_sequence=None)
        return answer


@dataclass(frozen=True, slots=True)
class Failure:
    """An error reply before it is put into a provider's words."""

    kind: ErrorKind
    message: str | None = None
    param: str | None = None
    """Path of the field at fault, as the provider writes paths."""
    retry_after: float | str | None = None
    """Seconds, or the text of the header as it shall be sent."""
    limit: int | None = None
    used: int | None = None
    requested: int | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)
    """Further facts for the message: `model`, `metric` (rpm, tpm ...), `key_missing`."""


class Refusal(Exception):
    """The request is refused with `failure`."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message or failure.kind)
        self.failure = failure
