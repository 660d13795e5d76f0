"""OpenRouter's facts on top of the shared chat format: routing, error types, availability, free limits."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from typing_extensions import override

from tta_dev_primitives.blocks.wire.error_rules import CONTEXT_WORDS, ErrorBody, Fault, by_status, limited
from tta_dev_primitives.blocks.wire.openai_chat import OpenAIChat
from tta_dev_primitives.blocks.wire.reading import flat, lower_headers, obj, text_of
from tta_dev_primitives.blocks.wire.retry_after import epoch_millis, header_wait, next_midnight, seconds_of
from tta_dev_primitives.blocks.wire.types import ChatRequest
from tta_dev_primitives.config.models.targets import Target
from tta_dev_primitives.config.provider_errors import ErrorClass, LedgerAction

_REL = LedgerAction.RELEASE
# Stable `metadata.error_type`; those that follow from the status alone are left to it.
_TYPES: Mapping[str, ErrorClass] = {
    "context_length_exceeded": ErrorClass.CONTEXT,
    "max_tokens_exceeded": ErrorClass.CONTEXT,
    "token_limit_exceeded": ErrorClass.CONTEXT,
    "string_too_long": ErrorClass.CONTEXT,
    "content_policy_violation": ErrorClass.CONTENT,
    "refusal": ErrorClass.CONTENT,
}
_STATUS_OF_TYPE = {
    "rate_limit_exceeded": 429,
    "provider_overloaded": 503,
    "provider_unavailable": 502,
    "timeout": 504,
    "server": 500,
    "payment_required": 402,
    "authentication": 401,
    "permission_denied": 403,
    "not_found": 404,
    "payload_too_large": 413,
    "unprocessable": 422,
    "invalid_request": 400,
    "invalid_prompt": 400,
}
_AVAILABILITY: Mapping[str, tuple[ErrorClass, LedgerAction]] = {
    "model_not_found": (ErrorClass.MODEL_GONE, _REL),
    "no_endpoints": (ErrorClass.MODEL_GONE, _REL),
    "model_deprecated": (ErrorClass.MODEL_GONE, _REL),
    "model_unavailable_upstream": (ErrorClass.MODEL_GONE, _REL),
    "privacy_restricted": (ErrorClass.MODEL_GONE, _REL),
    "constraint_filtered": (ErrorClass.MODEL_GONE, _REL),
    "free_variant_ended": (ErrorClass.MODEL_GONE, _REL),
    # Not this account's model, but the key is fine: the provider stays.
    "region_restricted": (ErrorClass.MODEL_GONE, _REL),
    "capacity_exhausted": (ErrorClass.OVERLOADED, _REL),
    "temporarily_unavailable": (ErrorClass.OVERLOADED, _REL),
}
_NO_SUCH_MODEL = re.compile(r"not a valid model|no endpoints found|no allowed providers", re.IGNORECASE)
# What `availability` says in a word, older replies say in a sentence.
_FILTERED = (
    ("privacy_restricted", re.compile(r"data policy|privacy settings", re.IGNORECASE)),
    ("constraint_filtered", re.compile(r"requested (parameters|provider)|support tool use", re.IGNORECASE)),
)
_NO_UPSTREAM = re.compile(r"no (?:available )?(?:model )?provider|no instances available", re.IGNORECASE)
_MODERATED = re.compile(r"moderation|flagged|guardrail|content policy", re.IGNORECASE)
_KEY_CAP = re.compile(r"key limit exceeded", re.IGNORECASE)
_FREE_DAY = re.compile(r"free-models-per-day|openrouter_free_tier_daily", re.IGNORECASE)


class OpenRouter(OpenAIChat):
    """OpenRouter."""

    reports_cost = True

    @override
    def extras(self, target: Target, request: ChatRequest, body: dict[str, Any]) -> None:
        if target.capabilities.thinking == "openrouter_effort" and request.thinking == "low":
            body["reasoning"] = {"effort": "low"}
        if "response_format" in body:
            # Parameters that an upstream does not know are dropped silently unless this is set.
            body["provider"] = {"require_parameters": True}

    @override
    def special(self, status: int, headers: Mapping[str, str], body: ErrorBody, now: float) -> Fault | None:
        metadata = obj(body.node.get("metadata"))
        availability = obj(body.node.get("availability")) or obj(metadata.get("availability"))
        error_type = flat(metadata.get("error_type"), limit=60)
        said = f"{body.message} {text_of(metadata.get('raw'))}"[:4000]
        # The headers of a limit are also copied into the body, which survives proxies.
        copied = {k: text_of(v) or str(v)[:60] for k, v in obj(metadata.get("headers")).items()}
        headers = {**lower_headers(copied), **headers}
        body = replace(body, message=said.strip(), code=error_type or body.code)
        known = _AVAILABILITY.get(text_of(availability.get("code")))
        if known is not None:
            return _unavailable(known, availability, headers, body, now)
        if status in (400, 403, 404, 413, 422) and error_type in _TYPES:
            return Fault(_TYPES[error_type], _REL, body.message, error_type)
        if status in (400, 404) and _NO_SUCH_MODEL.search(said):
            filtered = next((code for code, words in _FILTERED if words.search(said)), body.code)
            return Fault(ErrorClass.MODEL_GONE, _REL, body.message, filtered)
        if status == 403 and (metadata.get("reasons") or _MODERATED.search(said)):
            return Fault(ErrorClass.CONTENT, _REL, body.message, error_type or "moderation")
        if status == 403 and _KEY_CAP.search(said):
            # The cap that the user gave this key: as good as no credit.
            return Fault(ErrorClass.QUOTA, _REL, body.message, body.code, "provider")
        if status == 400 and CONTEXT_WORDS.search(said):
            return Fault(ErrorClass.CONTEXT, _REL, body.message, body.code)
        if status == 429:
            return _limited(headers, metadata, body, now)
        busy = self.overloaded(body)
        return by_status(
            _STATUS_OF_TYPE.get(error_type, status), body, headers=headers, now=now, overloaded=busy
        )

    @override
    def overloaded(self, body: ErrorBody) -> bool:
        # No upstream took the request.
        return body.code == "provider_overloaded" or _NO_UPSTREAM.search(body.message[:2000]) is not None


def _unavailable(
    known: tuple[ErrorClass, LedgerAction],
    availability: Mapping[str, Any],
    headers: Mapping[str, str],
    body: ErrorBody,
    now: float,
) -> Fault:
    error_class, ledger = known
    again = availability.get("retryable")
    wait = seconds_of(availability.get("retry_after"))
    wait = header_wait(headers, now) if wait is None else wait
    fault = Fault(
        error_class,
        ledger,
        body.message,
        flat(availability.get("code"), limit=60),
        retryable=again if isinstance(again, bool) else None,
    )
    if wait is None or error_class is not ErrorClass.OVERLOADED:
        return fault
    short = limited(body, headers={}, now=now, wait_s=wait)
    if short.error_class is ErrorClass.QUOTA:
        return replace(fault, retryable=False, reset_at=short.reset_at)
    return replace(fault, wait_s=short.wait_s)


def _limited(headers: Mapping[str, str], metadata: Mapping[str, Any], body: ErrorBody, now: float) -> Fault:
    """Split 429: the platform's free tier by day or by minute, or an upstream that is busy for a moment."""
    reset = epoch_millis(headers.get("x-ratelimit-reset"), now)
    limit_source = text_of(metadata.get("limit_source"))
    if _FREE_DAY.search(f"{body.message} {limit_source}"):
        when = reset if reset is not None else next_midnight("UTC", now)
        return Fault(ErrorClass.QUOTA, _REL, body.message, body.code, "provider_free", reset_at=when)
    wait = header_wait(headers, now)
    if wait is None and reset is not None:
        wait = max(0.0, reset - now)
    upstream = "rate-limited upstream" in body.message or "Provider returned error" in body.message
    free_minute = "free-models-per-min" in body.message
    fault = limited(body, headers={}, now=now, wait_s=wait, per_minute=upstream or free_minute)
    # All free models of a key share the minute: another one of them would be turned away, too.
    return replace(fault, scope="provider_free") if free_minute else fault
