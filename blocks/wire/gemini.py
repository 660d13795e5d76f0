"""Gemini `generateContent`: build a request, read a reply or its event stream, judge an error.

Source: Google's v1beta definitions, the official SDK, recorded replies. Two traps shape this file: fields
that are zero are left out, and every kind of refusal arrives as HTTP 200.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any
from urllib.parse import quote

from typing_extensions import override

from tta_dev_primitives.blocks.wire import error_rules
from tta_dev_primitives.blocks.wire.error_rules import ErrorBody, Fault
from tta_dev_primitives.blocks.wire.reading import (
    at,
    count_of,
    flat,
    obj,
    rate_headers,
    seq,
    settled,
    text_of,
    usage_flag,
)
from tta_dev_primitives.blocks.wire.reply_problems import finish_of
from tta_dev_primitives.blocks.wire.retry_after import go_duration, next_midnight, try_again_in
from tta_dev_primitives.blocks.wire.structured import gemini_schema, instruction
from tta_dev_primitives.blocks.wire.thoughts import split_thoughts
from tta_dev_primitives.blocks.wire.types import ChatReply, ChatRequest, ModelInfo, WireRequest
from tta_dev_primitives.blocks.wire.wire_format import Answered, Events, WireFormat
from tta_dev_primitives.config.models.targets import IMPLAUSIBLE, Target, Usage
from tta_dev_primitives.config.provider_errors import ErrorClass, LedgerAction

_RESET_ZONE = "America/Los_Angeles"
_STATUS_OF_NAME = {
    "INVALID_ARGUMENT": 400,
    "FAILED_PRECONDITION": 400,
    "OUT_OF_RANGE": 400,
    "UNAUTHENTICATED": 401,
    "PERMISSION_DENIED": 403,
    "NOT_FOUND": 404,
    "ABORTED": 409,
    "RESOURCE_EXHAUSTED": 429,
    "CANCELLED": 499,
    "INTERNAL": 500,
    "UNKNOWN": 500,
    "UNAVAILABLE": 503,
    "DEADLINE_EXCEEDED": 504,
}
_BAD_KEY = re.compile(r"api[ _]key (not valid|expired|not found)|pass a valid api key", re.IGNORECASE)
_BUSY = re.compile(r"overloaded|high demand|currently unavailable|capacity", re.IGNORECASE)
_PER_DAY = re.compile(r"per[ _-]?day|daily", re.IGNORECASE)
_PER_MINUTE = re.compile(r"per[ _-]?minute", re.IGNORECASE)
_LIMIT_ZERO = re.compile(r"\blimit: ?0\b")


class Gemini(WireFormat):
    """The Gemini API of Google AI Studio."""

    provider, base_url = "google-ai-studio", "https://generativelanguage.googleapis.com"
    models_path = "/v1beta/models?pageSize=1000"
    key_header, key_prefix = "x-goog-api-key", ""

    @override
    def build(self, target: Target, request: ChatRequest) -> WireRequest:
        """Translate `request` for `target`. The model stands in the path, percent-encoded."""
        can = target.capabilities
        settings: dict[str, Any] = {"maxOutputTokens": request.max_output_tokens}
        system = request.system or ""
        if request.temperature is not None and can.temperature:
            settings["temperature"] = request.temperature
        if request.stop and can.stop:
            settings["stopSequences"] = list(request.stop)
        if request.json_schema is not None:
            if can.json_mode != "none":
                settings["responseMimeType"] = "application/json"
            schema = gemini_schema(request.json_schema)
            if can.json_mode == "json_schema" and schema is not None:
                settings["responseJsonSchema"] = schema
            else:
                system = f"{system}\n\n{instruction(request.json_schema)}".strip()
        if request.thinking == "low" and can.thinking == "gemini_budget":
            settings["thinkingConfig"] = {"thinkingBudget": can.min_thinking_budget}
        elif request.thinking == "low" and can.thinking == "gemini_level":
            settings["thinkingConfig"] = {"thinkingLevel": "LOW"}
        contents: list[dict[str, Any]] = [
            {"role": "model" if m.role == "assistant" else "user", "parts": [{"text": m.content}]}
            for m in request.messages
        ]
        body: dict[str, Any] = {"contents": contents, "generationConfig": settings}
        if system and can.system_role:
            body["systemInstruction"] = {"parts": [{"text": system}]}
        elif system:
            contents[0]["parts"].insert(0, {"text": f"{system}\n\n"})
        model = quote(target.api_model.removeprefix("models/"), safe="")
        return WireRequest(f"/v1beta/models/{model}:generateContent", body)

    @override
    def stream(self, got: Answered, events: Events) -> ChatReply:
        # This format ends without a mark of its own; proxies add the one of OpenAI's.
        reply = self.reply(got, [data for _, data in events if data is not None])
        if reply.raw_finish is None:
            raise got.cut_off()
        return reply

    @override
    def reply(self, got: Answered, payload: Any) -> ChatReply:
        """Add up the chunks of a stream; a plain reply is a stream of one chunk."""
        chunks = payload if isinstance(payload, list) else [payload]
        text, apart, raw, model, reply_id, meta, found = "", "", "", "", "", None, False
        for chunk in chunks:
            # Usage is cumulative and complete in each chunk: the last one holds.
            meta = at(chunk, "usageMetadata") or meta
            if obj(chunk).get("error") is not None:
                counted = at(chunk, "usageMetadata")
                spent = _usage(counted) if counted else None
                raise self.failed(got, chunk, spent)
            first = obj(seq(at(chunk, "candidates"))[0]) if seq(at(chunk, "candidates")) else {}
            for part in seq(at(first, "content", "parts")):
                if at(part, "thought") is True:
                    apart += text_of(at(part, "text"))
                else:
                    text += text_of(at(part, "text"))
            raw = text_of(first.get("finishReason")) or _blocked(chunk) or raw
            model = text_of(at(chunk, "modelVersion")) or model
            reply_id = text_of(at(chunk, "responseId")) or reply_id
            found = found or bool(first or _blocked(chunk) or obj(at(chunk, "usageMetadata")))
        if not found and chunks and error_rules.is_error(chunks[0]):
            raise self.failed(got, chunks[0])
        if not found:
            raise got.error(
                error_rules.unreadable("it holds neither a candidate nor a verdict on the prompt")
            )
        usage = _usage(meta)
        if raw == "PUP_LIMITED_DISABLED":
            ledger = LedgerAction.SETTLE if settled(usage) else LedgerAction.CHARGE_AT_BOUND
            fault = Fault(ErrorClass.AUTH, ledger, "the account is limited", raw, "provider")
            raise got.error(fault, usage)
        text, thoughts = split_thoughts(text)
        return ChatReply(
            text=text,
            finish="content_filter" if raw.startswith("prompt:") else finish_of(raw),
            reasoning="\n\n".join(filter(None, (apart, thoughts))),
            usage=usage,
            raw_finish=raw.removeprefix("prompt:") or None,
            model_returned=flat(model.removeprefix("models/"), limit=200) or None,
            request_id=flat(reply_id, limit=120) or None,
            reply_id=flat(reply_id, limit=120) or None,
            headers=rate_headers(got.headers),
        )

    @override
    def classify(self, status: int, headers: Mapping[str, str], payload: Any, now: float) -> Fault:
        body = error_rules.read_error(payload)
        name = flat(body.node.get("status"), limit=60)
        body = replace(body, code=name or body.code)
        if 200 <= status < 300:
            status = _STATUS_OF_NAME.get(name) or error_rules.status_inside(body) or 500
        details = [obj(d) for d in seq(body.node.get("details"))]
        if status == 429:
            return _limited(body, details, headers, now)
        reasons = {text_of(d.get("reason")) for d in details}
        bad_key = "API_KEY_INVALID" in reasons or _BAD_KEY.search(body.message[:2000])
        if status == 400 and (bad_key or name == "FAILED_PRECONDITION"):
            # A wrong key and a country or plan without access are 400 here: both put the whole provider out.
            code = "API_KEY_INVALID" if bad_key else name
            return Fault(ErrorClass.AUTH, LedgerAction.RELEASE, body.message, code, "provider")
        busy = name == "UNAVAILABLE" and _BUSY.search(body.message[:2000]) is not None
        return error_rules.by_status(status, body, headers=headers, now=now, overloaded=busy)

    @override
    def model_of(self, entry: Any) -> ModelInfo:
        # The list names no lifecycle, only what exists.
        return ModelInfo(flat(at(entry, "name"), limit=200).removeprefix("models/"), "active")


def _blocked(chunk: Any) -> str:
    reason = text_of(at(chunk, "promptFeedback", "blockReason"))
    return f"prompt:{reason}" if reason else ""


def _usage(node: Any) -> Usage:
    """The prompt figure includes the cached part; the candidates figure excludes thoughts.

    What `totalTokenCount` counts beyond its parts is charged as output, or as the prompt when that is left out.
    """
    prompt, cached = at(node, "promptTokenCount"), at(node, "cachedContentTokenCount")
    tool, answer = at(node, "toolUsePromptTokenCount"), at(node, "candidatesTokenCount")
    thoughts, total = at(node, "thoughtsTokenCount"), at(node, "totalTokenCount")
    flag = usage_flag(prompt, cached, tool, answer, thoughts, total)
    read, asked = count_of(cached) or 0, (count_of(prompt) or 0) + (count_of(tool) or 0)
    written = (count_of(answer) or 0) + (count_of(thoughts) or 0)
    unexplained = (count_of(total) or 0) - asked - written
    if unexplained > 0 and not asked:
        asked = unexplained
    elif unexplained > 0:
        written += unexplained
    fresh = asked - read
    return Usage(
        input_tokens=max(0, fresh),
        cache_read_tokens=read,
        output_tokens=written,
        thinking_tokens=count_of(thoughts) or 0,
        flag=flag or ("usage_invalid" if fresh < 0 else IMPLAUSIBLE if unexplained > 0 else None),
    )


def _limited(
    body: ErrorBody, details: Sequence[Mapping[str, Any]], headers: Mapping[str, str], now: float
) -> Fault:
    """Split 429: per day (next model), per minute (wait), model outside the plan, or lack of capacity."""
    violations = [obj(v) for d in details for v in seq(d.get("violations"))]
    ids = " ".join(text_of(v.get("quotaId")) for v in violations) or body.message[:4000]
    zero = any(str(v.get("quotaValue")) == "0" for v in violations) or _LIMIT_ZERO.search(body.message[:4000])
    quota = Fault(ErrorClass.QUOTA, LedgerAction.RELEASE, body.message, body.code)
    if zero or _PER_DAY.search(ids):
        # A per-day error still carries a short retryDelay: it is ignored.
        return replace(quota, reset_at=next_midnight(_RESET_ZONE, now))
    waits = [go_duration(d.get("retryDelay")) for d in details if d.get("retryDelay") is not None]
    known = [w for w in waits if w is not None]
    spoken = try_again_in(body.message)
    if known or spoken is not None:
        # retryDelay is rounded down, the message carries the decimals; one second more is on the safe side.
        return error_rules.limited(body, headers={}, now=now, wait_s=max([*known, spoken or 0.0]) + 1.0)
    if _PER_MINUTE.search(ids):
        return error_rules.limited(body, headers=headers, now=now, per_minute=True)
    if not violations and "check quota" in body.message:
        return replace(quota, error_class=ErrorClass.OVERLOADED)
    return error_rules.limited(body, headers=headers, now=now)
