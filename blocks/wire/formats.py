"""One dispatch from the provider's name to its wire format, address and key header."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Protocol

from pydantic import SecretStr

from tta_dev_primitives.blocks.wire import anthropic, gemini, openai_chat
from tta_dev_primitives.blocks.wire.groq import GROQ
from tta_dev_primitives.blocks.wire.openai_chat import OpenAIChat, Profile
from tta_dev_primitives.blocks.wire.openrouter import OPENROUTER
from tta_dev_primitives.blocks.wire.types import ChatReply, ChatRequest, ModelInfo, WireRequest
from tta_dev_primitives.config.errors import ConfigError
from tta_dev_primitives.config.models.catalogue import load_catalogue
from tta_dev_primitives.config.models.targets import Target


class _Build(Protocol):
    def __call__(self, target: Target, request: ChatRequest) -> WireRequest: ...


class _Parse(Protocol):
    def __call__(
        self,
        target: Target,
        status: int,
        headers: Mapping[str, str],
        body: bytes,
        *,
        now: float | None = None,
    ) -> ChatReply: ...


class _ParseStream(Protocol):
    def __call__(
        self, target: Target, text: str, *, headers: Mapping[str, str] | None = None, now: float | None = None
    ) -> ChatReply: ...


class _ParseModels(Protocol):
    def __call__(self, payload: Any) -> tuple[ModelInfo, ...]: ...


@dataclass(frozen=True, slots=True)
class WireFormat:
    """How one provider is spoken to. The four functions are pure."""

    provider: str
    base_url: str | None
    """The provider's own address, written as its official SDK takes it; None: only with a `base_url`."""
    key_header: str
    """The key travels in this header and nowhere else."""
    key_prefix: str
    models_path: str
    build: _Build
    parse: _Parse
    parse_stream: _ParseStream
    parse_models: _ParseModels
    headers: Mapping[str, str] = field(default_factory=dict)
    """Sent with every request, the model list included."""

    def key_headers(self, key: SecretStr) -> dict[str, str]:
        """The one header that carries the key; a server that needs none gets an `x`."""
        return {self.key_header: f"{self.key_prefix}{key.get_secret_value() or 'x'}"}


def _chat(provider: str, base_url: str | None, chat: OpenAIChat, models_path: str) -> WireFormat:
    return WireFormat(
        provider,
        base_url,
        "authorization",
        "Bearer ",
        models_path,
        chat.build,
        chat.parse,
        chat.parse_stream,
        openai_chat.parse_models,
    )


_COMPATIBLE = OpenAIChat(Profile())

_FORMATS: Mapping[str, WireFormat] = {
    f.provider: f
    for f in (
        WireFormat(
            "anthropic",
            "https://api.anthropic.com",
            "x-api-key",
            "",
            "/v1/models?limit=1000",
            anthropic.build,
            anthropic.parse,
            anthropic.parse_stream,
            anthropic.parse_models,
            {"anthropic-version": anthropic.VERSION},
        ),
        WireFormat(
            "google-ai-studio",
            "https://generativelanguage.googleapis.com",
            "x-goog-api-key",
            "",
            "/v1beta/models?pageSize=1000",
            gemini.build,
            gemini.parse,
            gemini.parse_stream,
            gemini.parse_models,
        ),
        _chat("groq", "https://api.groq.com", GROQ, "/openai/v1/models"),
        _chat("openrouter", "https://openrouter.ai/api/v1", OPENROUTER, "/models"),
        _chat("openai-compatible", None, _COMPATIBLE, "/models"),
    )
}
PROVIDERS = tuple(_FORMATS)
"""Provider names as the configuration writes them, without the presets of the catalogue."""


@cache
def _presets() -> Mapping[str, WireFormat]:
    """The formats of the catalogue's presets."""
    entries = load_catalogue().providers.values()
    return {
        e.name: _chat(e.name, e.base_url, _COMPATIBLE, "/models") for e in entries if e.base_url is not None
    }


def wire_format(provider: str) -> WireFormat:
    """Return the format of `provider`.

    Raises:
        ConfigError: The name is not one of `PROVIDERS`.
    """
    try:
        return _FORMATS.get(provider) or _presets()[provider]
    except KeyError:
        names = ", ".join([*PROVIDERS, *_presets()])
        raise ConfigError(f"Unknown provider '{provider[:60]}'. Must be one of: {names}") from None
