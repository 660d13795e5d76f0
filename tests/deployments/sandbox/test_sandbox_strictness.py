"""The sandbox refuses malformed requests: wrong fields, wrong types, and what the rules of a provider forbid."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from sandbox_kit import MODELS, ask, shared, text_of
from strict_requests import faults, validator
from wire_samples import target

from tta_dev_primitives.blocks.wire.formats import wire_format
from tta_dev_primitives.blocks.wire.types import ChatRequest, Message
from tta_dev_primitives.deployments.sandbox import Sandbox
from tta_dev_primitives.deployments.sandbox.anthropic.requests import parse_messages
from tta_dev_primitives.deployments.sandbox.chat import Refusal
from tta_dev_primitives.deployments.sandbox.gemini.requests import parse_generate
from tta_dev_primitives.deployments.sandbox.openai.requests import parse_chat

NEW = "claude-sonnet-5-5"
OPEN_SCHEMA = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}
SCHEMA = OPEN_SCHEMA | {"additionalProperties": False}


def json_format(schema: dict[str, Any], **more: Any) -> dict[str, Any]:
    """OpenAI's structured output."""
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema, **more}}


def config(**fields: Any) -> dict[str, Any]:
    """Gemini's generation config."""
    return {"generationConfig": fields}


REFUSED = [
    ("anthropic", {"max_tokens": None}, "max_tokens"),
    ("anthropic", {"max_tokens": "100"}, "max_tokens: Input should be a valid integer"),
    ("anthropic", {"max_tokens": 0}, "greater than or equal to 1"),
    ("anthropic", {"nonsense": 1}, "nonsense: Extra inputs are not permitted"),
    ("anthropic", {"messages": []}, "messages: List should have at least 1 item"),
    ("anthropic", {"messages": [{"role": "user", "content": ""}]}, "messages.0.content: Value should have"),
    ("anthropic", {"messages": [{"role": "robot", "content": "x"}]}, "messages.0.role"),
    ("anthropic", {"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "text: Field required"),
    ("anthropic", {"temperature": 1.5}, "temperature: Input should be less than or equal to 1"),
    ("anthropic", {"model": NEW, "temperature": 0.2}, "`temperature` is not supported"),
    ("google-ai-studio", {"nonsense": 1}, 'Unknown name "nonsense"'),
    ("google-ai-studio", config(nonsense=1), "Unknown name \"nonsense\" at 'generation_config'"),
    ("google-ai-studio", {"contents": []}, "Invalid value at 'contents'"),
    ("google-ai-studio", {"contents": [{"role": "assistant", "parts": [{"text": "x"}]}]}, "'contents[0].role'"),
    ("google-ai-studio", {"contents": [{"parts": [{}]}]}, "'contents[0].parts[0].text' (Field required)"),
    ("google-ai-studio", config(maxOutputTokens="many"), "Invalid value at 'generation_config.max_output_tokens'"),
    ("google-ai-studio", config(temperature=3), "Invalid value at 'generation_config.temperature'"),
    ("google-ai-studio", config(responseJsonSchema=SCHEMA), "response_mime_type"),
    ("groq", {"nonsense": 1}, "property 'nonsense' is unsupported"),
    ("groq", {"messages": []}, "'messages' : List should have at least 1 item"),
    ("groq", {"messages": [{"role": "user"}]}, "property 'content' is missing"),
    ("groq", {"max_tokens": "5"}, "'max_tokens'"),
    ("groq", {"stop": ["a", "b", "c", "d", "e"]}, "'stop' : List should have at most 4 items"),
    ("groq", {"response_format": {"type": "json_object"}}, "must contain the word 'json'"),
    ("openrouter", {"nonsense": 1}, 'Unrecognized key: "nonsense"'),
    ("openrouter", {"model": "gpt-4"}, "is not a valid model ID"),
    ("openrouter", {"temperature": 9}, "less than or equal to 2 (at temperature)"),
    ("openrouter", {"provider": {"sort_by": "price"}}, "sort_by"),
    ("openai-compatible", {"nonsense": 1}, "Unrecognized request argument supplied: nonsense"),
    ("openai-compatible", {"messages": [{"role": "user", "content": "x", "extra": 1}]},
     "Unknown parameter: 'messages[0].extra'"),
    ("openai-compatible", {"stream_options": {"include_usage": True}}, "only allowed when 'stream' is enabled"),
    ("openai-compatible", {"max_tokens": 0}, "Invalid 'max_tokens': Input should be greater than or equal to 1"),
]  # fmt: skip


@pytest.mark.parametrize(("provider", "change", "message"), REFUSED)
def test_bad_requests_get_the_providers_own_400(
    sandbox: Sandbox, provider: str, change: dict[str, Any], message: str
) -> None:
    """A 400 in the provider's form names the field; nothing is billed."""
    response = ask(sandbox, provider, **change)
    assert response.status_code == 400
    assert message in response.json()["error"]["message"]
    assert (sandbox.calls[-1].billed, sandbox.calls[-1].error in ("invalid_request", "model_gone")) == (
        False,
        True,
    )


@pytest.mark.parametrize("version", [None, "2023-01-01", "latest"])
def test_anthropic_wants_a_known_version(sandbox: Sandbox, version: str | None) -> None:
    """The version header is required, and only known versions pass."""
    headers = {"x-api-key": "any"} | ({"anthropic-version": version} if version else {})
    assert "anthropic-version" in ask(sandbox, "anthropic", headers=headers).json()["error"]["message"]


def test_the_new_anthropic_version_takes_no_sampling_options(sandbox: Sandbox) -> None:
    """Under 2026-10-21 temperature is refused, although the model takes it under 2023-06-01."""
    for version, status in (("2023-06-01", 200), ("2026-10-21", 400)):
        headers = {"x-api-key": "any", "anthropic-version": version}
        assert ask(sandbox, "anthropic", headers=headers, temperature=0.5).status_code == status


@pytest.mark.parametrize("model", ["claude-sonnet-4.5", "gpt-4", "claude", "sonnet-4-5"])
def test_names_that_are_no_api_ids_are_not_found(sandbox: Sandbox, model: str) -> None:
    """The guide's dotted name is no id of the API: it must be translated before it is sent."""
    response = ask(sandbox, "anthropic", model=model)
    assert (response.status_code, response.json()["error"]["message"]) == (404, f"model: {model}")
    assert ask(sandbox, "google-ai-studio", model=model).status_code == 404


GOOD = [
    ("anthropic", {"system": [{"type": "text", "text": "x", "cache_control": {"type": "ephemeral"}}]}),
    ("anthropic", {"model": "claude-opus-5-5", "output_config": {"effort": "high"}, "thinking": {"type": "adaptive"}}),
    ("anthropic", {"temperature": 0, "stop_sequences": ["END"], "metadata": {"user_id": "u"}}),
    ("google-ai-studio", {"system_instruction": {"parts": [{"text": "x"}]}, "generation_config": {"top_p": 0.5}}),
    ("google-ai-studio", config(thinkingConfig={"thinkingBudget": 128}, stopSequences=["a"], seed=1)),
    ("groq", {"seed": 1, "user": None, "stop": "x", "service_tier": "flex", "stream": False}),
    ("openrouter", {"usage": {"include": True}, "provider": {"require_parameters": True}, "transforms": []}),
    ("openai-compatible", {"max_completion_tokens": 9, "response_format": json_format(SCHEMA, strict=True)}),
]  # fmt: skip


@pytest.mark.parametrize(("provider", "change"), GOOD)
def test_good_options_pass(sandbox: Sandbox, provider: str, change: dict[str, Any]) -> None:
    """Options that the providers document are taken."""
    assert ask(sandbox, provider, **change).status_code == 200


def test_answers_stop_at_max_tokens_and_at_stop_sequences(sandbox: Sandbox) -> None:
    """No answer, and no bill, goes beyond `max_tokens`; a stop sequence ends the text before it."""
    cut = ask(sandbox, "anthropic", max_tokens=3).json()
    assert (cut["stop_reason"], cut["usage"]["output_tokens"], len(text_of("anthropic", cut)) <= 12) == (
        "max_tokens", 3, True,
    )  # fmt: skip
    stopped = ask(sandbox, "anthropic", stop_sequences=["scripted"]).json()
    assert (stopped["stop_reason"], stopped["stop_sequence"]) == ("stop_sequence", "scripted")
    assert text_of("anthropic", stopped) == "[sandbox] This is a "
    assert sandbox.calls[-2].usage.output_tokens == 3


# Against the types of the official SDKs

PLAN = SCHEMA | {"title": "Plan"}
CAN = {"json_mode": "json_schema", "thinking": "none", "temperature": True, "system_role": True}
FREE_FORM = {"schema", "input_schema", "responseJsonSchema"}
VALUES: tuple[Any, ...] = (7, -1, 1.5, "zzz", True, [], {}, ["q"], {"q": 1})


def ours(provider: str) -> Iterator[dict[str, Any]]:
    """Requests as the product builds them: plain, and with everything that it can send."""
    models = {"anthropic": "claude-sonnet-4-5", "groq": "openai/gpt-oss-120b", "openrouter": "a/b"}
    thinking = {"groq": "groq_effort", "openrouter": "openrouter_effort"}.get(provider, "none")
    modes = ("json_schema", "tool") if provider == "anthropic" else ("json_schema",)
    talk = (Message("user", "One"), Message("assistant", "Two"), Message("user", "Three"))
    for mode in modes:
        model = target(provider, **CAN | {"json_mode": mode, "thinking": thinking})
        model = replace(model, api_model=models.get(provider, MODELS[provider]))
        asked = ChatRequest(
            talk, system="Be brief.", stop=("END",), temperature=0.2, json_schema=PLAN, thinking="low"
        )
        yield json.loads(json.dumps(wire_format(provider).build(model, asked).body))


def accepts(provider: str, body: dict[str, Any]) -> bool:
    """Whether the sandbox would answer."""
    try:
        if provider == "anthropic":
            parse_messages(body, version="2023-06-01")
        elif provider == "google-ai-studio":
            parse_generate(body, model=MODELS[provider], version="v1beta", stream=False)
        else:
            parse_chat(body, provider=provider)
    except Refusal:
        return False
    return True


def _paths(node: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    inner = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in inner:
        if key not in FREE_FORM:
            yield from _paths(value, (*path, key))


def _mutants(body: dict[str, Any]) -> Iterator[tuple[Any, dict[str, Any]]]:
    """Each field taken away, replaced by values of other types, and an unknown field beside it."""
    for path in list(_paths(body))[1:]:
        for value in ("delete", "beside", *VALUES):
            mutant = copy.deepcopy(body)
            holder: Any = mutant
            for key in path[:-1]:
                holder = holder[key]
            if value == "beside" and isinstance(holder, dict):
                holder["nonsense"] = 1
            elif value == "delete":
                del holder[path[-1]]
            else:
                holder[path[-1]] = value
            yield (path, value), mutant


@pytest.mark.parametrize("provider", MODELS)
def test_what_the_sdk_types_refuse_in_our_requests_the_sandbox_refuses(provider: str) -> None:
    """Each field of our requests is broken in eleven ways: nothing that the SDK's type refuses is answered."""
    tried, wrong = 0, []
    for body in ours(provider):
        assert accepts(provider, body)
        assert faults(provider, body) == []
        for change, mutant in _mutants(body):
            tried += 1
            if accepts(provider, mutant) and not validator(provider).is_valid(mutant):
                wrong.append(change)
    assert wrong == []
    assert tried > 150


NOT_ANSWERED = re.compile(
    r"tool|mcp_servers|cachedContent|task_budget|function|inlineData|'text'|content|models|preset|moderation|web_search|"
    r"max_tokens: Field"
)
"""What the refusals of recorded requests name: tools, files, services of the provider; one request is wrong."""


@pytest.mark.parametrize("file", ["anthropic", "gemini", "groq", "openrouter", "openai"])
def test_real_text_requests_are_answered(file: str) -> None:
    """Recorded requests of real clients are read, but for features that the sandbox does not answer."""
    lines = shared(f"recorded/{file}.jsonl").read_text().splitlines()
    refused = []
    for exchange in map(json.loads, lines):
        body = exchange["request"]
        try:
            if file == "anthropic":
                parse_messages(body, version="2023-06-01")
            elif file == "gemini":
                model = exchange["path"].split("/models/")[1].split(":")[0]
                parse_generate(body, model=model, version="v1beta", stream=False)
            else:
                parse_chat(body, provider="openai-compatible" if file == "openai" else file)
        except Refusal as refusal:
            refused.append(str(refusal))
    assert [text for text in refused if not NOT_ANSWERED.search(text)] == []
    assert len(refused) < 0.7 * len(lines)
