"""Recorded traffic of real providers reads to the right text, finish and token classes.

What is right is found by a second, small reader in this file that knows nothing of the first: it takes the
raw JSON or the raw event lines apart by hand. Where the two are meant to differ, the exchange is listed with
its reason.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from decimal import Decimal
from typing import Any, NamedTuple

import pytest
from wire_samples import shared_data, target

from tta_dev_primitives.blocks.wire.formats import wire_format
from tta_dev_primitives.config.models.targets import Usage
from tta_dev_primitives.config.provider_errors import ErrorClass, ProviderError

FILES = {
    "anthropic": "anthropic",
    "gemini": "google-ai-studio",
    "groq": "groq",
    "openrouter": "openrouter",
    "openai": "openai-compatible",
    "ollama": "openai-compatible",
}
FINISH = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "STOP": "stop",
    "stop": "stop",
    "tool_use": "tool",
    "tool_calls": "tool",
    "length": "length",
    "max_tokens": "length",
    "MAX_TOKENS": "length",
    "refusal": "content_filter",
    "content_filter": "content_filter",
    "SAFETY": "content_filter",
}
ERRORS = {400: ErrorClass.INVALID_REQUEST, 429: ErrorClass.RATE_LIMIT}


class Reading(NamedTuple):
    text: str
    finish: str
    fresh: int
    read: int
    write: int
    output: int


def exchanges() -> Iterator[Any]:
    for file, provider in FILES.items():
        lines = (shared_data("recorded") / f"{file}.jsonl").read_text(encoding="utf-8").splitlines()
        for number, line in enumerate(lines):
            yield pytest.param(provider, json.loads(line), id=f"{file}-{number}")


def send(provider: str, exchange: dict[str, Any]) -> Any:
    raw = exchange["response"]
    body = raw if isinstance(raw, str) else json.dumps(raw, ensure_ascii=False)
    headers = {name: values[0] for name, values in exchange["response_headers"].items()}
    return wire_format(provider).parse(target(provider), exchange["status"], headers, body.encode())


def events(text: str) -> list[dict[str, Any]]:
    lines = [line[5:].strip() for line in text.splitlines() if line.startswith("data:")]
    return [json.loads(line) for line in lines if line != "[DONE]"]


def read_anthropic(raw: Any) -> Reading:
    if isinstance(raw, str):
        chunks = events(raw)
        texts = [c["delta"].get("text", "") for c in chunks if c["type"] == "content_block_delta"]
        usage = (
            chunks[0]["message"]["usage"] | next(c for c in chunks if c["type"] == "message_delta")["usage"]
        )
        stop = next(c for c in chunks if c["type"] == "message_delta")["delta"]["stop_reason"]
    else:
        texts = [block["text"] for block in raw["content"] if block["type"] == "text"]
        usage, stop = raw["usage"], raw["stop_reason"]
    return Reading(
        "".join(texts),
        FINISH[stop],
        usage["input_tokens"],
        usage["cache_read_input_tokens"],
        usage["cache_creation_input_tokens"],
        usage["output_tokens"],
    )


def read_gemini(raw: Any) -> Reading:
    chunks = events(raw) if isinstance(raw, str) else [raw]
    texts, stop = [], ""
    for chunk in chunks:
        candidate = chunk["candidates"][0]
        parts = candidate.get("content", {}).get("parts", [])
        texts += [p["text"] for p in parts if "text" in p and not p.get("thought")]
        stop = candidate.get("finishReason", stop)
    usage = [chunk["usageMetadata"] for chunk in chunks if "usageMetadata" in chunk][-1]
    cached = usage.get("cachedContentTokenCount", 0)
    # Everything Google counts is in totalTokenCount: what is not prompt side is output.
    prompt_side = usage["promptTokenCount"] + usage.get("toolUsePromptTokenCount", 0)
    output = usage["totalTokenCount"] - prompt_side
    return Reading("".join(texts), FINISH[stop], prompt_side - cached, cached, 0, output)


def read_chat(raw: Any) -> Reading:
    if isinstance(raw, str):
        chunks = events(raw)
        choices = [choice for chunk in chunks for choice in chunk.get("choices", [])]
        text = "".join(choice["delta"].get("content") or "" for choice in choices)
        stop = [choice["finish_reason"] for choice in choices if choice.get("finish_reason")][-1]
        found = [c.get("usage") or (c.get("x_groq") or {}).get("usage") for c in chunks]
        usage = [u for u in found if u][-1:] or [None]
        usage = usage[0]
    else:
        text = raw["choices"][0]["message"].get("content") or ""
        stop, usage = raw["choices"][0]["finish_reason"], raw["usage"]
    # Two recorded Groq answers begin with the thoughts of the model: the answer is what follows them.
    text = text.split("</think>")[-1].lstrip() if text.startswith("<think>") else text
    if usage is None:
        return Reading(text, FINISH[stop], 0, 0, 0, 0)
    details = usage.get("prompt_tokens_details") or {}
    read, write = details.get("cached_tokens") or 0, details.get("cache_write_tokens") or 0
    fresh = usage["prompt_tokens"] - read - write
    return Reading(text, FINISH[stop], fresh, read, write, usage["completion_tokens"])


def written_cost(raw: Any) -> Decimal | None:
    """The `cost` of OpenRouter, digit for digit as it stood in the reply."""
    text = raw if isinstance(raw, str) else json.dumps(raw)
    found = re.findall(r'"cost": ?([0-9.eE+-]+)', text)
    return Decimal(found[-1]) if found else None


ORACLE = {"anthropic": read_anthropic, "google-ai-studio": read_gemini}

# Deliberate exceptions, each by the provider's own id of the exchange.
#
# 2,161 tokens of a 2,168-token Gemini prompt are reported as both read from and written to the cache, and
# all three classes are billed: 7 x 0.30 + 2,161 x 0.03 + 2,161 x 0.0833 USD per million = 0.000247013, the
# prompt's `cost`.
FRESH_TOKENS = {"gen-1773011493-dQNZ1wvMJgB2Ga9XKPPE": 7}
# The user's own key (BYOK): OpenRouter charges 0, the upstream provider bills 0.0003253 USD to the same
# person.
TRUE_COST = {"gen-1764791728-YEVpGoInRszZx8oZ508T": Decimal("0.0003253")}


@pytest.mark.parametrize(("provider", "exchange"), list(exchanges()))
def test_a_recorded_exchange_reads_as_what_it_says(provider: str, exchange: dict[str, Any]) -> None:
    """Text, finish and disjoint token classes equal the raw figures; errors get their class."""
    raw, status = exchange["response"], exchange["status"]
    if exchange["path"].endswith("/count_tokens"):
        # Not a chat reply: the parser must refuse it rather than read an empty answer into it.
        with pytest.raises(ProviderError) as refused:
            send(provider, exchange)
        assert refused.value.error_class is ErrorClass.MALFORMED
        return
    if status != 200 or (isinstance(raw, str) and "event: error" in raw):
        with pytest.raises(ProviderError) as failed:
            send(provider, exchange)
        slip = "tool_use_failed" in json.dumps(raw)
        assert failed.value.error_class is (ErrorClass.MODEL_SLIP if slip else ERRORS[status])
        return
    reply = send(provider, exchange)
    want = ORACLE.get(provider, read_chat)(raw)
    usage: Usage = reply.usage
    if reply.request_id in FRESH_TOKENS:
        want = want._replace(fresh=FRESH_TOKENS[reply.request_id])
    got = Reading(
        reply.text,
        reply.finish,
        usage.input_tokens,
        usage.cache_read_tokens,
        usage.cache_write_tokens,
        usage.output_tokens,
    )
    assert got == want
    has_usage = any(want[2:])
    assert usage.flag == (None if has_usage else "usage_missing")
    assert usage.reported_cost_usd == TRUE_COST.get(reply.request_id, written_cost(raw))
