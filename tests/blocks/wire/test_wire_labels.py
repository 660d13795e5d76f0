"""What a reply is called does not decide what it is: bytes win over labels, words of any vocabulary are understood."""

from __future__ import annotations

import gzip
import json
import zlib
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wire_samples import NOW, PROVIDERS, ask, target

from tta_dev_primitives.blocks.ledger.billing import bill_of, free_bill_of, with_checked_usage
from tta_dev_primitives.blocks.ledger.cost_bound import bound_usd
from tta_dev_primitives.blocks.providers.reply_body import UndecodableError, decompressor
from tta_dev_primitives.blocks.wire.formats import wire_format
from tta_dev_primitives.blocks.wire.reading import fewest_tokens
from tta_dev_primitives.blocks.wire.reply_problems import finish_of, reply_problem
from tta_dev_primitives.blocks.wire.types import ChatReply
from tta_dev_primitives.config.provider_errors import ErrorClass, LedgerAction, ProviderError

SENTENCE = "Größer als der Fluß ist nur das Meer."
CHAT = {
    "choices": [{"message": {"content": SENTENCE}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 12, "completion_tokens": 9, "total_tokens": 21},
}
REPLIES: dict[str, Any] = {
    "anthropic": {
        "type": "message",
        "content": [{"type": "text", "text": SENTENCE}],
        "stop_reason": "end_turn",
        "usage": {"input_tokens": 12, "output_tokens": 9},
    },
    "google-ai-studio": {
        "candidates": [{"content": {"parts": [{"text": SENTENCE}]}, "finishReason": "STOP"}],
        "usageMetadata": {"promptTokenCount": 12, "candidatesTokenCount": 9, "totalTokenCount": 21},
    },
    **dict.fromkeys(("groq", "openrouter", "openai-compatible"), CHAT),
}
LABELS = [
    "application/json",
    "text/event-stream",
    "text/html",
    "",
    "application/json; charset=latin-1",
    "x; charset=no",
]
SHAPES: dict[str, Any] = {
    "plain": lambda body: body,
    "padded": lambda body: b"\n  \n" + body + b"\n",
    "with a byte order mark": lambda body: b"\xef\xbb\xbf" + body,
    "then the end of a stream": lambda body: body + b"\ndata: [DONE]\n\n",
    "after comments": lambda body: b": PROCESSING\n\n: PROCESSING\n\n" + body,
    "in a list": lambda body: b"[" + body + b"]",
    "as one event": lambda body: b"data: " + body + b"\n\ndata: [DONE]\n\n",
    "UTF-16": lambda body: body.decode().encode("utf-16"),
}


def parse(provider: str, body: bytes, headers: dict[str, str] | None = None, status: int = 200) -> ChatReply:
    return wire_format(provider).parse(target(provider), status, headers or {}, body, now=NOW)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("provider", PROVIDERS)
def test_the_body_wins_over_its_label(provider: str, shape: str) -> None:
    """A paid answer is read under every label, whatever stands around it."""
    body = SHAPES[shape](json.dumps(REPLIES[provider], ensure_ascii=False).encode())
    for label in LABELS:
        reply = parse(provider, body, {"content-type": label})
        assert (reply.text, reply.usage.output_tokens, reply.usage.flag) == (SENTENCE, 9, None), label


def test_bytes_that_are_not_utf8_are_read_as_near_as_can_be() -> None:
    """By the charset of the label, else as most old servers mean them; one broken character spoils nothing."""
    text = json.dumps(CHAT, ensure_ascii=False)
    assert parse("groq", text.encode("latin-1"), {"content-type": "a/b; charset=ISO-8859-1"}).text == SENTENCE
    assert parse("groq", text.encode("cp1252")).text == SENTENCE
    assert parse("groq", text.replace("Meer", "M\x00r").encode().replace(b"\x00", b"ee\xff")).text.startswith(
        "Größer"
    )


def test_json_lines_are_a_stream() -> None:
    """Some servers stream bare chunks, one a line."""
    chunks = [{"choices": [{"delta": {"content": word}}]} for word in ("4", "2")]
    chunks.append({"choices": [{"delta": {}, "finish_reason": "STOP"}]})
    assert parse("openai-compatible", "\n".join(map(json.dumps, chunks)).encode()).text == "42"


@pytest.mark.parametrize(
    ("encoding", "packed"),
    [
        ("utf-8", lambda b: b),
        ("br", lambda b: b),
        ("gzip", lambda b: b),
        ("", gzip.compress),
        ("deflate", gzip.compress),
        ("deflate", zlib.compress),
        ("deflate", lambda b: zlib.compress(b)[2:-4]),
        ("GZIP ", gzip.compress),
    ],
)
def test_the_first_bytes_say_how_a_body_is_packed(encoding: str, packed: Any) -> None:
    """Plain text under any label is plain text; gzip is known by its own first bytes."""
    raw = packed(b'{"a": "' + "ä".encode() * 60 + b'"}')
    unpack = decompressor(encoding, raw[:64])
    assert json.loads(raw if unpack is None else unpack.decompress(raw, 9999)) == {"a": "ä" * 60}


def test_a_packing_that_was_not_asked_for_is_named() -> None:
    """What is neither text nor gzip nor deflate cannot be read."""
    with pytest.raises(UndecodableError, match="zstd"):
        decompressor("zstd", b"\x28\xb5\x2f\xfd\x04\x00\x91\xff" * 8)


FINISHES = {
    "stop": "STOP eos eos_token End_Turn stop_sequence COMPLETE stop-sequence FINISH_REASON_STOP",
    "length": "MAX_TOKENS length model_length Length pause_turn max-tokens CONTINUATION",
    "content_filter": "SAFETY RECITATION BLOCKLIST Content_Filter refusal PROHIBITED_CONTENT SPII LANGUAGE ESCALATION "
    "MODEL_ARMOR IMAGE_SAFETY IMAGE_PROHIBITED_CONTENT IMAGE_RECITATION",
    "tool": "tool_calls TOOL_USE",
    "error": "OTHER abort insufficient_system_resource network_error MALFORMED_FUNCTION_CALL MALFORMED_RESPONSE "
    "UNEXPECTED_TOOL_CALL TOO_MANY_TOOL_CALLS MISSING_THOUGHT_SIGNATURE IMAGE_OTHER NO_IMAGE",
    "unknown": "wizard_left SOMETHING_NEW",
}
PROBLEMS = {
    "length": ErrorClass.TRUNCATED,
    "content_filter": ErrorClass.CONTENT,
    "error": ErrorClass.MODEL_SLIP,
}


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("finish", FINISHES)
def test_one_table_knows_all_finish_reasons(provider: str, finish: str) -> None:
    """In any letter case and of any vendor, as a gateway passes them on; an unknown one with text is an answer."""
    for word in FINISHES[finish].split():
        body = json.dumps(REPLIES[provider])
        for own in ("end_turn", "STOP", "stop"):
            body = body.replace(f'"{own}"', f'"{word}"')
        reply = parse(provider, body.encode())
        assert (finish_of(word), reply.raw_finish, reply_problem(reply)) == (
            finish,
            word,
            PROBLEMS.get(finish),
        )
    assert (finish_of(""), finish_of(None)) == ("unknown", "unknown")


@pytest.mark.parametrize(
    ("status", "body", "kind", "said"),
    [
        (403, {"errors": [{"code": 10000, "message": "no Workers AI"}]}, "auth", "no Workers AI"),
        (
            402,
            {"title": "Payment Required", "detail": {"reason": "credits expired"}},
            "quota_exhausted",
            "credits exp",
        ),
        (400, {"detail": {"error": "out of VRAM"}}, "invalid_request", "out of VRAM"),
        (422, {"detail": [{"loc": ["body"], "msg": "field required"}]}, "invalid_request", "field required"),
        (400, {"msg": "lower case please", "code": 3001}, "invalid_request", "lower case please"),
        (400, {"error": True, "message": "bad model"}, "invalid_request", "bad model"),
        (
            404,
            {"status": 404, "error": "Not Found", "message": "No handler"},
            "model_gone",
            "Not Found: No handler",
        ),
        (500, "CUDA error: device-side assert", "transient", "CUDA error"),
        (
            502,
            "<html><head><title>502 Bad &amp; Gateway</title></head></html>",
            "transient",
            "502 Bad & Gateway",
        ),
        (403, "<html><title>Attention Required!</title></html>", "connect", "Attention Required!"),
        (
            200,
            {"base_resp": {"status_code": 1008, "status_msg": "insufficient balance"}},
            "quota_exhausted",
            "balance",
        ),
        (200, {"response": "Token is invalid [2]", "status": 401}, "auth", "Token is invalid"),
        (200, {"success": False, "errors": ["rate limit reached"]}, "rate_limit", "rate limit reached"),
        (200, {"error": {"message": "Token limit reached"}}, "context_length", "Token limit reached"),
    ],
)
def test_the_words_of_a_foreign_error_reach_the_user(status: int, body: Any, kind: str, said: str) -> None:
    """Errors of gateways, of local servers, and those inside a good status: class and words."""
    raw = body if isinstance(body, str) else json.dumps(body)
    with pytest.raises(ProviderError) as failed:
        parse("openai-compatible", raw.encode(), status=status)
    assert (failed.value.error_class.value, said in str(failed.value)) == (kind, True), str(failed.value)
    assert status != 200 or failed.value.ledger_action is LedgerAction.CHARGE_AT_BOUND


def test_a_page_of_a_firewall_is_not_blamed_on_the_key() -> None:
    """A 403 in HTML comes from the way to the provider; other models of the provider are still asked."""
    with pytest.raises(ProviderError) as failed:
        parse("groq", b"<html><h1>Sorry, you have been blocked</h1></html>", status=403)
    assert "key" not in str(failed.value)
    assert (failed.value.scope, failed.value.ledger_action) == ("model", LedgerAction.RELEASE)


def test_an_error_in_a_stream_has_the_class_it_would_have_outside() -> None:
    """OpenRouter's error chunk after the answer began."""
    node = {"error": {"code": "invalid_request", "message": "Token limit reached"}}
    chunk = node | {"choices": [{"delta": {"content": ""}, "finish_reason": "error"}]}
    with pytest.raises(ProviderError) as failed:
        parse("openrouter", f": PROCESSING\n\ndata: {json.dumps(chunk)}\n\ndata: [DONE]\n\n".encode())
    assert failed.value.error_class is ErrorClass.CONTEXT
    with pytest.raises(ProviderError) as outside:
        parse("openrouter", json.dumps(node).encode(), status=400)
    assert outside.value.error_class is ErrorClass.CONTEXT


def usage_of(provider: str, usage: Any, text: str = SENTENCE) -> ChatReply:
    body = json.loads(json.dumps(REPLIES[provider]).replace(json.dumps(SENTENCE), json.dumps(text)))
    body["usageMetadata" if provider == "google-ai-studio" else "usage"] = usage
    return with_checked_usage(ask(), parse(provider, json.dumps(body).encode()))


@pytest.mark.parametrize(
    ("provider", "usage", "flag", "least_in", "least_out"),
    [
        ("groq", {"prompt_tokens": 0, "completion_tokens": 9, "total_tokens": 9}, True, 18, 9),
        ("groq", {"prompt_tokens": 12, "completion_tokens": 0, "total_tokens": 12}, True, 12, 39),
        ("groq", {"prompt_tokens": 12}, True, 12, 39),
        ("groq", {"completion_tokens": 9, "total_tokens": 21}, True, 12, 9),
        ("groq", {"prompt_tokens": 12, "completion_tokens": 9, "total_tokens": 300}, True, 12, 288),
        (
            "openai-compatible",
            {
                "prompt_tokens": 12,
                "completion_tokens": 9,
                "total_tokens": 51,
                "completion_tokens_details": {"reasoning_tokens": 30},
            },
            False,
            12,
            39,
        ),
        ("anthropic", {"input_tokens": 0, "output_tokens": 12}, True, 18, 12),
        (
            "anthropic",
            {
                "input_tokens": 12,
                "output_tokens": 9,
                "iterations": [
                    {"input_tokens": 500, "output_tokens": 80},
                    {"input_tokens": 12, "output_tokens": 9},
                ],
            },
            False,
            512,
            89,
        ),
        ("google-ai-studio", {"promptTokenCount": 12, "totalTokenCount": 12}, True, 12, 39),
        ("google-ai-studio", {"promptTokenCount": 12, "totalTokenCount": 80}, True, 12, 68),
        ("google-ai-studio", {"candidatesTokenCount": 9, "totalTokenCount": 21}, True, 12, 9),
    ],
)
def test_counts_that_cannot_be_right_are_filled(
    provider: str, usage: Any, flag: bool, least_in: int, least_out: int
) -> None:
    """Nothing for a prompt or a text, a total beyond its parts: the missing part is charged and flagged."""
    reply = usage_of(provider, usage)
    assert reply.usage.flag == ("usage_implausible" if flag else None)
    assert reply.usage.total_input >= least_in
    assert reply.usage.output_tokens >= least_out
    bill = bill_of(target(provider), ask(), reply.usage, bound_usd(target(provider), ask()))
    assert (bill.flag, bill.note is not None) == (reply.usage.flag, flag)
    assert bill.charge == target(provider).price.cost(reply.usage)  # type: ignore[union-attr]


def test_mistrals_cached_tokens_are_read() -> None:
    """They stand beside the sums, not in their details."""
    reply = usage_of(
        "openai-compatible", {"prompt_tokens": 12, "completion_tokens": 9, "num_cached_tokens": 8}
    )
    assert (reply.usage.input_tokens, reply.usage.cache_read_tokens, reply.usage.flag) == (4, 8, None)


@pytest.mark.parametrize(
    "cost",
    [
        {"cost": 0},
        {"cost": None},
        {"cost": 0, "is_byok": True},
        {"cost": 0.001, "is_byok": True},
        {"cost": 0, "is_byok": True, "cost_details": {"upstream_inference_cost": 0}},
    ],
)
def test_a_paid_model_of_openrouter_is_never_charged_nothing(cost: dict[str, Any]) -> None:
    """Cost 0 or null, or the fee alone for your own key: the list price holds, flagged. A free model costs 0."""
    paid = replace(target("openrouter"), api_model="acme/writer-1")
    usage = {"prompt_tokens": 20, "completion_tokens": 30, "total_tokens": 50} | cost
    reply = usage_of("openrouter", usage)
    bill = bill_of(paid, ask(), reply.usage, bound_usd(paid, ask()))
    assert (bill.charge, bill.flag) == (Decimal("0.00051"), "usage_implausible")
    free = replace(paid, api_model="acme/writer-1:free", billing="free")
    assert (
        free_bill_of(free, ask(), usage_of("openrouter", usage | {"cost": 0, "is_byok": False}).usage).charge
        == 0
    )


_count = st.sampled_from([None, 0, 1, 5, 20, 2000]) | st.integers(-3, 10**6)


@given(
    provider=st.sampled_from(PROVIDERS),
    label=st.sampled_from(LABELS),
    shape=st.sampled_from(sorted(SHAPES)),
    finish=st.sampled_from(["stop", "STOP", "MAX_TOKENS", "end_turn", "odd", "SAFETY", None]),
    text=st.text(max_size=400) | st.just("word " * 300),
    counts=st.tuples(_count, _count, _count),
)
def test_no_mixture_is_charged_too_little(
    provider: str, label: str, shape: str, finish: str | None, text: str, counts: tuple[Any, Any, Any]
) -> None:
    """Labels, shapes, reasons and counts at random: a `ProviderError`, or a charge that the texts allow."""
    asked, written, total = counts
    body = json.loads(json.dumps(REPLIES[provider]).replace(json.dumps(SENTENCE), json.dumps(text)))
    if provider == "anthropic":
        body |= {"stop_reason": finish, "usage": {"input_tokens": asked, "output_tokens": written}}
    elif provider == "google-ai-studio":
        body["candidates"][0]["finishReason"] = finish
        body["usageMetadata"] = {
            "promptTokenCount": asked,
            "candidatesTokenCount": written,
            "totalTokenCount": total,
        }
    else:
        body["choices"][0]["finish_reason"] = finish
        body["usage"] = {"prompt_tokens": asked, "completion_tokens": written, "total_tokens": total}
    request, model = ask(max_output_tokens=500), target(provider)
    try:
        reply = parse(provider, SHAPES[shape](json.dumps(body).encode()), {"content-type": label})
    except ProviderError:
        return
    reply = with_checked_usage(request, reply)
    bound = bound_usd(model, request)
    bill = bill_of(model, request, reply.usage, bound)
    price = model.price
    assert price is not None
    least = min(fewest_tokens(reply.text) // 4 - 32, 500) * price.output_usd_per_mtok / 1_000_000
    charge = bound if bill.charge is None else bill.charge
    assert charge >= max(least, price.input_usd_per_mtok / 1_000_000)
    assert not reply.text or charge >= price.output_usd_per_mtok / 1_000_000
