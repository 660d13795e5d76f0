"""What each provider's face answers over HTTP: bodies, streams, headers, errors, keys."""

from __future__ import annotations

import json
import re
from typing import Any

import httpx
import jsonschema
import pytest
from sandbox_kit import KEYS, MODELS, PROVIDERS, ask, events_of, http, path_of, shared, text_of

from tta_dev_primitives.deployments.sandbox import Sandbox, parse_scenario


def spec(name: str) -> Any:
    """A schema of the shared specs."""
    return json.loads(shared(f"specs/{name}").read_text())


def response_schema(provider: str) -> dict[str, Any]:
    """The provider's reply, as its own types or pages describe it."""
    if provider == "anthropic":
        return dict(spec("anthropic.messages.response.schema.json"))
    if provider == "groq":
        return dict(spec("groq.chat.response.schema.json"))
    if provider == "openrouter":
        components = spec("openrouter.chat.subset.json")["components"]
        return {"$ref": "#/components/schemas/ChatResult", "components": components}
    if provider == "openai-compatible":
        components = spec("openai.chat.subset.json")["components"]
        # What the description forgets: logprobs may be null. It is sent so by every server.
        choice = components["schemas"]["CreateChatCompletionResponse"]["properties"]["choices"]["items"]
        choice["properties"]["logprobs"] = {}
        message = components["schemas"]["ChatCompletionResponseMessage"]
        message["required"] = [k for k in message["required"] if k != "refusal"]
        return {"$ref": "#/components/schemas/CreateChatCompletionResponse", "components": components}
    return dict(spec("gemini.generateContent.response.schema.json"))


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize(
    "reply", ["{}", "{thinking: hmm}", "{finish: length}", "{finish: content_filter, text: ''}"]
)
def test_every_reply_satisfies_the_providers_own_schema(sandbox: Sandbox, provider: str, reply: str) -> None:
    """Plain, thinking, cut and filtered replies all validate against the published response schema."""
    sandbox.use(parse_scenario(f"rules: [{{reply: {reply}}}]"))
    response = ask(sandbox, provider)
    assert response.status_code == 200
    jsonschema.validate(response.json(), response_schema(provider), cls=jsonschema.Draft202012Validator)


@pytest.mark.parametrize("provider", PROVIDERS)
def test_answers_are_labelled_deterministic_and_counted(sandbox: Sandbox, provider: str) -> None:
    """The same question gets the same labelled text; the log holds its tokens, not the key."""
    first, second = ask(sandbox, provider), ask(sandbox, provider)
    text = text_of(provider, first.json())
    assert text.startswith("[sandbox] ")
    assert text == text_of(provider, second.json())
    one, two = sandbox.calls
    assert (one.provider, one.model, one.status, one.billed) == (provider, MODELS[provider], 200, True)
    assert one.usage == two.usage
    assert one.usage.output_tokens == (len(text) + 3) // 4
    assert "any" not in repr(one).split("'")


@pytest.mark.parametrize("provider", PROVIDERS)
def test_streams_carry_the_same_text_and_usage_as_whole_replies(sandbox: Sandbox, provider: str) -> None:
    """The pieces add up to the whole text; usage stands where the provider puts it."""
    whole = ask(sandbox, provider)
    more = {"stream_options": {"include_usage": True}} if provider == "openai-compatible" else {}
    streamed = ask(sandbox, provider, stream=True, **more)
    assert streamed.headers["content-type"].startswith("text/event-stream")
    events = events_of(streamed)
    if provider == "anthropic":
        deltas = [e["delta"]["text"] for e in events if e["type"] == "content_block_delta"]
        usage = next(e["usage"] for e in events if e["type"] == "message_delta")
    elif provider == "google-ai-studio":
        deltas, usage = [text_of(provider, e) for e in events], events[-1]["usageMetadata"]
    else:
        deltas = [c["delta"].get("content") or "" for e in events for c in e["choices"]]
        last = events[-1]
        usage = last["x_groq"]["usage"] if provider == "groq" else last["usage"]
        assert streamed.text.endswith("data: [DONE]\n\n")
    assert "".join(deltas) == text_of(provider, whole.json())
    assert usage == whole.json().get("usage", whole.json().get("usageMetadata"))


def test_rate_limit_headers_are_the_providers_own(sandbox: Sandbox) -> None:
    """Anthropic resets are RFC 3339, Groq's are Go durations for a day's requests and a minute's tokens."""
    sandbox.use(parse_scenario("quotas: [{rpm: 9, rpd: 100, tpm: 5000}]"))
    anthropic, groq = ask(sandbox, "anthropic").headers, ask(sandbox, "groq").headers
    assert (anthropic["anthropic-ratelimit-requests-limit"], anthropic["anthropic-ratelimit-requests-remaining"]) == (
        "9", "8"
    )  # fmt: skip
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", anthropic["anthropic-ratelimit-tokens-reset"])
    assert anthropic["request-id"].startswith("req_")
    assert (groq["x-ratelimit-limit-requests"], groq["x-ratelimit-remaining-requests"]) == ("100", "99")
    assert (groq["x-ratelimit-limit-tokens"], groq["x-groq-region"]) == ("5000", "sandbox")
    assert re.fullmatch(r"(\d+h)?(\d+m)?\d+(\.\d+)?m?s", groq["x-ratelimit-reset-requests"])


# Keys

MISSING = {"anthropic": 401, "google-ai-studio": 403, "groq": 401, "openrouter": 401}
WRONG = {"anthropic": 401, "google-ai-studio": 400, "groq": 401, "openrouter": 401, "openai-compatible": 401}


@pytest.mark.parametrize("provider", MISSING)
def test_a_missing_key_gets_the_providers_own_refusal(sandbox: Sandbox, provider: str) -> None:
    """No key, no answer; each provider says so with its own status."""
    headers = {"anthropic-version": "2023-06-01"} if provider == "anthropic" else {}
    assert ask(sandbox, provider, headers=headers).status_code == MISSING[provider]


def test_a_wrong_key_gets_the_providers_own_refusal() -> None:
    """With keys given, only those are taken; a wrong one is never echoed or logged."""
    with Sandbox(keys=dict.fromkeys(PROVIDERS, "right-key") | {"groq": ["one", "two"]}) as sandbox:
        for provider, status in WRONG.items():
            headers = {k: v.replace("any", "wrong-secret") for k, v in KEYS[provider].items()}
            response = ask(sandbox, provider, headers=headers)
            assert (response.status_code, "wrong-secret" in response.text) == (status, False)
        reason = ask(sandbox, "google-ai-studio", headers={"x-goog-api-key": "no"}).json()["error"]["details"]
        assert reason[0]["reason"] == "API_KEY_INVALID"
        assert ask(sandbox, "groq", headers={"authorization": "Bearer two"}).status_code == 200
        bearer = {"authorization": "Bearer right-key", "anthropic-version": "2026-10-21"}
        assert ask(sandbox, "anthropic", headers=bearer).status_code == 200
        assert "secret" not in repr(sandbox.calls)


# Errors


def shape(provider: str, response: httpx.Response) -> tuple[Any, ...]:
    """Status and the words that a client decides on."""
    error = response.json()["error"]
    if provider == "anthropic":
        return response.status_code, error["type"]
    if provider == "google-ai-studio":
        return response.status_code, error["status"]
    if provider == "openrouter":
        return response.status_code, error["code"], error["metadata"]["error_type"]
    return response.status_code, error["type"], error.get("code")


ERRORS = [
    ("anthropic", "overloaded", (529, "overloaded_error")),
    ("anthropic", "rate_limit", (429, "rate_limit_error")),
    ("anthropic", "model_gone", (404, "not_found_error")),
    ("anthropic", "timeout", (504, "timeout_error")),
    ("google-ai-studio", "rate_limit", (429, "RESOURCE_EXHAUSTED")),
    ("google-ai-studio", "overloaded", (503, "UNAVAILABLE")),
    ("google-ai-studio", "model_gone", (404, "NOT_FOUND")),
    ("google-ai-studio", "no_credit", (400, "FAILED_PRECONDITION")),
    ("groq", "rate_limit", (429, "requests", "rate_limit_exceeded")),
    ("groq", "request_over_limit", (413, "tokens", "rate_limit_exceeded")),
    ("groq", "model_gone", (404, "invalid_request_error", "model_not_found")),
    ("groq", "json_failed", (400, "invalid_request_error", "json_validate_failed")),
    ("openrouter", "no_credit", (402, 402, "payment_required")),
    ("openrouter", "model_gone", (404, 404, "not_found")),
    ("openrouter", "daily_limit", (429, 429, "rate_limit_exceeded")),
    ("openrouter", "overloaded", (503, 503, "provider_overloaded")),
    ("openai-compatible", "model_gone", (404, "invalid_request_error", "model_not_found")),
    ("openai-compatible", "no_credit", (429, "insufficient_quota", "insufficient_quota")),
]


@pytest.mark.parametrize(("provider", "kind", "expected"), ERRORS)
def test_scripted_errors_have_the_providers_own_form(
    sandbox: Sandbox, provider: str, kind: str, expected: tuple[Any, ...]
) -> None:
    """One word in a scenario becomes each provider's status, type and code; nothing is billed."""
    sandbox.use(parse_scenario(f"rules: [{{reply: {{error: {kind}}}}}]"))
    response = ask(sandbox, provider)
    assert shape(provider, response) == expected
    assert [(c.error, c.billed) for c in sandbox.calls] == [(kind, False)]
    if provider == "anthropic":
        jsonschema.validate(response.json(), spec("anthropic.error.schema.json"))


@pytest.mark.parametrize("provider", PROVIDERS)
def test_every_error_kind_has_a_body_for_every_provider(sandbox: Sandbox, provider: str) -> None:
    """No kind is without a form: all answer an error status and a JSON body with a message."""
    for kind in ("invalid_request", "context_length", "too_large", "bad_key", "forbidden", "no_credit", "model_gone",
                 "rate_limit", "token_limit", "daily_limit", "request_over_limit", "content_policy", "json_failed",
                 "server_error", "bad_gateway", "timeout", "overloaded"):  # fmt: skip
        sandbox.use(parse_scenario(f"rules: [{{reply: {{error: {kind}}}}}]"))
        response = ask(sandbox, provider)
        assert response.status_code >= 400
        assert response.json()["error"]["message"]


def test_waits_stand_where_each_provider_puts_them(sandbox: Sandbox) -> None:
    """Seconds in a header, RetryInfo in Gemini's body, epoch milliseconds in OpenRouter's."""
    sandbox.use(parse_scenario("rules: [{reply: {error: rate_limit, retry_after: 2.5}}]"))
    assert ask(sandbox, "anthropic").headers["retry-after"] == "2.5"
    groq = ask(sandbox, "groq")
    assert (groq.headers["retry-after"], "try again in 2.5s" in groq.text) == ("3", True)
    gemini = ask(sandbox, "google-ai-studio")
    assert "retry-after" not in gemini.headers
    details = gemini.json()["error"]["details"]
    assert [d["retryDelay"] for d in details if "RetryInfo" in d["@type"]] == ["2s"]
    assert "PerMinute" in json.dumps(details)
    router = ask(sandbox, "openrouter").json()["error"]["metadata"]["headers"]
    assert int(router["X-RateLimit-Reset"]) > 1_700_000_000_000


# Other addresses


def test_v1_models_is_told_apart_by_headers(sandbox: Sandbox) -> None:
    """Anthropic, Gemini and OpenAI share `/v1/models`; the key's header says whose list is meant."""
    url = f"{sandbox.url}/v1/models"
    anthropic = http.get(url, headers=KEYS["anthropic"]).json()
    gemini = http.get(url, headers=KEYS["google-ai-studio"]).json()
    openai = http.get(url, headers=KEYS["openai-compatible"]).json()
    assert (anthropic["has_more"], openai["object"]) == (False, "list")
    assert gemini["models"][0]["name"].startswith("models/gemini")


def test_model_lists_follow_the_scenario(sandbox: Sandbox) -> None:
    """A gone model is neither listed nor served; a named one is listed."""
    sandbox.use(parse_scenario("models: {llama-3.3-70b-versatile: {gone: true}, qwen/new: {}}"))
    listed = http.get(f"{sandbox.url}/openai/v1/models", headers=KEYS["groq"]).json()["data"]
    ids = [m["id"] for m in listed]
    assert ("llama-3.3-70b-versatile" in ids, "qwen/new" in ids) == (False, True)
    assert ask(sandbox, "groq").json()["error"]["code"] == "model_not_found"


def test_the_list_of_openrouter_is_public(sandbox: Sandbox) -> None:
    """It needs no key, as at OpenRouter itself."""
    assert http.get(f"{sandbox.url}/api/v1/models").json()["data"]


def test_unknown_addresses_and_oversized_bodies_are_refused(sandbox: Sandbox) -> None:
    """A wrong path is a logged 404; a body beyond 32 MB is the provider's 413; broken JSON its 400."""
    assert http.get(f"{sandbox.url}/nowhere").status_code == 404
    assert sandbox.calls[-1].endpoint == "unknown"
    url, headers = sandbox.url + path_of("anthropic"), KEYS["anthropic"]
    too_large = http.post(url, headers=headers, content=b'"' + b"x" * (33 << 20) + b'"')
    assert (too_large.status_code, too_large.json()["error"]["type"]) == (413, "request_too_large")
    for broken in (b"{", b"[]", b'{"max_tokens": NaN}', b"\xff\xfe", b"[" * 100_000):
        assert http.post(url, headers=headers, content=broken).status_code == 400
