"""The requests we build are what the providers' own schemas accept, and say what was asked."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from typing import Any

import pytest
from strict_requests import faults
from wire_samples import PROVIDERS, ask, target

from tta_dev_primitives.blocks.wire.formats import wire_format
from tta_dev_primitives.blocks.wire.types import ChatRequest, Message

PLAN = {
    "type": "object",
    "title": "Plan",
    "properties": {
        "use_case": {"type": "string", "enum": ["simple", "complex"]},
        "score": {"type": "number", "minimum": 0, "maximum": 1},
        "steps": {"type": "array", "items": {"type": "object", "properties": {"do": {"type": "string"}}}},
    },
    "required": ["use_case", "score", "steps"],
}
THINKING = {
    "anthropic": ("none", "anthropic_adaptive"),
    "google-ai-studio": ("none", "gemini_budget", "gemini_level"),
    "groq": ("none", "groq_effort"),
    "openrouter": ("none", "openrouter_effort"),
    "openai-compatible": ("none",),
}
FIELDS = {
    "anthropic": ("max_tokens",),
    "google-ai-studio": ("maxOutputTokens",),
    "groq": ("max_completion_tokens", "max_tokens"),
    "openrouter": ("max_tokens", "max_completion_tokens"),
    "openai-compatible": ("max_tokens",),
}


def combinations() -> Iterator[Any]:
    for provider in PROVIDERS:
        # The schema of Anthropic is of the newest API version, which knows no temperature.
        warm = (False,) if provider == "anthropic" else (False, True)
        for mode, thinking, field, heat, system_role in itertools.product(
            ("none", "json_object", "json_schema", "tool"),
            THINKING[provider],
            FIELDS[provider],
            warm,
            (True, False),
        ):
            can = {"json_mode": mode, "thinking": thinking, "max_tokens_field": field, "temperature": heat}
            can |= {"system_role": system_role, "min_thinking_budget": 128}
            name = f"{provider}-{mode}-{thinking}-{field}-{'warm' if heat else 'cold'}-{system_role}"
            yield pytest.param(provider, can, id=name)


@pytest.mark.parametrize(("provider", "can"), list(combinations()))
def test_every_request_is_one_that_the_official_sdk_knows(provider: str, can: dict[str, Any]) -> None:
    """For all capabilities: a plain question, a conversation, and a structured one with everything set."""
    model = target(provider, **can)
    talk = (Message("user", "One"), Message("assistant", "Two"), Message("user", "Three"))
    for request in (
        ask(),
        ChatRequest(talk, system="Be brief.", stop=("END",), temperature=0.2, thinking="low"),
        ChatRequest(talk, system="Be brief.", json_schema=PLAN, temperature=0.2, thinking="low"),
        ask(json_schema={"type": "object"}),
        ask(json_schema=PLAN | {"properties": PLAN["properties"] | {"next": {"$ref": "#"}}}),
    ):
        wire = wire_format(provider).build(model, request)
        body = json.loads(json.dumps(wire.body))
        assert faults(provider, body) == []
        limits = [
            v for k, v in _flat(body) if k in ("max_tokens", "max_completion_tokens", "maxOutputTokens")
        ]
        assert limits == [request.max_output_tokens]


def _flat(node: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(node, dict):
        for key, value in node.items():
            yield key, value
            yield from _flat(value)


@pytest.mark.parametrize("provider", PROVIDERS)
def test_the_sdk_types_would_catch_a_stray_field(provider: str) -> None:
    """A check of the check: one invented field makes each type complain."""
    body = dict(wire_format(provider).build(target(provider), ask()).body)
    assert not faults(provider, body)
    assert faults(provider, body | {"max_token": 5})


@pytest.mark.parametrize("provider", PROVIDERS)
def test_temperature_goes_only_to_models_that_take_it(provider: str) -> None:
    """Newer Anthropic models answer 400 to any sampling parameter."""
    for takes in (True, False):
        wire = wire_format(provider).build(target(provider, temperature=takes), ask(temperature=0.5))
        assert [v for k, v in _flat(dict(wire.body)) if k == "temperature"] == ([0.5] if takes else [])


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_model_without_schema_mode_is_asked_in_words(provider: str) -> None:
    """The instruction with the schema follows the caller's own system text."""
    wire = wire_format(provider).build(target(provider), ask(system="Be brief.", json_schema=PLAN))
    text = json.dumps(wire.body)
    assert "Be brief." in text
    assert "one JSON object" in text
    assert "use_case" in text


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_model_with_schema_mode_gets_the_schema_and_no_words(provider: str) -> None:
    """Constrained decoding needs no instruction; tokens are money."""
    wire = wire_format(provider).build(target(provider, json_mode="json_schema"), ask(json_schema=PLAN))
    assert "one JSON object" not in json.dumps(wire.body)
    assert "use_case" in json.dumps(wire.body)


def test_anthropic_gets_a_closed_schema_without_bounds() -> None:
    """Its structured output refuses open objects and numeric bounds."""
    wire = wire_format("anthropic").build(target("anthropic", json_mode="json_schema"), ask(json_schema=PLAN))
    schema = wire.body["output_config"]["format"]["schema"]
    assert schema["additionalProperties"] is False
    assert schema["properties"]["score"] == {"type": "number"}
    assert schema["properties"]["steps"]["items"]["additionalProperties"] is False


def test_strict_is_claimed_only_where_every_property_is_required() -> None:
    """OpenAI's strict mode refuses optional properties."""
    chat, model = wire_format("groq"), target("groq", json_mode="json_schema")
    loose = chat.build(model, ask(json_schema=PLAN)).body["response_format"]["json_schema"]
    assert "strict" not in loose
    closed = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}
    tight = chat.build(model, ask(json_schema=closed)).body["response_format"]["json_schema"]
    assert tight == {"name": "answer", "strict": True, "schema": closed | {"additionalProperties": False}}


def test_openrouter_must_not_drop_the_schema_silently() -> None:
    """Upstreams ignore parameters they do not know unless `require_parameters` is set."""
    wire = wire_format("openrouter").build(
        target("openrouter", json_mode="json_object"), ask(json_schema=PLAN)
    )
    assert wire.body["provider"] == {"require_parameters": True}
    assert "provider" not in wire_format("openrouter").build(target("openrouter"), ask()).body


def test_a_model_name_cannot_change_the_path() -> None:
    """Gemini's model stands in the path: slashes, questions and dots in it are encoded."""
    from dataclasses import replace

    odd = replace(target("google-ai-studio"), api_model="../x?key=y#z")
    path = wire_format("google-ai-studio").build(odd, ask()).path
    assert path == "/v1beta/models/..%2Fx%3Fkey%3Dy%23z:generateContent"


@pytest.mark.parametrize(
    ("provider", "thinking", "field", "value"),
    [
        ("anthropic", "anthropic_adaptive", "thinking", {"type": "disabled"}),
        ("google-ai-studio", "gemini_budget", "thinkingConfig", {"thinkingBudget": 128}),
        ("google-ai-studio", "gemini_level", "thinkingConfig", {"thinkingLevel": "LOW"}),
        ("groq", "groq_effort", "reasoning_effort", "low"),
        ("openrouter", "openrouter_effort", "reasoning", {"effort": "low"}),
    ],
)
def test_little_thinking_is_asked_in_the_providers_words(
    provider: str, thinking: str, field: str, value: object
) -> None:
    """`low` becomes the least the model allows; `default` sends nothing."""
    model = target(provider, thinking=thinking, min_thinking_budget=128)
    low = dict(_flat(dict(wire_format(provider).build(model, ask(thinking="low")).body)))
    default = dict(_flat(dict(wire_format(provider).build(model, ask()).body)))
    assert low[field] == value
    assert field not in default


def test_roles_are_spelled_as_each_provider_spells_them() -> None:
    """Gemini calls the assistant `model`, and system text goes where each format keeps it."""
    talk = ChatRequest((Message("user", "a"), Message("assistant", "b"), Message("user", "c")), system="s")
    gemini = wire_format("google-ai-studio").build(target("google-ai-studio"), talk).body
    assert [turn["role"] for turn in gemini["contents"]] == ["user", "model", "user"]
    assert gemini["systemInstruction"] == {"parts": [{"text": "s"}]}
    claude = wire_format("anthropic").build(target("anthropic"), talk).body
    assert claude["system"] == "s"
    groq = wire_format("groq").build(target("groq"), talk).body
    assert [turn["role"] for turn in groq["messages"]] == ["system", "user", "assistant", "user"]
