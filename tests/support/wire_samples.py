"""Targets and requests that the wire tests share; one target for each provider, free of catalogue facts."""

from __future__ import annotations

import os
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import pytest

from tta_dev_primitives.blocks.wire.types import ChatRequest, Message
from tta_dev_primitives.config.models.targets import Capabilities, Price, Target

NOW = 1_795_341_600.0
"""Sunday, 22 November 2026, 10:00 UTC: 02:00 in Los Angeles."""

PROVIDERS = ("anthropic", "google-ai-studio", "groq", "openrouter", "openai-compatible")
CHAT_PROVIDERS = ("groq", "openrouter", "openai-compatible")
_FIELD = {"google-ai-studio": "maxOutputTokens", "groq": "max_completion_tokens"}


def target(provider: str, **can: object) -> Target:
    """A paid target of `provider` whose capabilities are `can`."""
    known = {"max_tokens_field": _FIELD.get(provider, "max_tokens")} | can
    return Target(
        name="the-model",
        provider=provider,
        api_model="vendor/the-model:free" if provider == "openrouter" else "the-model",
        billing="paid",
        api_key_env="THE_KEY",
        family="test",
        price=Price(Decimal("3"), Decimal("15")),
        base_url="https://llm.example/v1" if provider == "openai-compatible" else None,
        capabilities=Capabilities(**known),  # type: ignore[arg-type]
    )


def at_address(base: Target, base_url: str, *, private: bool = True) -> Target:
    """The same target at another address."""
    return replace(base, base_url=base_url, allow_private_hosts=private)


def ask(text: str = "What is 6 times 7?", **more: object) -> ChatRequest:
    """A request of one user turn."""
    return ChatRequest(messages=(Message("user", text),), **more)  # type: ignore[arg-type]


def shared_data(part: str) -> Path:
    """A folder of the shared data, which lies beside a checkout but not in it."""
    root = Path(os.environ.get("TTA_SHARED") or Path(__file__).resolve().parents[3] / "shared")
    folder = root / "data" / part
    if not folder.is_dir():
        pytest.skip(f"the shared data ({part}) is not here; set TTA_SHARED", allow_module_level=True)
    return folder
