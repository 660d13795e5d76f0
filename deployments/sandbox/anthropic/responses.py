"""Responses of the Anthropic Messages API: bodies, event streams, errors, headers."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from tta_dev_primitives.deployments.sandbox.chat import Answer, Ask, Failure
from tta_dev_primitives.deployments.sandbox.http_reply import (
    ProviderResponses,
    RateLimit,
    Reply,
    Sent,
    dumps,
    error_form,
    overridden,
    pieces,
    retry_after,
    token,
)
from tta_dev_primitives.deployments.sandbox.requests import refuse

_VERSIONS = ("2023-06-01", "2026-10-21")
_STOP_REASON = {
    "stop": "end_turn", "length": "max_tokens", "content_filter": "refusal", "refusal": "refusal",
    "tool": "tool_use",
}  # fmt: skip
_DATES = {"claude-sonnet-4-5": "20250929", "claude-opus-4-5": "20251101", "claude-haiku-4-5": "20251001"}


def check_version(headers: Mapping[str, str]) -> str:
    """The `anthropic-version` of a request; refuses a missing or unknown one."""
    version = headers.get("anthropic-version")
    if version is None:
        refuse("anthropic-version: header is required")
    if version not in _VERSIONS:
        refuse(f'anthropic-version: "{version}" is not a valid version')
    return version


class AnthropicResponses(ProviderResponses):
    """Anthropic Messages."""

    provider = "anthropic"
    key_header = "x-api-key"
    no_key = Failure("bad_key", "x-api-key header is required")

    def answer(self, ask: Ask, answer: Answer, sent: Sent) -> Reply:
        """A message, or its event stream."""
        message = _message(ask, answer, sent)
        return Reply(chunks=_events(message)) if ask.stream else Reply(body=message)

    def error(self, failure: Failure, sent: Sent) -> Reply:
        """`{"type": "error", "error": {...}, "request_id": ...}`."""
        status, kind, _, message = error_form(self.provider, failure)
        error: dict[str, Any] = {"type": kind, "message": message}
        if failure.kind == "daily_limit":
            error["details"] = {"error_code": "enforced_spend_limit_reached"}
        wait = None if failure.kind == "daily_limit" else failure.retry_after
        body = {"type": "error", "error": error, "request_id": sent.request_id}
        return Reply(status, body, headers=retry_after(wait))

    def models(self, ids: Sequence[str]) -> dict[str, Any]:
        """`GET /v1/models`."""
        ends = {"first_id": ids[0] if ids else None, "last_id": ids[-1] if ids else None}
        shown = self.shown(ids, id=str, display_name="{} (sandbox)".format)
        return {"data": shown, "has_more": False, **ends}

    def headers(self, sent: Sent) -> dict[str, str]:
        """Request id, and the limits as RFC 3339 resets."""
        organization = "00000000-0000-4000-8000-0000000000aa"
        headers = {"request-id": sent.request_id, "anthropic-organization-id": organization}
        limits = {limit.metric: limit for limit in sent.limits}
        requests = limits.get("rpm") or RateLimit("rpm", 4000, 3999, 1.0)
        tokens = limits.get("tpm") or RateLimit("tpm", 2_000_000, 1_999_000, 1.0)
        for name in ("requests", "tokens", "input-tokens", "output-tokens"):
            limit = requests if name == "requests" else tokens
            reset = datetime.fromtimestamp(sent.at + limit.reset_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
            headers[f"anthropic-ratelimit-{name}-limit"] = str(limit.limit)
            headers[f"anthropic-ratelimit-{name}-remaining"] = str(limit.remaining)
            headers[f"anthropic-ratelimit-{name}-reset"] = reset
        return headers


def _content(ask: Ask, answer: Answer, sent: Sent) -> list[dict[str, Any]]:
    blocks: list[dict[str, Any]] = []
    if answer.thinking:
        signature = token("signature", answer.thinking, length=48)
        blocks.append({"type": "thinking", "thinking": answer.thinking, "signature": signature})
    if ask.tool and answer.finish == "tool":
        used = {"id": f"toolu_{token(sent.number, ask.tool)}", "name": ask.tool}
        blocks.append({"type": "tool_use", **used, "input": json.loads(answer.text)})
    elif answer.text:
        blocks.append({"type": "text", "text": answer.text})
    return blocks


def _message(ask: Ask, answer: Answer, sent: Sent) -> dict[str, Any]:
    reason = "stop_sequence" if answer.stop_sequence else _STOP_REASON[answer.finish]
    dated = f"{ask.model}-{_DATES[ask.model]}" if ask.model in _DATES else ask.model
    message: dict[str, Any] = {
        "id": f"msg_{token('msg', sent.number, sent.request_id)}", "type": "message", "role": "assistant",
        "model": dated, "content": _content(ask, answer, sent), "stop_reason": reason,
        "stop_sequence": answer.stop_sequence if reason == "stop_sequence" else None,
        "stop_details": {"type": "refusal", "category": None, "explanation": None} if reason == "refusal" else None,
    }  # fmt: skip
    return message if answer.usage_override == "missing" else message | {"usage": _usage(answer)}


def _usage(answer: Answer) -> dict[str, Any]:
    usage = answer.usage
    short, long = usage.cache_write_tokens - usage.cache_write_1h_tokens, usage.cache_write_1h_tokens
    shown: dict[str, Any] = {
        "input_tokens": usage.input_tokens, "output_tokens": usage.output_tokens,
        "output_tokens_details": {"thinking_tokens": usage.thinking_tokens},
        "cache_read_input_tokens": usage.cache_read_tokens, "cache_creation_input_tokens": usage.cache_write_tokens,
        "cache_creation": {"ephemeral_5m_input_tokens": short, "ephemeral_1h_input_tokens": long},
        "service_tier": "standard", "inference_geo": "global",
    }  # fmt: skip
    return overridden(shown, answer, {"input_tokens": -1, "output_tokens": "many"})


def _event(name: str, data: Mapping[str, Any]) -> bytes:
    return b"event: " + name.encode() + b"\ndata: " + dumps(data) + b"\n\n"


def _events(message: dict[str, Any]) -> list[bytes]:
    """The event stream that builds `message`."""
    usage = message.get("usage")
    opening = {**message, "content": [], "stop_reason": None, "stop_sequence": None, "stop_details": None}
    if usage is not None:
        opening["usage"] = {**usage, "output_tokens": 1}
    start, ping = {"type": "message_start", "message": opening}, {"type": "ping"}
    out = [_event("message_start", start), _event("ping", ping)]
    for index, block in enumerate(message["content"]):
        out += _block_events(index, block)
    delta = {k: message[k] for k in ("stop_reason", "stop_sequence", "stop_details")}
    closing: dict[str, Any] = {"type": "message_delta", "delta": delta}
    if usage is not None:
        closing["usage"] = usage
    return [*out, _event("message_delta", closing), _event("message_stop", {"type": "message_stop"})]


def _block_events(index: int, block: dict[str, Any]) -> list[bytes]:
    kind = block["type"]
    field, delta, text = {
        "text": ("text", "text_delta", block.get("text", "")),
        "thinking": ("thinking", "thinking_delta", block.get("thinking", "")),
        "tool_use": ("partial_json", "input_json_delta", dumps(block.get("input")).decode()),
    }[kind]
    blank: dict[str, Any] = {"input": {}} if kind == "tool_use" else {field: ""}
    empty = {**block, **blank}
    deltas = [{"type": delta, field: piece} for piece in pieces(text)]
    if kind == "thinking":
        empty["signature"] = ""
        deltas.append({"type": "signature_delta", "signature": block["signature"]})
    start = {"type": "content_block_start", "index": index, "content_block": empty}
    stop = {"type": "content_block_stop", "index": index}
    name = "content_block_delta"
    body = [_event(name, {"type": name, "index": index, "delta": d}) for d in deltas]
    return [_event("content_block_start", start), *body, _event("content_block_stop", stop)]
