"""Servers that others wrote for others' clients serve ours: aimock speaks the formats, Steady holds the schemas."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from npm_servers import program, running
from pydantic import SecretStr
from sandbox_kit import shared

from tta_dev_primitives.blocks.prefect_server.manager import ServerInfo
from tta_dev_primitives.blocks.providers.client import ProviderClient
from tta_dev_primitives.blocks.wire.formats import wire_format
from tta_dev_primitives.blocks.wire.reply_problems import reply_problem
from tta_dev_primitives.blocks.wire.types import ChatRequest, Message
from tta_dev_primitives.config.models.catalogue import load_catalogue
from tta_dev_primitives.config.models.targets import Capabilities, Target
from tta_dev_primitives.config.provider_errors import ErrorClass, LedgerAction, ProviderError
from tta_dev_primitives.flows.answers.strict_json import one_object
from tta_dev_primitives.orchestration import MultiModelWorkflow

pytestmark = pytest.mark.server

KEY = SecretStr("third-party-test-key")
ANSWER = "A kettle heats water until it boils."
VERDICT = {"score": 0.95, "reason": "complete"}
SCHEMA = {
    "type": "object",
    "properties": {"score": {"type": "number"}, "reason": {"type": "string"}},
    "required": ["score", "reason"],
    "additionalProperties": False,
}
MODELS = {
    "anthropic": "claude-sonnet-4-6",
    "google-ai-studio": "gemini-2.5-pro",
    "groq": "openai/gpt-oss-120b",
    "openrouter": "openai/gpt-oss-120b:free",
    "openai-compatible": "local-model",
}
PATHS = {"openrouter": "/api/v1", "openai-compatible": "/v1"}


def target(provider: str, base_url: str) -> Target:
    """The provider's model of the catalogue, at another address."""
    name = MODELS[provider]
    entry = load_catalogue().find(name, provider)
    return Target(
        name=name,
        provider=provider,
        api_model=name,
        billing="free",
        api_key_env="KEY",
        family="f",
        price=None,
        base_url=base_url,
        capabilities=entry.capabilities if entry is not None else Capabilities(),
        allow_private_hosts=True,
    )


def ask(text: str, **more: Any) -> ChatRequest:
    """One user turn."""
    return ChatRequest(messages=(Message("user", text),), **more)


# aimock: Anthropic, Gemini, Groq, OpenRouter and OpenAI on one port, answering from fixtures.


def error(text: str, status: int, kind: str, code: str) -> dict[str, Any]:
    """A fixture that fails."""
    return {
        "match": {"userMessage": text},
        "response": {"error": {"message": "no", "type": kind, "code": code}, "status": status},
    }


FIXTURES = {
    "fixtures": [
        {"match": {"userMessage": "Score 0 to 1"}, "response": {"content": json.dumps(VERDICT)}},
        {
            "match": {"userMessage": "kettle"},
            "response": {
                "content": ANSWER,
                "usage": {
                    "prompt_tokens": 11,
                    "completion_tokens": 8,
                    "total_tokens": 19,
                    "input_tokens": 11,
                    "output_tokens": 8,
                    "promptTokenCount": 11,
                    "candidatesTokenCount": 8,
                    "totalTokenCount": 19,
                },
            },
        },
        {"match": {"userMessage": "cut"}, "response": {"content": "A kettle", "finishReason": "length"}},
        {
            "match": {"userMessage": "filtered"},
            "response": {"content": "", "finishReason": "content_filter"},
        },
        error("too fast", 429, "rate_limit_error", "rate_limit_exceeded"),
        error("no key", 401, "authentication_error", "invalid_api_key"),
        error("gone", 404, "not_found_error", "model_not_found"),
        error("broken", 500, "api_error", "internal"),
        error("busy", 503, "overloaded_error", "overloaded"),
    ]
}


@pytest.fixture(scope="module")
def aimock(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A running aimock."""
    folder = tmp_path_factory.mktemp("aimock")
    (folder / "fixtures.json").write_text(json.dumps(FIXTURES))
    command = [program("llmock"), "-p", "{port}", "-f", str(folder / "fixtures.json"), "--strict"]
    with running(command, folder / "log") as url:
        yield url


@pytest.fixture(params=list(MODELS))
def served(aimock: str, request: pytest.FixtureRequest) -> Target:
    """A model of each provider, served by aimock."""
    return target(request.param, aimock + PATHS.get(request.param, ""))


async def test_aimock_answers_our_client(served: Target) -> None:
    """Text, finish, usage and model arrive in each of the five formats."""
    async with ProviderClient() as client:
        reply = await client.send(
            served, ask("What does a kettle do?", system="Be brief.", stop=("#",)), key=KEY
        )
    assert (reply.text, reply.finish) == (ANSWER, "stop")
    assert (reply.usage.total_input, reply.usage.output_tokens, reply.usage.flag) == (11, 8, None)
    assert reply_problem(reply) is None


async def test_aimock_takes_our_structured_requests(served: Target) -> None:
    """With a schema each model is asked in its own way; the strict parser reads what comes back."""
    request = ask("Score 0 to 1.", json_schema=SCHEMA, schema_name="tta_verdict", thinking="low")
    async with ProviderClient() as client:
        reply = await client.send(served, request, key=KEY)
    assert one_object(reply.text) == VERDICT


@pytest.mark.parametrize("text", ["cut", "filtered"])
async def test_aimocks_cut_and_filtered_answers_are_no_successes(served: Target, text: str) -> None:
    """A finish other than a plain end is a quality failure, as each format spells it."""
    problem = ErrorClass.TRUNCATED if text == "cut" else ErrorClass.CONTENT
    async with ProviderClient() as client:
        assert reply_problem(await client.send(served, ask(text), key=KEY)) is problem


@pytest.mark.parametrize(
    ("text", "error_class", "action"),
    [
        ("too fast", ErrorClass.RATE_LIMIT, LedgerAction.RELEASE),
        ("no key", ErrorClass.AUTH, LedgerAction.RELEASE),
        ("gone", ErrorClass.MODEL_GONE, LedgerAction.RELEASE),
        ("broken", ErrorClass.TRANSIENT, LedgerAction.CHARGE_AT_BOUND),
        ("busy", ErrorClass.OVERLOADED, LedgerAction.RELEASE),
    ],
)
async def test_aimocks_errors_have_our_classes(
    served: Target, text: str, error_class: ErrorClass, action: LedgerAction
) -> None:
    """The taxonomy reads errors that another's emulator writes.

    `overloaded` is how OpenAI and Anthropic turn requests away. At the others a 503 with it may be a gateway's, in
    front of a model that is at work.
    """
    if text == "busy" and served.provider not in ("anthropic", "openai-compatible"):
        error_class, action = ErrorClass.TRANSIENT, LedgerAction.CHARGE_AT_BOUND
    async with ProviderClient() as client:
        with pytest.raises(ProviderError) as caught:
            await client.send(served, ask(text), key=KEY)
    assert (caught.value.error_class, caught.value.ledger_action) == (error_class, action)
    assert caught.value.retry_after_s == (1.0 if text == "too fast" else None)


@pytest.mark.parametrize("provider", list(MODELS))
def test_aimocks_streams_add_up_to_the_same_answer(aimock: str, provider: str) -> None:
    """Our stream readers rebuild from another's event stream what a plain call returns."""
    model = target(provider, aimock + PATHS.get(provider, ""))
    form = wire_format(provider)
    wire = form.build(model, ask("What does a kettle do?"))
    url, body = model.base_url + wire.path, dict(wire.body)  # type: ignore[operator]
    if provider == "google-ai-studio":
        url = url.replace(":generateContent", ":streamGenerateContent?alt=sse")
    else:
        body["stream"] = True
    headers = {**form.headers, **form.key_headers(KEY)}
    response = httpx.post(url, json=body, headers=headers)
    assert response.headers["content-type"].startswith("text/event-stream")
    reply = form.parse(model, 200, response.headers, response.content)
    assert (reply.text, reply.finish) == (ANSWER, "stop")


def test_a_whole_run_goes_through_aimock(
    aimock: str, prefect_server: ServerInfo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Plan, execute and a paid verdict, as a flow run, against a server that was not written for us."""
    monkeypatch.setenv("THIRD_PARTY_KEY", KEY.get_secret_value())
    config = {
        "allow_private_hosts": True,
        "validation": {"mode": "always"},
        "orchestrator": {"model": "claude-sonnet-4-6", "api_key_env": "THIRD_PARTY_KEY", "base_url": aimock},
        "executors": [
            {
                "model": "openai/gpt-oss-120b",
                "provider": "groq",
                "api_key_env": "THIRD_PARTY_KEY",
                "base_url": aimock,
                "use_cases": ["moderate"],
            }
        ],
        "fallback_strategy": {"models": []},
        "cost_tracking": {"ledger_url": f"sqlite:///{tmp_path / 'ledger.db'}"},
    }
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump({"orchestration": config}))
    result = MultiModelWorkflow(path, use_env_overrides=False).run("Explain a kettle.", use_case="moderate")
    assert (result.content, result.evidence, result.quality_score) == (ANSWER, "judge", 0.95)
    assert result.accepted
    # aimock counts no tokens where a fixture names none: the paid verdict is charged at its bound.
    assert result.cost_usd > 0
    assert any("charged at the bound" in warning for warning in result.warnings)


# Steady: answers from an OpenAPI schema and refuses requests that do not satisfy it.

SPECS = {
    "openrouter": ("openrouter.chat.subset.json", "ChatRequest", "ChatResult"),
    "openai-compatible": (
        "openai.chat.subset.json",
        "CreateChatCompletionRequest",
        "CreateChatCompletionResponse",
    ),
}


def api_of(provider: str) -> dict[str, Any]:
    """The provider's published schemas as an API with one call."""
    file, request, response = SPECS[provider]
    document: dict[str, Any] = json.loads(shared(f"specs/{file}").read_text())
    content = {
        name: {"application/json": {"schema": {"$ref": f"#/components/schemas/{name}"}}}
        for name in (request, response)
    }
    call = {
        "operationId": "chat",
        "requestBody": {"required": True, "content": content[request]},
        "responses": {"200": {"description": "an answer", "content": content[response]}},
    }
    return {
        "openapi": document["openapi"],
        "info": document["info"],
        "components": document["components"],
        "paths": {"/chat/completions": {"post": call}},
    }


@pytest.fixture(scope="module", params=list(SPECS))
def steady(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    """A model of a provider whose schemas a running Steady holds."""
    folder = tmp_path_factory.mktemp("steady")
    (folder / "api.json").write_text(json.dumps(api_of(request.param)))
    command = [
        program("steady"),
        "--host",
        "127.0.0.1",
        "-p",
        "{port}",
        "--no-color",
        str(folder / "api.json"),
    ]
    with running(command, folder / "log") as url:
        yield target(request.param, url)


@pytest.mark.parametrize(
    "request_of",
    [
        ask("What does a kettle do?"),
        ask("What does a kettle do?", system="Be brief.", stop=("#", "\n\n"), temperature=0.2),
        ask("Judge.", json_schema=SCHEMA, schema_name="tta_verdict", thinking="low", max_output_tokens=64),
    ],
    ids=["plain", "with options", "with a schema"],
)
@pytest.mark.parametrize("json_mode", ["none", "json_object", "json_schema"])
async def test_steady_finds_our_requests_valid(
    steady: Target, request_of: ChatRequest, json_mode: Any
) -> None:
    """Whatever we send satisfies the published schema, and what the schema makes up is read as an answer."""
    model = replace(steady, capabilities=replace(steady.capabilities, json_mode=json_mode))
    async with ProviderClient() as client:
        reply = await client.send(model, request_of, key=KEY)
    assert reply.text
    assert reply.model_returned


async def test_steady_refuses_what_breaks_the_schema(steady: Target) -> None:
    """The proof that it does look: a model id that is no text is turned away, which we read as a bad request."""
    wrong = replace(steady, api_model=42)  # type: ignore[arg-type]
    async with ProviderClient() as client:
        with pytest.raises(ProviderError) as caught:
            await client.send(wrong, ask("What does a kettle do?"), key=KEY)
    assert caught.value.error_class is ErrorClass.INVALID_REQUEST
