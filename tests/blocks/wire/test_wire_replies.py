"""Good, odd and hostile replies: what is read from them, and that nothing but a `ProviderError` ever escapes."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from wire_samples import CHAT_PROVIDERS, NOW, PROVIDERS, target

from tta_dev_primitives.blocks.wire.formats import wire_format
from tta_dev_primitives.blocks.wire.reply_problems import reply_problem
from tta_dev_primitives.blocks.wire.types import ChatReply
from tta_dev_primitives.config.provider_errors import ErrorClass, LedgerAction, ProviderError

JSON_HEADERS = {"content-type": "application/json"}


def parse(provider: str, payload: Any, **can: object) -> ChatReply:
    body = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
    return wire_format(provider).parse(target(provider, **can), 200, JSON_HEADERS, body, now=NOW)


def good(
    provider: str, text: str = "42", usage: Any = "default", finish: str | None = None
) -> dict[str, Any]:
    """A good reply of `provider`; `usage` replaces its usage block, None leaves it out."""
    if provider == "anthropic":
        node: Any = {"input_tokens": 12, "output_tokens": 5} if usage == "default" else usage
        reply: dict[str, Any] = {
            "type": "message",
            "model": "the-model-1",
            "content": [{"type": "text", "text": text}],
            "stop_reason": finish or "end_turn",
        }
        return reply | ({} if node is None else {"usage": node})
    if provider == "google-ai-studio":
        node = {"promptTokenCount": 12, "candidatesTokenCount": 5} if usage == "default" else usage
        content = {"role": "model", "parts": [{"text": text}]} if text else {"role": "model"}
        reply = {"candidates": [{"content": content, "finishReason": finish or "STOP"}]}
        return reply | ({} if node is None else {"usageMetadata": node})
    node = {"prompt_tokens": 12, "completion_tokens": 5} if usage == "default" else usage
    reply = {"choices": [{"message": {"content": text}, "finish_reason": finish or "stop"}]}
    return reply | ({} if node is None else {"usage": node})


COUNT = {
    "anthropic": ("input_tokens", "output_tokens"),
    "google-ai-studio": ("promptTokenCount", "candidatesTokenCount"),
    **dict.fromkeys(CHAT_PROVIDERS, ("prompt_tokens", "completion_tokens")),
}


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_good_reply_is_an_answer(provider: str) -> None:
    """Text, finish and usage come through; there is no problem to report."""
    reply = parse(provider, good(provider))
    assert (reply.text, reply.finish, reply_problem(reply)) == ("42", "stop", None)
    assert (reply.usage.input_tokens, reply.usage.output_tokens, reply.usage.flag) == (12, 5, None)


CUT = {"anthropic": "max_tokens", "google-ai-studio": "MAX_TOKENS", **dict.fromkeys(CHAT_PROVIDERS, "length")}
REFUSED = {
    "anthropic": "refusal",
    "google-ai-studio": "SAFETY",
    **dict.fromkeys(CHAT_PROVIDERS, "content_filter"),
}


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("text", ["half an ans", ""])
def test_a_cut_answer_is_never_a_success(provider: str, text: str) -> None:
    """The token limit is reported as such, with and without text; what it cost is known."""
    reply = parse(provider, good(provider, text, finish=CUT[provider]))
    assert reply_problem(reply) is ErrorClass.TRUNCATED
    assert reply.usage.flag is None


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_refused_answer_is_never_a_success(provider: str) -> None:
    """Refusals arrive as HTTP 200 with the usage that they cost."""
    reply = parse(provider, good(provider, "I", finish=REFUSED[provider]))
    assert reply_problem(reply) is ErrorClass.CONTENT
    assert reply.usage.output_tokens == 5


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("text", ["", " \n "])
def test_an_empty_answer_is_never_a_success(provider: str, text: str) -> None:
    """White space is no answer either."""
    assert reply_problem(parse(provider, good(provider, text))) is ErrorClass.EMPTY


def test_gemini_traps_are_read_right() -> None:
    """Thoughts are no answer; no parts, empty content and a blocked prompt are no crash; thoughts are billed."""
    thinking = {
        "candidates": [
            {
                "content": {"parts": [{"text": "hm", "thought": True}, {"text": "42"}]},
                "finishReason": "STOP",
            }
        ],
        "usageMetadata": {"promptTokenCount": 15, "candidatesTokenCount": 8, "thoughtsTokenCount": 61},
        "modelVersion": "models/gemini-2.5-pro",
    }
    reply = parse("google-ai-studio", thinking)
    assert (reply.text, reply.model_returned, reply.usage.output_tokens) == ("42", "gemini-2.5-pro", 69)

    all_thought = {
        "candidates": [{"content": {"role": "model"}, "finishReason": "MAX_TOKENS"}],
        "usageMetadata": {"promptTokenCount": 15, "thoughtsTokenCount": 61, "totalTokenCount": 76},
    }
    reply = parse("google-ai-studio", all_thought)
    assert (reply_problem(reply), reply.usage.output_tokens) == (ErrorClass.TRUNCATED, 61)

    unsafe = {
        "candidates": [{"content": {}, "finishReason": "SAFETY"}],
        "usageMetadata": {"promptTokenCount": 9},
    }
    assert reply_problem(parse("google-ai-studio", unsafe)) is ErrorClass.CONTENT

    blocked = {"promptFeedback": {"blockReason": "SAFETY"}, "usageMetadata": {"promptTokenCount": 9}}
    reply = parse("google-ai-studio", blocked)
    assert (reply_problem(reply), reply.raw_finish) == (ErrorClass.CONTENT, "SAFETY")


def test_a_limited_google_account_puts_the_provider_out() -> None:
    """PUP_LIMITED_DISABLED is about the account, not about the answer."""
    with pytest.raises(ProviderError) as caught:
        parse("google-ai-studio", good("google-ai-studio", finish="PUP_LIMITED_DISABLED"))
    error = caught.value
    assert (error.error_class, error.scope) == (ErrorClass.AUTH, "provider")
    assert error.ledger_action is LedgerAction.SETTLE


def test_a_forced_tool_call_is_the_structured_answer() -> None:
    """Models without schema mode answer through a tool; its input is the text, numbers unchanged."""
    payload = {
        "type": "message",
        "content": [{"type": "tool_use", "name": "answer", "input": {"score": 0.85, "n": 3}}],
        "stop_reason": "tool_use",
        "usage": {"input_tokens": 1, "output_tokens": 1},
    }
    body = json.dumps(payload).encode()
    reply = parse("anthropic", body, json_mode="tool")
    assert (json.loads(reply.text), reply.finish) == ({"score": 0.85, "n": 3}, "stop")
    assert reply_problem(parse("anthropic", body)) is ErrorClass.EMPTY


def test_openai_refusals_and_parts_are_read() -> None:
    """`refusal` beside empty content is a refusal; content in parts is joined."""
    refused = {"choices": [{"message": {"content": None, "refusal": "No."}, "finish_reason": "stop"}]}
    assert reply_problem(parse("openai-compatible", refused)) is ErrorClass.CONTENT
    parts = [{"type": "text", "text": "4"}, {"type": "text", "text": "2"}]
    joined = {"choices": [{"message": {"content": parts}, "finish_reason": None}]}
    reply = parse("openai-compatible", joined)
    assert (reply.text, reply.usage.flag, reply_problem(reply)) == ("42", "usage_missing", None)


def test_parts_may_be_bare_strings_and_thoughts_are_none_of_the_answer() -> None:
    """What has the type of a thought is left out."""
    parts = ["4", {"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}, {"text": "2"}]
    assert parse("openai-compatible", {"choices": [{"message": {"content": parts}}]}).text == "42"


def test_of_several_choices_the_first_by_its_index_counts() -> None:
    """One is asked for; a server that sends more may send them in any order."""
    choices = [{"index": 1, "message": {"content": "41"}}, {"index": 0, "message": {"content": "42"}}]
    assert parse("openai-compatible", {"choices": choices}).text == "42"
    deltas = [{"index": 0, "delta": {"content": "42"}}, {"index": 1, "delta": {"content": "41"}}]
    text = f"data: {json.dumps({'choices': deltas})}\n\ndata: [DONE]\n\n"
    assert wire_format("groq").parse(target("groq"), 200, {}, text.encode()).text == "42"


def test_an_error_object_within_a_200_is_an_error() -> None:
    """vLLM's older shape has no `error` key."""
    with pytest.raises(ProviderError) as caught:
        parse("openai-compatible", {"object": "error", "message": "context length exceeded", "code": 400})
    assert caught.value.error_class is ErrorClass.CONTEXT


def test_a_refusal_without_content_is_a_refusal() -> None:
    """Anthropic's `content` may be empty, or null."""
    refused = good("anthropic", finish="refusal")
    for content in ([], None):
        assert reply_problem(parse("anthropic", refused | {"content": content})) is ErrorClass.CONTENT


def test_cache_hits_in_deepseeks_spelling_are_read() -> None:
    """5 prompt tokens, 3 of them read from the cache."""
    usage = {"prompt_tokens": 5, "completion_tokens": 1, "prompt_cache_hit_tokens": 3}
    read = parse("openai-compatible", good("openai-compatible", usage=usage)).usage
    assert (read.input_tokens, read.cache_read_tokens) == (2, 3)


WRONG = [-1, 1.5, 12.0, True, False, "12", float("nan"), float("inf"), [12], {}, 10**16]


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("wrong", WRONG, ids=repr)
def test_a_figure_that_is_no_count_flags_the_usage(provider: str, wrong: Any) -> None:
    """The answer is kept; its usage is not believed (fault 24)."""
    for field in COUNT[provider]:
        usage = dict.fromkeys(COUNT[provider], 12) | {field: wrong}
        reply = parse(provider, good(provider, usage=usage))
        assert (reply.text, reply.usage.flag) == ("42", "usage_invalid")


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("usage", [None, {}, [], "none", 7])
def test_missing_usage_is_flagged(provider: str, usage: Any) -> None:
    """No usage is not a usage of zero."""
    assert parse(provider, good(provider, usage=usage)).usage.flag == "usage_missing"


def test_more_cached_than_sent_is_not_believed() -> None:
    """A part cannot be larger than its whole."""
    usage = {"prompt_tokens": 5, "completion_tokens": 1, "prompt_tokens_details": {"cached_tokens": 6}}
    assert parse("groq", good("groq", usage=usage)).usage.flag == "usage_invalid"
    usage = {"promptTokenCount": 5, "cachedContentTokenCount": 6}
    assert parse("google-ai-studio", good("google-ai-studio", usage=usage)).usage.flag == "usage_invalid"


@pytest.mark.parametrize(
    ("cost", "read"),
    [
        ("0.0004970133333333333", Decimal("0.0004970133333333333")),
        ("0", Decimal(0)),
        ("1e-7", Decimal("1E-7")),
        ("-0.1", None),
        ("NaN", None),
        ("Infinity", None),
        ('"0.1"', None),
        ("true", None),
        ("1e400", None),
        ("1e-400", None),
        ("null", None),
    ],
)
def test_a_reported_cost_is_exact_or_absent(cost: str, read: Decimal | None) -> None:
    """The digits of the reply, never through a float; what is no amount is left out."""
    body = json.dumps(good("openrouter")).replace('"prompt_tokens"', f'"cost": {cost}, "prompt_tokens"')
    assert parse("openrouter", body.encode()).usage.reported_cost_usd == read


def test_reasoning_outside_the_completion_figure_is_billed() -> None:
    """Some servers count reasoning in the total only."""
    usage = {"prompt_tokens": 10, "completion_tokens": 2, "total_tokens": 40}
    assert parse("openai-compatible", good("openai-compatible", usage=usage)).usage.output_tokens == 30


def test_lone_surrogates_become_replacement_characters() -> None:
    """JSON may hold half a character; text that cannot be written as UTF-8 would break every store."""
    body = b'{"choices":[{"message":{"content":"a\\ud800b"},"finish_reason":"stop"}]}'
    assert parse("groq", body).text == "a\ufffdb"
    tool = good("anthropic") | {"content": [{"type": "tool_use", "input": {"a": "\ud800"}}]}
    assert parse("anthropic", tool, json_mode="tool").text == '{"a": "\ufffd"}'


def test_only_quota_headers_are_kept() -> None:
    """Everything else in the headers may hold anything."""
    headers = JSON_HEADERS | {"X-RateLimit-Remaining-Requests": "7", "Date": "d", "Set-Cookie": "s=1"}
    body = json.dumps(good("groq")).encode()
    reply = wire_format("groq").parse(target("groq"), 200, headers, body)
    assert reply.headers == {"x-ratelimit-remaining-requests": "7", "date": "d"}


STREAMS_WHOLE = {
    "anthropic": (
        'event: message_start\ndata: {"type":"message_start","message":{"usage":{"input_tokens":3,'
        '"cache_creation_input_tokens":9,"cache_creation":{"ephemeral_1h_input_tokens":7}}}}\n\n'
        ': keep-alive\n\nevent: ping\ndata: {"type":"ping"}    \n\n'
        'data: {"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"42"}}   \n\n'
        'data: {"type":"message_delta","delta":{"stop_reason":"end_turn"},"usage":{"output_tokens":5}}\n\n'
        'data: {"type":"message_stop"}\n\n'
    ),
    "google-ai-studio": (
        'data: {"candidates":[{"content":{"parts":[{"text":"4"}]}}]}\n\ndata:\n\n'
        'data: {"candidates":[{"content":{"parts":[{"text":"2"}]},"finishReason":"STOP"}],'
        '"usageMetadata":{"promptTokenCount":12,"candidatesTokenCount":5}}\n\n'
        'data: {"responseId":"r"}\n\ndata: [DONE]\n\n'
    ),
    **dict.fromkeys(
        CHAT_PROVIDERS,
        ': OPENROUTER PROCESSING\n\ndata:{"choices":[{"delta":{"role":"assistant","content":null}}]}\n\n'
        'data: {"choices":[{"delta":{"content":"42"},"finish_reason":"stop"}]}\n\ndata: \n\n'
        'data: {"choices":[],"usage":{"prompt_tokens":12,"completion_tokens":5}}\n\ndata:[DONE]\n\n',
    ),
}


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("ends", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize("kind", ["text/event-stream; charset=utf-8", "text/plain"])
def test_a_stream_adds_up_to_one_reply(provider: str, ends: str, mark: str, kind: str) -> None:
    """Keep-alives, padding, empty events, a byte-order mark, any line end, also where the header was lost."""
    body = (mark + STREAMS_WHOLE[provider].replace("\n", ends)).encode()
    reply = wire_format(provider).parse(target(provider), 200, {"content-type": kind}, body, now=NOW)
    assert (reply.text, reply.finish, reply.usage.flag) == ("42", "stop", None)
    assert (reply.usage.total_input, reply.usage.output_tokens) == (12, 5)
    assert reply.usage.cache_write_1h_tokens == (7 if provider == "anthropic" else 0)


STREAMS_CUT = {
    "anthropic": 'event: message_start\ndata: {"type":"message_start","message":{"usage":{"input_tokens":3}}}\n\n',
    "google-ai-studio": 'data: {"candidates":[{"content":{"parts":[{"text":"4"}]}}]}\n\n',
    **dict.fromkeys(CHAT_PROVIDERS, 'data: {"choices":[{"delta":{"content":"4"},"finish_reason":null}]}\n\n'),
}
STREAMS_FAILED = {
    "anthropic": 'event: error\ndata: {"type":"error","error":{"type":"overloaded_error","message":"x"}}\n\n',
    "google-ai-studio": 'data: {"error":{"code":503,"status":"UNAVAILABLE","message":"The model is overloaded."}}\n\n',
    "groq": 'event: error\ndata: {"error":{"message":"x","code":"json_validate_failed"}}\n\n',
    "openrouter": ': OPENROUTER PROCESSING\n\ndata: {"error":{"code":503,"message":"x",'
    '"metadata":{"error_type":"provider_overloaded"}},"choices":[]}\n\n',
    "openai-compatible": 'data: {"error":{"message":"x"}}\n\n',
}
STREAM_CLASSES = {"groq": ErrorClass.MODEL_SLIP, "openai-compatible": ErrorClass.TRANSIENT}


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_stream_that_breaks_off_is_no_answer(provider: str) -> None:
    """What was generated is paid for; half an answer is not delivered (fault 6)."""
    with pytest.raises(ProviderError) as caught:
        wire_format(provider).parse(target(provider), 200, {}, STREAMS_CUT[provider].encode(), now=NOW)
    assert caught.value.error_class is ErrorClass.TRANSPORT
    assert caught.value.ledger_action is LedgerAction.CHARGE_AT_BOUND


@pytest.mark.parametrize("provider", PROVIDERS)
def test_an_error_within_a_stream_is_an_error(provider: str) -> None:
    """It comes after HTTP 200, so the call may be billed (fault 23)."""
    text = STREAMS_FAILED[provider]
    with pytest.raises(ProviderError) as caught:
        wire_format(provider).parse(target(provider), 200, {}, text.encode(), now=NOW)
    assert caught.value.error_class is STREAM_CLASSES.get(provider, ErrorClass.OVERLOADED)
    assert caught.value.ledger_action is LedgerAction.CHARGE_AT_BOUND


@pytest.mark.parametrize("provider", ["anthropic", "google-ai-studio"])
def test_figures_of_a_stream_that_fails_half_way_are_not_believed(provider: str) -> None:
    """They tell what had been generated when they were sent, not what is billed: the bound is charged."""
    begun = {
        "anthropic": STREAMS_CUT["anthropic"].replace(":3}", ':3,"output_tokens":1}'),
        "google-ai-studio": STREAMS_WHOLE[provider].replace("data: [DONE]", ""),
    }
    with pytest.raises(ProviderError) as caught:
        wire_format(provider).parse(
            target(provider), 200, {}, (begun[provider] + STREAMS_FAILED[provider]).encode()
        )
    assert (caught.value.ledger_action, caught.value.usage) == (LedgerAction.CHARGE_AT_BOUND, None)


# --- no byte sequence raises anything but ProviderError ---

_scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
# fmt: off
_KEYS = [
    "error", "type", "message", "code", "details", "status", "error_code", "violations", "quotaId",
    "quotaValue", "retryDelay", "metadata", "headers", "raw", "availability", "retry_after",
    "retryable", "reasons", "error_type", "candidates", "content", "parts", "text", "thought",
    "finishReason", "promptFeedback", "blockReason", "usageMetadata", "promptTokenCount",
    "modelVersion", "choices", "delta", "finish_reason", "refusal", "usage", "prompt_tokens",
    "completion_tokens", "total_tokens", "prompt_tokens_details", "cached_tokens", "cost", "is_byok",
    "cost_details", "upstream_inference_cost", "x_groq", "id", "model", "index", "stop_reason",
    "input_tokens", "output_tokens", "content_block", "partial_json", "input", "data", "models", "name",
    "lifecycle", "limit_source", "X-RateLimit-Reset",
]
# fmt: on
_words = st.sampled_from(
    [
        "error",
        "message",
        "text",
        "tool_use",
        "RESOURCE_EXHAUSTED",
        "PerDay",
        "1e9",
        "-1",
        "26s",
        "STOP",
        "message_start",
        "content_block_delta",
        "content_block_start",
        "message_delta",
        "message_stop",
        "capacity_exhausted",
        "429",
    ]
)
_json = st.recursive(
    _scalars | _words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(_KEYS), inner, max_size=5),
    max_leaves=20,
)
_header = st.dictionaries(
    st.sampled_from(
        [
            "retry-after",
            "Retry-After-Ms",
            "Date",
            "content-type",
            "x-should-retry",
            "x-ratelimit-reset",
            "x-ratelimit-reset-requests",
            "anthropic-ratelimit-requests-remaining",
            "anthropic-ratelimit-requests-reset",
        ]
    ),
    st.text(max_size=30)
    | _words
    | st.sampled_from(["text/event-stream", "0", "Sun, 31 Feb 2026 99:99:99 GMT", "9" * 60]),
)
_status = st.sampled_from(
    [200, 201, 204, 302, 400, 401, 402, 403, 404, 408, 413, 429, 500, 503, 529]
) | st.integers(0, 999)


def _only_provider_errors(provider: str, status: int, headers: dict[str, str], body: bytes) -> None:
    form, model = wire_format(provider), target(provider, json_mode="tool")
    for read in (
        lambda: form.parse(model, status, headers, body, now=NOW),
        lambda: form.parse(model, 200, headers | {"content-type": "text/event-stream"}, body, now=NOW),
    ):
        try:
            reply = read()
        except ProviderError as error:
            sound = len(str(error)) <= 500 and (error.retry_after_s is None or 0 <= error.retry_after_s <= 30)
            assert sound, repr(error)  # noqa: PT017  -- an error is one of two good outcomes here
        else:
            reply.text.encode()
            assert reply_problem(reply) in (None, *ErrorClass)
            assert min(reply.usage.total_input, reply.usage.output_tokens) >= 0


@given(provider=st.sampled_from(PROVIDERS), status=_status, headers=_header, body=st.binary(max_size=200))
@example(provider="groq", status=200, headers={}, body=b"\xff\xfe")
@example(provider="anthropic", status=200, headers={}, body=b"{" * 100_000)
@example(provider="openrouter", status=429, headers={"x-ratelimit-reset": "9" * 15}, body=b"")
def test_no_bytes_escape_the_taxonomy(
    provider: str, status: int, headers: dict[str, str], body: bytes
) -> None:
    """Any bytes with any status and headers: a reply or a `ProviderError`."""
    _only_provider_errors(provider, status, headers, body)


@given(provider=st.sampled_from(PROVIDERS), status=_status, headers=_header, payload=_json)
def test_no_json_escapes_the_taxonomy(
    provider: str, status: int, headers: dict[str, str], payload: Any
) -> None:
    """Any JSON built from the field names that the readers look for: a reply or a `ProviderError`."""
    _only_provider_errors(provider, status, headers, json.dumps(payload).encode())


@given(provider=st.sampled_from(PROVIDERS), payloads=st.lists(_json, max_size=4))
def test_no_event_stream_escapes_the_taxonomy(provider: str, payloads: list[Any]) -> None:
    """Any events, also with names: a reply or a `ProviderError`."""
    text = "".join(f"event: error\ndata: {json.dumps(p)}\n\ndata: {json.dumps(p)}\n\n" for p in payloads)
    _only_provider_errors(provider, 200, {"content-type": "text/event-stream"}, text.encode())


@given(payload=_json)
@example(payload={"models": [{"name": " "}, {"name": "models/"}], "data": [{"id": " "}, {"id": 7}]})
def test_no_model_list_escapes(payload: Any) -> None:
    """The lists of models are read as tolerantly."""
    for provider in PROVIDERS:
        assert all(model.id for model in wire_format(provider).parse_models(payload))
