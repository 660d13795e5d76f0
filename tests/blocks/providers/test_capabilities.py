"""Optional fields that a model refuses are learned from its provider's words, kept a week, and never guessed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from provider_model import VirtualClock, target_of

from tta_dev_primitives.blocks.ledger.database.protocol import Database, database_for
from tta_dev_primitives.blocks.providers.capabilities import KEPT_S, LearnedCapabilities, lesson_of
from tta_dev_primitives.blocks.wire.formats import wire_format
from tta_dev_primitives.blocks.wire.types import ChatRequest, Message
from tta_dev_primitives.config.models.catalogue import load_catalogue
from tta_dev_primitives.config.models.targets import Capabilities, Limits, Target
from tta_dev_primitives.config.provider_errors import ErrorClass, ProviderError

TARGET = replace(
    target_of("m", "openai-compatible", Limits()),
    base_url="https://host.example/v1",
    capabilities=Capabilities(json_mode="json_schema", thinking="groq_effort"),
)
ASK = ChatRequest(
    (Message("user", "hello"),),
    system="Be brief.",
    temperature=0.2,
    stop=("X",),
    json_schema={"type": "object", "properties": {}},
)


def refusal(message: str, status: int = 400, kind: ErrorClass = ErrorClass.INVALID_REQUEST) -> ProviderError:
    return ProviderError(message, provider="p", model="m", error_class=kind, status=status)


@pytest.mark.parametrize(
    ("said", "field", "value"),
    [
        (
            "Unsupported parameter: 'max_tokens' is not supported with this model. "
            "Use 'max_completion_tokens' instead.",
            "max_tokens_field",
            "max_completion_tokens",
        ),
        ("temperature: Extra inputs are not permitted", "temperature", False),
        (
            "Unsupported value: 'temperature' does not support 0.2 with this model. Only the default (1) is.",
            "temperature",
            False,
        ),
        ("Developer instruction is not enabled for models/gemma-3-27b-it", "system_role", False),
        ("System role not supported", "system_role", False),
        ("Conversation roles must alternate user/assistant/user/assistant/...", "system_role", False),
        ("'messages[0].role' does not support 'system' with this model.", "system_role", False),
        ("This model does not support response_format `json_schema`", "json_mode", "json_object"),
        ("JSON mode is not enabled for models/gemma-3-27b-it", "json_mode", "json_object"),
        ("Unsupported parameter: 'stop' is not supported with this model.", "stop", False),
        ("Unrecognized request argument supplied: reasoning_effort", "thinking", "none"),
        ("`include_reasoning` is not supported with this model", "thinking", "none"),
    ],
)
def test_a_refusal_that_names_a_field_says_how_to_ask(said: str, field: str, value: object) -> None:
    """The field named first is renamed, moved or left out."""
    lesson = lesson_of(TARGET, ASK, refusal(said))
    assert lesson is not None
    assert (lesson.field, lesson.value) == (field, value)
    assert getattr(lesson.applied_to(TARGET).capabilities, field) == value


@pytest.mark.parametrize(
    ("target", "request_", "error"),
    [
        (TARGET, ASK, refusal("max_tokens: 999999 is too large; the limit is 8192")),
        (TARGET, ASK, refusal("the prompt is unsafe")),
        (TARGET, ASK, refusal("temperature is not supported", status=500)),
        (TARGET, ASK, refusal("temperature is not supported", kind=ErrorClass.AUTH)),
        (TARGET, replace(ASK, temperature=None), refusal("temperature is not supported")),
        (TARGET, replace(ASK, stop=()), refusal("'stop' is not supported")),
        (
            replace(TARGET, fixed_capabilities=frozenset({"temperature"})),
            ASK,
            refusal("temperature is not supported"),
        ),
    ],
    ids=["a value", "something else", "no refusal", "a key", "not sent", "no stop sent", "set in the file"],
)
def test_nothing_else_is_a_lesson(target: Target, request_: ChatRequest, error: ProviderError) -> None:
    """A field that was not sent, a value out of range, another status: the next model's turn comes."""
    assert lesson_of(target, request_, error) is None


@pytest.mark.parametrize("provider", ["anthropic", "google-ai-studio", "openai-compatible", "openrouter"])
def test_without_a_system_role_the_text_stands_in_the_users_turn(provider: str) -> None:
    """One user turn, so that user and assistant alternate; nothing of the text is lost."""
    target = replace(TARGET, provider=provider, capabilities=Capabilities(system_role=False, stop=False))
    body = wire_format(provider).build(target, replace(ASK, json_schema=None)).body
    turns: Any = body.get("contents") or body["messages"]
    assert [turn["role"] for turn in turns] == ["user"]
    assert "Be brief." in str(turns[0])
    assert "hello" in str(turns[0])
    assert not {"system", "systemInstruction", "stop", "stop_sequences"} & set(body)


@pytest.mark.parametrize(
    ("provider", "name", "field", "value"),
    [
        ("google-ai-studio", "gemma-3-27b-it", "system_role", False),
        ("google-ai-studio", "gemma-3-27b-it", "max_tokens_field", "maxOutputTokens"),
        ("openai-compatible", "gpt-5.5", "max_tokens_field", "max_completion_tokens"),
        ("openrouter", "openai/o3-mini", "temperature", False),
        ("openai-compatible", "o1-mini", "system_role", False),
        ("openai-compatible", "olmo-3", "temperature", True),
        ("openai-compatible", "gpt-oss:20b", "max_tokens_field", "max_tokens"),
    ],
)
def test_the_catalogue_knows_series(provider: str, name: str, field: str, value: object) -> None:
    """What a name says of its series holds without an entry of its own."""
    assert getattr(load_catalogue().capabilities_of(name, provider), field) == value


@pytest.fixture
async def database(tmp_path: Path) -> Any:
    opened = database_for(f"sqlite:///{tmp_path / 'ledger.db'}")
    yield opened
    await opened.aclose()


async def test_a_lesson_is_kept_for_a_week_for_its_model_and_key(database: Database) -> None:
    """Another process knows it; another key, model or a field set in the file does not follow it."""
    clock = VirtualClock(1_795_000_000.0)
    lesson = lesson_of(TARGET, ASK, refusal("temperature is not supported"))
    assert lesson is not None
    await LearnedCapabilities(database, clock=clock).keep(TARGET, "k", [lesson])

    async def takes(target: Target, key: str) -> bool:
        other = LearnedCapabilities(database, clock=clock)
        return (await other.applied_to(target, key)).capabilities.temperature

    assert not await takes(TARGET, "k")
    assert await takes(TARGET, "another")
    assert await takes(replace(TARGET, api_model="n"), "k")
    assert await takes(replace(TARGET, fixed_capabilities=frozenset({"temperature"})), "k")
    clock.now += KEPT_S + 1
    assert await takes(TARGET, "k")
