"""Error bodies of Groq, OpenRouter and OpenAI-compatible servers."""

from __future__ import annotations

import math
from typing import Any

from tta_dev_primitives.deployments.sandbox.chat import ErrorKind, Failure
from tta_dev_primitives.deployments.sandbox.wire import Reply

__all__ = ["groq_error", "openai_error", "openrouter_error"]

_METRIC: dict[str, str] = {
    "rate_limit": "rpm",
    "token_limit": "tpm",
    "daily_limit": "rpd",
    "request_over_limit": "tpm",
}
_GROQ_METRIC = {
    "rpm": ("requests per minute (RPM)", "requests"),
    "rpd": ("requests per day (RPD)", "requests"),
    "tpm": ("tokens per minute (TPM)", "tokens"),
    "tpd": ("tokens per day (TPD)", "tokens"),
}
_GROQ: dict[ErrorKind, tuple[int, str, str | None, str]] = {
    "invalid_request": (400, "invalid_request_error", None, "invalid request"),
    "context_length": (
        400,
        "invalid_request_error",
        "context_length_exceeded",
        "Please reduce the length of the messages or completion.",
    ),
    "too_large": (413, "invalid_request_error", "request_too_large", "Request Entity Too Large"),
    "bad_key": (401, "invalid_request_error", "invalid_api_key", "Invalid API Key"),
    "forbidden": (
        403,
        "permissions_error",
        "model_permission_blocked_org",
        "The model `{model}` is blocked at the organization level.",
    ),
    "no_credit": (402, "invalid_request_error", "billing_required", "Billing is required for this request."),
    "model_gone": (
        404,
        "invalid_request_error",
        "model_not_found",
        "The model `{model}` does not exist or you do not have access to it.",
    ),
    "content_policy": (
        400,
        "invalid_request_error",
        "content_policy_violation",
        "Blocked by content policy.",
    ),
    "json_failed": (
        400,
        "invalid_request_error",
        "json_validate_failed",
        "Failed to generate JSON. Please adjust your prompt. See 'failed_generation' for more details.",
    ),
    "server_error": (500, "internal_server_error", "internal_server_error", "Internal Server Error"),
    "bad_gateway": (502, "internal_server_error", "bad_gateway", "Bad Gateway"),
    "timeout": (504, "internal_server_error", "timeout", "Gateway Timeout"),
    "overloaded": (
        503,
        "internal_server_error",
        "service_unavailable",
        "{model} is currently over capacity. Please try again and back off exponentially.",
    ),
}


def _seconds(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:g}"


def groq_error(failure: Failure, headers: dict[str, str]) -> Reply:
    """Groq's `{"error": {message, type, code, failed_generation?}}`."""
    model = failure.facts.get("model", "")
    if failure.kind in _METRIC:
        return _groq_limit(failure, headers, model)
    status, kind, code, text = _GROQ[failure.kind]
    error: dict[str, Any] = {"message": failure.message or text.format(model=model), "type": kind}
    if code:
        error["code"] = code
    if failure.kind == "json_failed":
        error["failed_generation"] = failure.facts.get("failed_generation", '{"answer": ')
    if failure.retry_after is not None:
        headers["retry-after"] = _seconds(failure.retry_after)
    return Reply(status, {"error": error}, headers=headers)


def _groq_limit(failure: Failure, headers: dict[str, str], model: str) -> Reply:
    metric = failure.facts.get("metric") or _METRIC[failure.kind]
    words, kind = _GROQ_METRIC[metric]
    limit = failure.limit if failure.limit is not None else 30
    used = failure.used if failure.used is not None else limit
    requested = failure.requested if failure.requested is not None else 1
    where = f"model `{model}` in organization `org_sandbox` service tier `on_demand` on {words}"
    if failure.kind == "request_over_limit":
        text = (
            f"Request too large for {where}: Limit {limit}, Requested {requested}, please reduce your "
            "message size and try again."
        )
        return _groq_reply(413, failure.message or text, "tokens", headers)
    wait = failure.retry_after
    if wait is None:
        wait = 3600.0 if failure.kind == "daily_limit" else 2.5
    shown = f"{wait:.9g}s" if isinstance(wait, (int, float)) else wait
    text = (
        f"Rate limit reached for {where}: Limit {limit}, Used {used}, Requested {requested}. Please try "
        f"again in {shown}."
    )
    # Groq's header holds whole seconds; a scenario that asks for less than one gets the fraction.
    headers["retry-after"] = (
        wait if isinstance(wait, str) else str(math.ceil(wait)) if wait >= 1 else f"{wait:g}"
    )
    return _groq_reply(429, failure.message or text, kind, headers)


def _groq_reply(status: int, message: str, kind: str, headers: dict[str, str]) -> Reply:
    error = {"message": message, "type": kind, "code": "rate_limit_exceeded"}
    return Reply(status, {"error": error}, headers=headers)


_OPENROUTER: dict[ErrorKind, tuple[int, str, str]] = {
    "invalid_request": (400, "invalid_request", "Bad request"),
    "context_length": (
        400,
        "context_length_exceeded",
        "This endpoint's maximum context length is 131072 tokens. However, you requested about 250000 "
        "tokens.",
    ),
    "too_large": (413, "payload_too_large", "Payload too large"),
    "bad_key": (401, "authentication", "User not found."),
    "forbidden": (403, "permission_denied", "Key limit exceeded (guardrail)."),
    "no_credit": (
        402,
        "payment_required",
        "Insufficient credits. Add more using https://openrouter.ai/settings/credits",
    ),
    "model_gone": (404, "not_found", "No endpoints found for {model}."),
    "rate_limit": (429, "rate_limit_exceeded", "Rate limit exceeded: free-models-per-min. "),
    "token_limit": (429, "rate_limit_exceeded", "Rate limit exceeded: tokens-per-min. "),
    "daily_limit": (
        429,
        "rate_limit_exceeded",
        "Rate limit exceeded: free-models-per-day. Add 10 credits to unlock 1000 free model requests per day",
    ),
    "request_over_limit": (413, "payload_too_large", "Request is too large for this endpoint."),
    "content_policy": (
        403,
        "content_policy_violation",
        "Your chosen model requires moderation and your input was flagged",
    ),
    "json_failed": (502, "provider_unavailable", "Provider returned error"),
    "server_error": (500, "server", "Internal Server Error"),
    "bad_gateway": (502, "provider_unavailable", "Provider returned error"),
    "timeout": (504, "timeout", "Gateway timeout"),
    "overloaded": (503, "provider_overloaded", "Provider is temporarily overloaded"),
}


def openrouter_error(failure: Failure, headers: dict[str, str], at: float) -> Reply:
    """OpenRouter's `{"error": {code, message, metadata}, "user_id"}`."""
    status, kind, text = _OPENROUTER[failure.kind]
    model = failure.facts.get("model", "")
    message = failure.message or text.format(model=model)
    error: dict[str, Any] = {"message": message, "code": status}
    metadata: dict[str, Any] = {"error_type": kind}
    if failure.kind == "model_gone":
        if failure.facts.get("never_existed"):
            status = error["code"] = 400
            error["message"] = failure.message or f"{model} is not a valid model ID"
        else:
            ended = "free_variant_ended" if model.endswith(":free") else "no_endpoints"
            paid = [model.removesuffix(":free")] if model.endswith(":free") else []
            error["availability"] = {"code": ended, "retryable": False, "fallback_models": paid}
    if failure.facts.get("upstream"):
        error["message"] = "Provider returned error"
        metadata |= {"provider_name": "Sandbox", "raw": f"{model} is temporarily rate-limited upstream."}
    elif failure.kind in ("rate_limit", "daily_limit", "token_limit"):
        limits = _openrouter_limits(failure, at)
        headers |= limits
        metadata |= {"headers": limits, "provider_name": None}
    if failure.retry_after is not None:
        headers["retry-after"] = _seconds(failure.retry_after)
    error["metadata"] = metadata
    return Reply(status, {"error": error, "user_id": "user_sandbox"}, headers=headers)


def _openrouter_limits(failure: Failure, at: float) -> dict[str, str]:
    wait = failure.retry_after
    if not isinstance(wait, (int, float)):
        wait = 86_400.0 if failure.kind == "daily_limit" else 60.0
    return {
        "X-RateLimit-Limit": str(failure.limit if failure.limit is not None else 20),
        "X-RateLimit-Remaining": "0",
        "X-RateLimit-Reset": str(round((at + wait) * 1000)),
    }


_OPENAI: dict[ErrorKind, tuple[int, str, str | None, str]] = {
    "invalid_request": (400, "invalid_request_error", None, "Invalid request."),
    "context_length": (
        400,
        "invalid_request_error",
        "context_length_exceeded",
        "This model's maximum context length is 131072 tokens.",
    ),
    "too_large": (413, "invalid_request_error", None, "Request too large."),
    "bad_key": (401, "invalid_request_error", "invalid_api_key", "Incorrect API key provided."),
    "forbidden": (403, "invalid_request_error", "unsupported_country_region_territory", "Not allowed."),
    "no_credit": (
        429,
        "insufficient_quota",
        "insufficient_quota",
        "You exceeded your current quota, please check your plan and billing details.",
    ),
    "model_gone": (404, "invalid_request_error", "model_not_found", "The model `{model}` does not exist."),
    "rate_limit": (
        429,
        "requests",
        "rate_limit_exceeded",
        "Rate limit reached for {model} on requests per min.",
    ),
    "token_limit": (
        429,
        "tokens",
        "rate_limit_exceeded",
        "Rate limit reached for {model} on tokens per min.",
    ),
    "daily_limit": (
        429,
        "requests",
        "rate_limit_exceeded",
        "Rate limit reached for {model} on requests per day.",
    ),
    "request_over_limit": (429, "tokens", "rate_limit_exceeded", "Request too large for {model}."),
    "content_policy": (
        400,
        "invalid_request_error",
        "content_policy_violation",
        "Rejected by the safety system.",
    ),
    "json_failed": (500, "server_error", None, "The model failed to produce JSON."),
    "server_error": (500, "server_error", None, "The server had an error while processing your request."),
    "bad_gateway": (502, "server_error", None, "Bad gateway."),
    "timeout": (504, "server_error", None, "Gateway timeout."),
    "overloaded": (
        503,
        "server_error",
        "overloaded",
        "The engine is currently overloaded, please try again later.",
    ),
}


def openai_error(failure: Failure, headers: dict[str, str]) -> Reply:
    """OpenAI's `{"error": {message, type, param, code}}`."""
    status, kind, code, text = _OPENAI[failure.kind]
    error = {
        "message": failure.message or text.format(model=failure.facts.get("model", "")),
        "type": kind,
        "param": failure.param,
        "code": failure.facts.get("code", code),
    }
    if failure.retry_after is not None:
        headers["retry-after"] = _seconds(failure.retry_after)
    return Reply(status, {"error": error}, headers=headers)
