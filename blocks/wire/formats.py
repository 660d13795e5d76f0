"""One dispatch from the provider's name to its wire format."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

from tta_dev_primitives.blocks.wire.anthropic import Anthropic
from tta_dev_primitives.blocks.wire.gemini import Gemini
from tta_dev_primitives.blocks.wire.groq import Groq
from tta_dev_primitives.blocks.wire.openai_chat import OpenAIChat
from tta_dev_primitives.blocks.wire.openrouter import OpenRouter
from tta_dev_primitives.blocks.wire.wire_format import WireFormat
from tta_dev_primitives.config.errors import ConfigError
from tta_dev_primitives.config.models.providers import load_providers

_FORMATS: Mapping[str, WireFormat] = {
    form.provider: form
    for form in (
        Anthropic(),
        Gemini(),
        Groq("groq", "https://api.groq.com"),
        OpenRouter("openrouter", "https://openrouter.ai/api/v1"),
        OpenAIChat("openai-compatible", None),
    )
}
PROVIDERS = tuple(_FORMATS)
"""Provider names as the configuration writes them, without the presets of the catalogue."""


@cache
def _presets() -> Mapping[str, WireFormat]:
    """The formats of the catalogue's presets."""
    entries = load_providers().values()
    return {e.name: OpenAIChat(e.name, e.base_url) for e in entries if e.base_url is not None}


def wire_format(provider: str) -> WireFormat:
    """Return the format of `provider`."""
    try:
        return _FORMATS.get(provider) or _presets()[provider]
    except KeyError:
        names = ", ".join([*PROVIDERS, *_presets()])
        raise ConfigError(f"Unknown provider '{provider[:60]}'. Must be one of: {names}") from None
