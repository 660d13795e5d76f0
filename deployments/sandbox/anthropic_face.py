"""What the Anthropic Messages API answers: bodies, event streams, errors, headers."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from tta_dev_primitives.deployments.sandbox.chat import Answer, Ask, ErrorKind, Failure, Refusal
from tta_dev_primitives.deployments.sandbox.strict import refuse
from tta_dev_primitives.deployments.sandbox.wire import Reply, Room, Sent, dumps, pieces, token

__all__ = ["AnthropicFace", "check_version"]

_ERRORS: dict[ErrorKind, tuple[int, str, str]] = {
    "invalid_request": (400, "invalid_request_error", "Invalid request"),
    "context_length": (400, "invalid_request_error", "prompt is too long: 250000 tokens > 200000 maximum"),
    "too_large": (413, "request_too_large", "Request exceeds the maximum size"),
    "bad_key": (401, "authentication_error", "invalid x-api-key"),
    "forbidden": (
        403,
        "permission_error",
        "Your API key does not have permission to use the specified resource.",
    ),
    "no_credit": (
        400,
        "invalid_request_error",
        "You have reached your specified API usage limits. You will regain access on 2099-01-01 at 00:00 "
        "UTC.",
    ),
    "model_gone": (404, "not_found_error", "model: {model}"),
    "rate_limit": (
        429,
        "rate_limit_error",
        "This request would exceed the rate limit for your organization of {limit} requests per minute.",
    ),
    "token_limit": (
        429,
        "rate_limit_error",
        "This request would exceed the rate limit for your organization of {limit} tokens per minute.",
    ),
    "daily_limit": (429, "rate_limit_error", "Your organization has reached its enforced spend limit."),
    "request_over_limit": (
        429,
        "rate_limit_error",
        "This request would exceed the rate limit for your organization of {limit} input tokens per minute.",
    ),
    "content_policy": (400, "invalid_request_error", "Output blocked by content filtering policy"),
    "json_failed": (500, "api_error", "Internal server error"),
    "server_error": (500, "api_error", "Internal server error"),
    "bad_gateway": (502, "api_error", "Bad gateway"),
    "timeout": (504, "timeout_error", "Request timed out"),
    "overloaded": (529, "overloaded_error", "Overloaded"),
}
_VERSIONS = ("2023-06-01", "2026-10-21")
_STOP_REASON = {
    "stop": "end_turn",
    "length": "max_tokens",
    "content_filter": "refusal",
    "refusal": "refusal",
    "tool": "tool_use",
    "error": "end_turn",
}
_DATES = {
    "claude-sonnet-4-5": "20250929",
    "claude-opus-4-5": "20251101",
    "claude-haiku-4-5": "20251001",
}


def check_version(headers: Mapping[str, str]) -> str:
    """The `anthropic-version` of a request; refuses a missing or unknown one."""
    version = headers.get("anthropic-version")
    if version is None:
        refuse("anthropic-version: header is required")
    if version not in _VERSIONS:
        refuse(f'anthropic-version: "{version}" is not a valid version')
    return version


class AnthropicFace:
    """Anthropic Messages."""

    provider = "anthropic"

    def key_of(self, headers: Mapping[str, str]) -> str | None:
        """`x-api-key`, or a bearer token as newer SDKs send."""
        key = headers.get("x-api-key")
        bearer = headers.get("authorization", "")
        if key is None and bearer.lower().startswith("bearer "):
            key = bearer[7:].strip()
        return key or None

    def missing_key(self) -> Refusal:
        """What a request without a key is told."""
        return Refusal(Failure("bad_key", "x-api-key header is required"))

    def answer(self, ask: Ask, answer: Answer, sent: Sent) -> Reply:
        """A message, or its event stream."""
        message = _message(ask, answer, sent)
        if not ask.stream:
            return Reply(body=message, headers=self.headers(sent))
        return Reply(
            chunks=_events(message),
            headers={**self.headers(sent), "content-type": "text/event-stream; charset=utf-8"},
        )

    def broken_stream(self, ask: Ask, answer: Answer, sent: Sent) -> Reply:
        """A stream that ends in an `error` event; a plain 500 when no stream was asked."""
        if not ask.stream:
            return self.error(Failure("server_error"), sent)
        whole = self.answer(ask, answer, sent)
        begun = list(whole.chunks or ())[:4]
        error = self.error(Failure("overloaded"), sent).body
        return Reply(chunks=[*begun, _event("error", error)], headers=whole.headers)

    def error(self, failure: Failure, sent: Sent) -> Reply:
        """`{"type": "error", "error": {...}, "request_id": ...}`."""
        status, kind, text = _ERRORS[failure.kind]
        facts = {"limit": failure.limit or 50, "model": "", **failure.facts}
        error: dict[str, Any] = {"type": kind, "message": failure.message or text.format(**facts)}
        if failure.kind == "daily_limit":
            error["details"] = {"error_code": "enforced_spend_limit_reached"}
        headers = self.headers(sent)
        if failure.retry_after is not None and failure.kind != "daily_limit":
            headers["retry-after"] = _seconds(failure.retry_after)
        return Reply(
            status, {"type": "error", "error": error, "request_id": sent.request_id}, headers=headers
        )

    def models(self, ids: Sequence[str]) -> dict[str, Any]:
        """`GET /v1/models`."""
        data = [self.model(i) for i in ids]
        return {
            "data": data,
            "has_more": False,
            "first_id": data[0]["id"] if data else None,
            "last_id": data[-1]["id"] if data else None,
        }

    def model(self, model: str) -> dict[str, Any]:
        """`GET /v1/models/{id}`."""
        words = model.removeprefix("claude-").split("-")
        return {
            "type": "model",
            "id": model,
            "display_name": " ".join(["Claude", *(w.title() for w in words), "(sandbox)"]),
            "created_at": "2025-09-29T00:00:00Z",
            "lifecycle": "active",
            "deprecated_at": None,
            "retires_at": None,
            "max_input_tokens": 200_000,
            "max_tokens": 64_000,
            "capabilities": None,
        }

    def headers(self, sent: Sent) -> dict[str, str]:
        """Request id, and the limits as RFC 3339 resets."""
        headers = {
            "request-id": sent.request_id,
            "anthropic-organization-id": "00000000-0000-4000-8000-0000000000aa",
        }
        rooms = {room.metric: room for room in sent.rooms}
        requests = rooms.get("rpm") or Room("rpm", 4000, 3999, 1.0)
        tokens = rooms.get("tpm") or Room("tpm", 2_000_000, 1_999_000, 1.0)
        for name, room in (
            ("requests", requests),
            ("tokens", tokens),
            ("input-tokens", tokens),
            ("output-tokens", tokens),
        ):
            reset = datetime.fromtimestamp(sent.at + room.reset_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
            headers[f"anthropic-ratelimit-{name}-limit"] = str(room.limit)
            headers[f"anthropic-ratelimit-{name}-remaining"] = str(room.remaining)
            headers[f"anthropic-ratelimit-{name}-reset"] = reset
        return headers


def _seconds(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:g}"


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
    reason = answer.raw_finish or ("stop_sequence" if answer.stop_sequence else _STOP_REASON[answer.finish])
    details = None
    if reason == "refusal":
        details = {"type": "refusal", "category": None, "explanation": None}
    message: dict[str, Any] = {
        "id": f"msg_{token('msg', sent.number, sent.request_id)}",
        "type": "message",
        "role": "assistant",
        "model": answer.model or _dated(ask.model),
        "content": _content(ask, answer, sent),
        "stop_reason": reason,
        "stop_sequence": answer.stop_sequence if reason == "stop_sequence" else None,
        "stop_details": details,
        "usage": _usage(answer),
    }
    if answer.usage_override == "missing":
        del message["usage"]
    return message


def _dated(model: str) -> str:
    return f"{model}-{_DATES[model]}" if model in _DATES else model


def _usage(answer: Answer) -> dict[str, Any]:
    usage = answer.usage
    shown: dict[str, Any] = {
        "input_tokens": usage.input_tokens,
        "cache_creation_input_tokens": usage.cache_write_tokens,
        "cache_read_input_tokens": usage.cache_read_tokens,
        "cache_creation": {
            "ephemeral_5m_input_tokens": usage.cache_write_tokens - usage.cache_write_1h_tokens,
            "ephemeral_1h_input_tokens": usage.cache_write_1h_tokens,
        },
        "output_tokens": usage.output_tokens,
        "output_tokens_details": {"thinking_tokens": usage.thinking_tokens},
        "service_tier": "standard",
        "inference_geo": "global",
    }
    if answer.usage_override == "invalid":
        shown["input_tokens"], shown["output_tokens"] = -1, "many"
    elif isinstance(answer.usage_override, Mapping):
        shown |= answer.usage_override
    return shown


def _event(name: str, data: Mapping[str, Any]) -> bytes:
    return b"event: " + name.encode() + b"\ndata: " + dumps(data) + b"\n\n"


def _events(message: dict[str, Any]) -> list[bytes]:
    """The event stream that builds `message`."""
    usage = message.get("usage")
    opening = {**message, "content": [], "stop_reason": None, "stop_sequence": None, "stop_details": None}
    if usage is not None:
        opening["usage"] = {**usage, "output_tokens": 1}
    out = [
        _event("message_start", {"type": "message_start", "message": opening}),
        _event("ping", {"type": "ping"}),
    ]
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
    emptied: dict[str, Any] = {"input": {}} if kind == "tool_use" else {field: ""}
    empty = {**block, **emptied}
    if kind == "thinking":
        empty["signature"] = ""
    deltas = [{"type": delta, field: piece} for piece in pieces(text)]
    if kind == "thinking":
        deltas.append({"type": "signature_delta", "signature": block["signature"]})
    start = {"type": "content_block_start", "index": index, "content_block": empty}
    stop = {"type": "content_block_stop", "index": index}
    body = [
        _event("content_block_delta", {"type": "content_block_delta", "index": index, "delta": d})
        for d in deltas
    ]
    return [_event("content_block_start", start), *body, _event("content_block_stop", stop)]
