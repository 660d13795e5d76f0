"""Anthropic Messages: build a request, read a reply or its event stream, judge an error.

Source: the official SDK's types and Anthropic's pages on errors, rate limits and structured outputs.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from typing_extensions import override

from tta_dev_primitives.blocks.wire import error_rules
from tta_dev_primitives.blocks.wire.error_rules import ErrorBody, Fault
from tta_dev_primitives.blocks.wire.reading import (
    Unreadable,
    at,
    count_of,
    decode_json,
    flat,
    obj,
    rate_headers,
    seq,
    text_of,
    usage_flag,
)
from tta_dev_primitives.blocks.wire.reply_problems import finish_of
from tta_dev_primitives.blocks.wire.retry_after import next_month, parse_instant
from tta_dev_primitives.blocks.wire.structured import instruction, strict_schema, within_limits
from tta_dev_primitives.blocks.wire.thoughts import split_thoughts
from tta_dev_primitives.blocks.wire.types import (
    ChatReply,
    ChatRequest,
    Lifecycle,
    ModelInfo,
    WireRequest,
)
from tta_dev_primitives.blocks.wire.wire_format import Answered, Events, WireFormat
from tta_dev_primitives.config.models.targets import Target, Usage
from tta_dev_primitives.config.provider_errors import ErrorClass, LedgerAction

PATH = "/v1/messages"
# 2023-06-01 still serves every model; 2026-10-21 would refuse temperature for those that take it.
VERSION = "2023-06-01"

_LIMITS = {"properties": 1000, "depth": 40, "choices": 5000, "unions": 16}
"""Of structured outputs; the limit of unions is Anthropic's, the others keep the grammar small."""
_LIFECYCLE: Mapping[str, Lifecycle] = {"active": "active", "deprecated": "deprecated", "retired": "retired"}
STATUS_OF_TYPE = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "billing_error": 402,
    "permission_error": 403,
    "not_found_error": 404,
    "conflict_error": 409,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "api_error": 500,
    "timeout_error": 504,
    "overloaded_error": 529,
}
_SPEND_CODES = frozenset(
    {
        "enforced_spend_limit_reached",
        "contract_spend_limit_reached",
        "linked_organization_spend_limit_reached",
    }
)
_SPENT = re.compile(r"reached your specified .{0,20}usage limits", re.IGNORECASE)
_NO_CREDIT = re.compile(r"credit balance is too low", re.IGNORECASE)
_REGAIN = re.compile(r"access on ([0-9]{4}-[0-9]{2}-[0-9]{2})(?: at ([0-9]{2}:[0-9]{2}))?", re.IGNORECASE)
_DISABLED = re.compile(r"organization has been disabled", re.IGNORECASE)
_FILTERED = re.compile(r"content filtering policy|usage policy", re.IGNORECASE)


class Anthropic(WireFormat):
    """The Messages API."""

    provider, base_url = "anthropic", "https://api.anthropic.com"
    models_path = "/v1/models?limit=1000"
    key_header, key_prefix = "x-api-key", ""
    headers = MappingProxyType({"anthropic-version": VERSION})

    @override
    def build(self, target: Target, request: ChatRequest) -> WireRequest:
        """Translate `request` for `target`; sampling and thinking only where the model's capabilities allow."""
        can = target.capabilities
        body: dict[str, Any] = {
            "model": target.api_model,
            "max_tokens": request.max_output_tokens,
            "messages": [{"role": m.role, "content": m.content} for m in request.messages],
            "stream": False,
        }
        system = request.system or ""
        if request.json_schema is not None:
            schema = strict_schema(request.json_schema)
            if can.json_mode == "json_schema" and schema is not None and within_limits(schema, **_LIMITS):
                body["output_config"] = {"format": {"type": "json_schema", "schema": schema}}
            elif can.json_mode == "tool":
                body["tools"] = [{"name": request.schema_name, "input_schema": dict(request.json_schema)}]
                body["tool_choice"] = {"type": "tool", "name": request.schema_name}
            else:
                system = f"{system}\n\n{instruction(request.json_schema)}".strip()
        if system and can.system_role:
            # A mark keeps what comes before it, the tools included, for five minutes from its last use.
            mark = {"cache_control": {"type": "ephemeral"}}
            body["system"] = [{"type": "text", "text": system, **mark}] if request.cache_system else system
        elif system:
            first = body["messages"][0]
            first["content"] = f"{system}\n\n{first['content']}"
        if request.stop and can.stop:
            body["stop_sequences"] = list(request.stop)
        if request.temperature is not None and can.temperature:
            body["temperature"] = request.temperature
        if can.thinking == "anthropic_adaptive" and request.thinking == "low":
            body["thinking"] = {"type": "disabled"}
        return WireRequest(PATH, body)

    @override
    def stream(self, got: Answered, events: Events) -> ChatReply:
        message: dict[str, Any] = {}
        blocks: dict[Any, dict[str, Any]] = {}
        usage: dict[str, Any] = {}
        ended = False
        for _, event in events:
            match at(event, "type"):
                case "error":
                    # What was generated until now is reported by no event: the call is charged at its bound.
                    raise self.failed(got, event)
                case "message":
                    return self.reply(got, event)
                case "message_start":
                    message = dict(obj(at(event, "message")))
                    usage |= obj(message.get("usage"))
                case "content_block_start":
                    blocks[_index(event)] = dict(obj(at(event, "content_block")))
                case "content_block_delta":
                    _grow(blocks.setdefault(_index(event), {"type": "text"}), obj(at(event, "delta")))
                case "message_delta":
                    message |= obj(at(event, "delta"))
                    # The figures of message_delta are cumulative: they replace those of message_start.
                    usage |= {k: v for k, v in obj(at(event, "usage")).items() if v is not None}
                case "message_stop":
                    ended = True
        if not ended and not text_of(message.get("stop_reason")):
            raise got.cut_off()
        whole = message | {
            "type": "message",
            "usage": usage,
            "content": [_closed(b) for b in blocks.values()],
        }
        return self.reply(got, whole)

    @override
    def reply(self, got: Answered, payload: Any) -> ChatReply:
        payload = payload[0] if isinstance(payload, list) and len(payload) == 1 else payload
        if at(payload, "type") != "message" and error_rules.is_error(payload):
            raise self.failed(got, payload)
        content = at(payload, "content")
        if at(payload, "type") != "message" or not (content is None or isinstance(content, list)):
            raise got.error(error_rules.unreadable("it is not a message object"))
        raw = text_of(at(payload, "stop_reason")) or None
        finish = finish_of(raw)
        written = "".join(text_of(at(b, "text")) for b in content or () if at(b, "type") == "text")
        text, thoughts = split_thoughts(written)
        apart = "".join(text_of(at(b, "thinking")) for b in content or () if at(b, "type") == "thinking")
        if got.target.capabilities.json_mode == "tool":
            inputs = [at(b, "input") for b in content or () if at(b, "type") == "tool_use"]
            if inputs and isinstance(inputs[0], dict):
                text = text_of(json.dumps(inputs[0], ensure_ascii=False, default=float))
                finish = "stop" if finish == "tool" else finish
        return ChatReply(
            text=text,
            finish=finish,
            usage=_usage(at(payload, "usage")),
            raw_finish=raw,
            reasoning="\n\n".join(filter(None, (apart, thoughts))),
            model_returned=flat(at(payload, "model"), limit=200) or None,
            request_id=error_rules.request_id_of(got.headers, payload),
            reply_id=flat(at(payload, "id"), limit=120) or None,
            headers=rate_headers(got.headers),
        )

    @override
    def classify(self, status: int, headers: Mapping[str, str], payload: Any, now: float) -> Fault:
        body = error_rules.read_error(payload)
        if 200 <= status < 300:
            status = STATUS_OF_TYPE.get(body.type) or error_rules.status_inside(body) or 500
        fault = _special(status, headers, body, now)
        if fault is None:
            busy = body.type == "overloaded_error"
            fault = error_rules.by_status(status, body, headers=headers, now=now, overloaded=busy)
        return error_rules.overridden(fault, headers)

    @override
    def model_of(self, entry: Any) -> ModelInfo:
        lifecycle = _LIFECYCLE.get(text_of(at(entry, "lifecycle")), "unknown")
        return ModelInfo(flat(at(entry, "id"), limit=200), lifecycle, flat(at(entry, "retires_at")) or None)


def _index(event: Any) -> int:
    return count_of(at(event, "index")) or 0


def _grow(block: dict[str, Any], delta: Mapping[str, Any]) -> None:
    for key in ("text", "partial_json", "thinking"):
        piece = delta.get(key)
        if isinstance(piece, str):
            block[key] = text_of(block.get(key)) + piece


def _closed(block: dict[str, Any]) -> dict[str, Any]:
    """A streamed tool call arrives as pieces of JSON text; an unfinished one stays without input."""
    if block.get("type") == "tool_use" and "partial_json" in block:
        try:
            block["input"] = decode_json(block["partial_json"])
        except Unreadable:
            block["input"] = None
    return block


def _usage(node: Any) -> Usage:
    """The counts of the reply, or those of its iterations added up (a compaction before it): the larger hold.

    An iteration that names a model is an adviser's, at another price: no request of ours asks for one.
    """
    usage = _counts(node)
    own = (part for part in seq(at(node, "iterations")) if obj(part) and not at(part, "model"))
    parts = [_counts(part) for part in own]
    if not parts or usage.flag is not None:
        return usage
    sums = {name: sum(getattr(part, name) for part in parts) for name in _COUNTED}
    return replace(usage, **{name: max(getattr(usage, name), total) for name, total in sums.items()})


_COUNTED = (
    "input_tokens",
    "cache_read_tokens",
    "cache_write_tokens",
    "cache_write_1h_tokens",
    "output_tokens",
)


def _counts(node: Any) -> Usage:
    """`input_tokens` excludes both cache classes; `output_tokens` includes thinking.

    What is written to the cache is counted twice, as a sum and by how long it is kept: the larger holds.
    """
    thinking = at(node, "output_tokens_details", "thinking_tokens")
    fresh, out = at(node, "input_tokens"), at(node, "output_tokens")
    read, write = at(node, "cache_read_input_tokens"), at(node, "cache_creation_input_tokens")
    short, hour = (at(node, "cache_creation", f"ephemeral_{kept}_input_tokens") for kept in ("5m", "1h"))
    flag = usage_flag(fresh, out, read, write, short, hour)
    return Usage(
        input_tokens=count_of(fresh) or 0,
        cache_read_tokens=count_of(read) or 0,
        cache_write_tokens=max(count_of(write) or 0, (count_of(short) or 0) + (count_of(hour) or 0)),
        cache_write_1h_tokens=count_of(hour) or 0,
        output_tokens=count_of(out) or 0,
        thinking_tokens=count_of(thinking) or 0,
        flag=flag,
    )


def _special(status: int, headers: Mapping[str, str], body: ErrorBody, now: float) -> Fault | None:
    message, rel = body.message[:4000], LedgerAction.RELEASE
    detail = text_of(at(body.node, "details", "error_code"))
    if detail in _SPEND_CODES or (status == 400 and _SPENT.search(message)):
        when = _regain(message) or next_month(now)
        return Fault(ErrorClass.QUOTA, rel, message, detail or body.type, "provider", reset_at=when)
    if status == 400 and _NO_CREDIT.search(message):
        return Fault(ErrorClass.QUOTA, rel, message, body.type, "provider")
    if status == 400 and _DISABLED.search(message):
        return Fault(ErrorClass.AUTH, rel, message, body.type, "provider")
    if status == 400 and _FILTERED.search(message):
        # The output was blocked after it had been generated.
        return Fault(ErrorClass.CONTENT, LedgerAction.CHARGE_AT_BOUND, message, body.type)
    if status == 429 and "retry-after" not in headers and "retry-after-ms" not in headers:
        wait, ramp = _bucket_wait(headers, now), detail == "ramp_limit_exceeded"
        if wait is not None or ramp:
            limited = error_rules.limited(body, headers=headers, now=now, wait_s=wait, per_minute=ramp)
            return replace(limited, code=detail or body.type)
    return None


def _regain(message: str) -> float | None:
    found = _REGAIN.search(message)
    return parse_instant(f"{found[1]}T{found[2] or '00:00'}:00+00:00") if found else None


def _bucket_wait(headers: Mapping[str, str], now: float) -> float | None:
    """Seconds until the emptiest bucket refills, from `anthropic-ratelimit-*-{remaining,reset}`."""
    server_now = parse_instant(headers.get("date")) or now
    waits = [
        parse_instant(headers.get(name.replace("-remaining", "-reset")))
        for name, left in headers.items()
        if name.startswith("anthropic-ratelimit-") and name.endswith("-remaining") and left.strip() == "0"
    ]
    known = [max(0.0, w - server_now) for w in waits if w is not None]
    return max(known) if known else None
