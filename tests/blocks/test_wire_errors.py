"""What each error reply of each provider means: the decision tables as rows.

A row reads: provider, status, what makes it special (headers, body) -> class, what becomes of the hold, how
far it reaches, how long to wait, when it is over. All times are relative to Sunday, 22 November 2026, 10:00
UTC.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import pytest
from wire_samples import NOW, target

from tta_dev_primitives.blocks.wire.formats import wire_format
from tta_dev_primitives.config.errors import ErrorClass as E
from tta_dev_primitives.config.errors import LedgerAction, ProviderError

REL, PRE, SET = LedgerAction.RELEASE, LedgerAction.PRESUME, LedgerAction.SETTLE
DECEMBER = NOW + (8 * 24 + 14) * 3600
"""1 December 2026, 00:00 UTC."""
PACIFIC_MIDNIGHT = NOW + 22 * 3600
"""23 November, 00:00 in Los Angeles (08:00 UTC)."""
UTC_MIDNIGHT = NOW + 14 * 3600


@dataclass
class Row:
    """One error reply and its verdict."""

    name: str
    provider: str
    status: int
    body: Any
    error: E
    ledger: LedgerAction = REL
    scope: str = "model"
    wait: float | None = None
    reset: float | None = None
    retryable: bool | None = None
    headers: dict[str, str] = field(default_factory=dict)


def anthropic(kind: str, message: str = "no", **details: str) -> dict[str, Any]:
    error: dict[str, Any] = {"type": kind, "message": message}
    return {
        "type": "error",
        "error": error | ({"details": details} if details else {}),
        "request_id": "req_1",
    }


def google(code: int, status: str, message: str = "no", *details: Any) -> dict[str, Any]:
    return {"error": {"code": code, "message": message, "status": status, "details": list(details)}}


def violation(quota_id: str, value: str = "10") -> dict[str, Any]:
    entry = {"quotaMetric": "m", "quotaId": quota_id, "quotaValue": value}
    return {"@type": "type.googleapis.com/google.rpc.QuotaFailure", "violations": [entry]}


def retry_info(delay: str) -> dict[str, str]:
    return {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": delay}


def chat(message: str = "no", kind: str = "", code: str | None = None) -> dict[str, Any]:
    return {"error": {"message": message, "type": kind, "code": code}}


def router(code: int, message: str = "no", *, availability: Any = None, **metadata: Any) -> dict[str, Any]:
    error: dict[str, Any] = {"code": code, "message": message}
    if metadata:
        error["metadata"] = metadata
    return {"error": error | ({"availability": availability} if availability else {})}


A, G, Q, R, C = "anthropic", "google-ai-studio", "groq", "openrouter", "openai-compatible"
RPM = "Rate limit reached on requests per minute (RPM): Limit 30, Used 30. Please try again in 2s."
TPM = "Rate limit reached on tokens per minute (TPM): Limit 6000, Requested 900. Please try again in 5.289s."
TPD = "Rate limit reached on tokens per day (TPD): Limit 100000. Please try again in 7m12.5s."
UPSTREAM = "x/y:free is temporarily rate-limited upstream. Please retry shortly."
QUOTA_TEXT = "You exceeded your current quota, please check your plan and billing details."

ENVOY = "upstream connect error or disconnect/reset before headers. reset reason: connection termination"
"""The request may have reached the model: its money stays charged."""
GROQ_BUSY = "openai/gpt-oss-120b is currently over capacity. Please try again and back off exponentially."
OLLAMA_BUSY = "server busy, please try again. maximum pending requests exceeded"

ANTHROPIC = [
    Row(
        "bad request",
        A,
        400,
        anthropic("invalid_request_error", "temperature: not allowed"),
        E.INVALID_REQUEST,
    ),
    Row(
        "too long", A, 400, anthropic("invalid_request_error", "prompt is too long: 9 tokens > 8"), E.CONTEXT
    ),
    Row(
        "too long with its answer",
        A,
        400,
        anthropic("invalid_request_error", "input length and `max_tokens` exceed context limit: 1 + 2 > 3"),
        E.CONTEXT,
    ),
    Row(
        "account closed",
        A,
        400,
        anthropic("invalid_request_error", "This organization has been disabled."),
        E.AUTH,
        scope="provider",
    ),
    Row(
        "own spend cap",
        A,
        400,
        anthropic("invalid_request_error", "You have reached your specified API usage limits."),
        E.QUOTA,
        scope="provider",
        reset=DECEMBER,
    ),
    Row(
        "own spend cap, with its end",
        A,
        400,
        anthropic(
            "invalid_request_error",
            "You have reached your specified API usage limits. You regain access on 2026-11-24 at 06:00 UTC.",
        ),
        E.QUOTA,
        scope="provider",
        reset=NOW + 44 * 3600,
    ),
    Row(
        "no credit",
        A,
        400,
        anthropic("invalid_request_error", "Your credit balance is too low to access the API."),
        E.QUOTA,
        scope="provider",
    ),
    Row(
        "output filtered",
        A,
        400,
        anthropic("invalid_request_error", "Output blocked by content filtering policy"),
        E.CONTENT,
        PRE,
    ),
    Row(
        "wrong key", A, 401, anthropic("authentication_error", "invalid x-api-key"), E.AUTH, scope="provider"
    ),
    Row("billing", A, 402, anthropic("billing_error"), E.QUOTA, scope="provider"),
    Row("no permission", A, 403, anthropic("permission_error"), E.AUTH, scope="provider"),
    Row("retired model", A, 404, anthropic("not_found_error", "model: claude-opus-4-0"), E.MODEL_GONE),
    Row("conflict", A, 409, anthropic("conflict_error"), E.TRANSIENT, PRE),
    Row("too large", A, 413, anthropic("request_too_large"), E.CONTEXT),
    Row(
        "rate limit",
        A,
        429,
        anthropic("rate_limit_error"),
        E.RATE_LIMIT,
        wait=12.0,
        reset=NOW + 12,
        headers={"retry-after": "12"},
    ),
    Row(
        "rate limit, in milliseconds first",
        A,
        429,
        anthropic("rate_limit_error"),
        E.RATE_LIMIT,
        wait=1.5,
        reset=NOW + 1.5,
        headers={"Retry-After": "12", "Retry-After-Ms": "1500"},
    ),
    Row(
        "rate limit of a minute",
        A,
        429,
        anthropic("rate_limit_error"),
        E.QUOTA,
        reset=NOW + 61,
        headers={"retry-after": "61"},
    ),
    Row(
        "rate limit known by its bucket",
        A,
        429,
        anthropic("rate_limit_error"),
        E.RATE_LIMIT,
        wait=20.0,
        reset=NOW + 20,
        headers={
            "anthropic-ratelimit-requests-remaining": "0",
            "anthropic-ratelimit-requests-reset": "2026-11-22T10:00:20Z",
            "anthropic-ratelimit-tokens-remaining": "500",
            "anthropic-ratelimit-tokens-reset": "2026-11-22T10:01:00Z",
        },
    ),
    Row(
        "ramp limit",
        A,
        429,
        anthropic("rate_limit_error", error_code="ramp_limit_exceeded"),
        E.RATE_LIMIT,
        wait=5.0,
        reset=NOW + 5,
        headers={"retry-after": "5"},
    ),
    Row(
        "enforced spend limit",
        A,
        429,
        anthropic("rate_limit_error", error_code="enforced_spend_limit_reached"),
        E.QUOTA,
        scope="provider",
        reset=DECEMBER,
    ),
    Row(
        "contract spend limit",
        A,
        429,
        anthropic("rate_limit_error", error_code="contract_spend_limit_reached"),
        E.QUOTA,
        scope="provider",
        reset=DECEMBER,
    ),
    Row(
        "ramp limit, with no wait and words of a quota",
        A,
        429,
        anthropic("rate_limit_error", "usage increased beyond your quota", error_code="ramp_limit_exceeded"),
        E.RATE_LIMIT,
    ),
    Row(
        "linked organization's spend limit",
        A,
        429,
        anthropic("rate_limit_error", error_code="linked_organization_spend_limit_reached"),
        E.QUOTA,
        scope="provider",
        reset=DECEMBER,
    ),
    Row("timed out", A, 408, anthropic("timeout_error"), E.TRANSIENT, PRE),
    Row("internal", A, 500, anthropic("api_error"), E.TRANSIENT, PRE),
    Row("gateway timeout", A, 504, anthropic("timeout_error"), E.TRANSIENT, PRE),
    Row("overloaded", A, 529, anthropic("overloaded_error"), E.OVERLOADED),
    Row("overloaded, by another status", A, 503, anthropic("overloaded_error"), E.OVERLOADED),
    Row("a gateway in front", A, 503, ENVOY, E.TRANSIENT, PRE),
    Row("an edge in front", A, 529, "<html>529</html>", E.TRANSIENT, PRE),
    Row(
        "told not to retry",
        A,
        529,
        anthropic("overloaded_error"),
        E.OVERLOADED,
        retryable=False,
        headers={"x-should-retry": "false"},
    ),
    Row(
        "told to retry",
        A,
        400,
        anthropic("invalid_request_error"),
        E.TRANSIENT,
        retryable=True,
        headers={"x-should-retry": "true"},
    ),
    Row("overloaded within a 200", A, 200, anthropic("overloaded_error"), E.OVERLOADED, PRE),
]

GOOGLE = [
    Row("bad request", G, 400, google(400, "INVALID_ARGUMENT", "Invalid JSON payload"), E.INVALID_REQUEST),
    Row(
        "wrong key is a 400",
        G,
        400,
        google(400, "INVALID_ARGUMENT", "API key not valid.", {"reason": "API_KEY_INVALID"}),
        E.AUTH,
        scope="provider",
    ),
    Row(
        "key expired",
        G,
        400,
        google(400, "INVALID_ARGUMENT", "API key expired. Please renew the API key."),
        E.AUTH,
        scope="provider",
    ),
    Row(
        "country without free tier",
        G,
        400,
        google(400, "FAILED_PRECONDITION", "User location is not supported"),
        E.AUTH,
        scope="provider",
    ),
    Row(
        "too long",
        G,
        400,
        google(
            400,
            "INVALID_ARGUMENT",
            "The input token count (9) exceeds the maximum number of tokens allowed (8).",
        ),
        E.CONTEXT,
    ),
    Row("not authenticated", G, 401, google(401, "UNAUTHENTICATED"), E.AUTH, scope="provider"),
    Row("no permission", G, 403, google(403, "PERMISSION_DENIED"), E.AUTH, scope="provider"),
    Row("model gone", G, 404, google(404, "NOT_FOUND", "models/x is not found"), E.MODEL_GONE),
    Row(
        "model closed to new users",
        G,
        404,
        google(404, "NOT_FOUND", "This model is no longer available to new users."),
        E.MODEL_GONE,
    ),
    Row(
        "per minute",
        G,
        429,
        google(
            429,
            "RESOURCE_EXHAUSTED",
            QUOTA_TEXT + "\nPlease retry in 25.4s.",
            violation("GenerateRequestsPerMinutePerProjectPerModel-FreeTier"),
            retry_info("25s"),
        ),
        E.RATE_LIMIT,
        wait=26.4,
        reset=NOW + 26.4,
    ),
    Row(
        "per minute, nearly a minute",
        G,
        429,
        google(
            429,
            "RESOURCE_EXHAUSTED",
            QUOTA_TEXT,
            violation("GenerateContentInputTokensPerModelPerMinute-FreeTier"),
            retry_info("58s"),
        ),
        E.QUOTA,
        reset=NOW + 59,
    ),
    Row(
        "per minute, without a delay",
        G,
        429,
        google(
            429, "RESOURCE_EXHAUSTED", QUOTA_TEXT, violation("GenerateRequestsPerMinutePerProjectPerModel")
        ),
        E.RATE_LIMIT,
    ),
    Row(
        "per day, in spite of a short delay",
        G,
        429,
        google(
            429,
            "RESOURCE_EXHAUSTED",
            QUOTA_TEXT + " Please retry in 26.2s.",
            violation("GenerateRequestsPerDayPerProjectPerModel-FreeTier"),
            retry_info("26s"),
        ),
        E.QUOTA,
        reset=PACIFIC_MIDNIGHT,
    ),
    Row(
        "model not in this plan",
        G,
        429,
        google(
            429,
            "RESOURCE_EXHAUSTED",
            QUOTA_TEXT,
            violation("GenerateRequestsPerMinutePerProjectPerModel-FreeTier", "0"),
            retry_info("3s"),
        ),
        E.QUOTA,
        reset=PACIFIC_MIDNIGHT,
    ),
    Row(
        "capacity",
        G,
        429,
        google(429, "RESOURCE_EXHAUSTED", "Resource has been exhausted (e.g. check quota)."),
        E.OVERLOADED,
    ),
    Row(
        "in a list",
        G,
        429,
        [google(429, "RESOURCE_EXHAUSTED", "Too fast, try again in 3s")],
        E.RATE_LIMIT,
        wait=4.0,
        reset=NOW + 4,
    ),
    Row("cancelled", G, 499, google(499, "CANCELLED"), E.TRANSIENT, PRE),
    Row("internal", G, 500, google(500, "INTERNAL"), E.TRANSIENT, PRE),
    Row("overloaded", G, 503, google(503, "UNAVAILABLE", "The model is overloaded."), E.OVERLOADED),
    Row("deadline", G, 504, google(504, "DEADLINE_EXCEEDED"), E.TRANSIENT, PRE),
    Row("overloaded within a 200", G, 200, [google(503, "UNAVAILABLE", "Overloaded.")], E.OVERLOADED, PRE),
    Row("unavailable, no words", G, 503, google(503, "UNAVAILABLE"), E.TRANSIENT, PRE),
    Row("a gateway in front", G, 503, ENVOY, E.TRANSIENT, PRE),
]

GROQ = [
    Row("bad request", Q, 400, chat("n must be 1", "invalid_request_error"), E.INVALID_REQUEST),
    Row(
        "decommissioned", Q, 400, chat("gone", "invalid_request_error", "model_decommissioned"), E.MODEL_GONE
    ),
    Row(
        "JSON failed", Q, 400, chat("bad", "invalid_request_error", "json_validate_failed"), E.MODEL_SLIP, PRE
    ),
    Row("tool failed", Q, 400, chat("bad", "invalid_request_error", "tool_use_failed"), E.MODEL_SLIP, PRE),
    Row("too long", Q, 400, chat("Please reduce the length of the messages"), E.CONTEXT),
    Row(
        "wrong key", Q, 401, chat("bad", "invalid_request_error", "invalid_api_key"), E.AUTH, scope="provider"
    ),
    Row("forbidden", Q, 403, chat(), E.AUTH, scope="provider"),
    Row("gone", Q, 404, chat("gone", "invalid_request_error", "model_not_found"), E.MODEL_GONE),
    Row(
        "one request above the minute's tokens",
        Q,
        413,
        chat("Request too large: Limit 8000, Requested 32100", "tokens", "rate_limit_exceeded"),
        E.CONTEXT,
    ),
    Row("invalid", Q, 422, chat(), E.INVALID_REQUEST),
    Row("failed dependency", Q, 424, chat(), E.INVALID_REQUEST),
    Row(
        "requests per minute",
        Q,
        429,
        chat(RPM, "requests", "rate_limit_exceeded"),
        E.RATE_LIMIT,
        wait=2.0,
        reset=NOW + 2,
        headers={"retry-after": "2"},
    ),
    Row(
        "tokens per minute, said in words",
        Q,
        429,
        chat(TPM, "tokens"),
        E.RATE_LIMIT,
        wait=5.289,
        reset=NOW + 5.289,
    ),
    Row(
        "tokens per day",
        Q,
        429,
        chat(TPD, "tokens", "rate_limit_exceeded"),
        E.QUOTA,
        reset=NOW + 433,
        headers={"retry-after": "433"},
    ),
    Row("tokens per day, said in words", Q, 429, chat(TPD, "tokens"), E.QUOTA, reset=NOW + 432.5),
    Row(
        "requests per day, known by its header",
        Q,
        429,
        chat("Rate limit reached on requests per day (RPD): Limit 1000", "requests"),
        E.QUOTA,
        reset=NOW + 179.56,
        headers={"x-ratelimit-reset-requests": "2m59.56s"},
    ),
    Row("cancelled", Q, 499, chat(), E.TRANSIENT, PRE),
    Row("flex capacity", Q, 498, chat("busy", "", "capacity_exceeded"), E.OVERLOADED),
    Row("internal", Q, 500, chat(), E.TRANSIENT, PRE),
    Row("bad gateway in HTML", Q, 502, "<html><h1>502 Bad Gateway</h1></html>", E.TRANSIENT, PRE),
    Row("overloaded", Q, 503, chat(GROQ_BUSY, "internal_server_error"), E.OVERLOADED),
    Row("unavailable, no words", Q, 503, chat(), E.TRANSIENT, PRE),
]

OPENROUTER = [
    Row("bad request", R, 400, router(400, error_type="invalid_request"), E.INVALID_REQUEST),
    Row("context", R, 400, router(400, error_type="context_length_exceeded"), E.CONTEXT),
    Row(
        "the key's own cap",
        R,
        403,
        router(403, "Key limit exceeded (total limit). Manage it at openrouter.ai/settings/keys"),
        E.QUOTA,
        scope="provider",
    ),
    Row(
        "context in words",
        R,
        400,
        router(400, "This endpoint's maximum context length is 9 tokens."),
        E.CONTEXT,
    ),
    Row("refusal", R, 400, router(400, error_type="refusal"), E.CONTENT),
    Row("policy", R, 400, router(400, error_type="content_policy_violation"), E.CONTENT),
    Row("unknown id", R, 400, router(400, "x/y is not a valid model ID"), E.MODEL_GONE),
    Row("unknown id, by code", R, 400, router(400, availability={"code": "model_not_found"}), E.MODEL_GONE),
    Row("wrong key", R, 401, router(401, error_type="authentication"), E.AUTH, scope="provider"),
    Row("no credits", R, 402, router(402, error_type="payment_required"), E.QUOTA, scope="provider"),
    Row(
        "credits held by calls in flight",
        R,
        402,
        router(402),
        E.RATE_LIMIT,
        wait=3.0,
        reset=NOW + 3,
        headers={"retry-after": "3"},
    ),
    Row("moderated", R, 403, router(403, "flagged", reasons=["violence"]), E.CONTENT),
    Row("forbidden", R, 403, router(403, error_type="permission_denied"), E.AUTH, scope="provider"),
    Row("region", R, 403, router(403, availability={"code": "region_restricted"}), E.MODEL_GONE),
    Row(
        "no endpoints", R, 404, router(404, "No endpoints found for deepseek/deepseek-r1:free."), E.MODEL_GONE
    ),
    Row(
        "filtered in words",
        R,
        404,
        router(404, "No endpoints found that can handle the requested parameters."),
        E.MODEL_GONE,
    ),
    Row(
        "free variant ended",
        R,
        404,
        router(404, availability={"code": "free_variant_ended", "fallback_models": ["deepseek/deepseek-r1"]}),
        E.MODEL_GONE,
    ),
    *(
        Row(code, R, 404, router(404, availability={"code": code}), E.MODEL_GONE)
        for code in (
            "no_endpoints",
            "model_deprecated",
            "model_unavailable_upstream",
            "privacy_restricted",
            "constraint_filtered",
        )
    ),
    Row("unprocessable", R, 422, router(422, error_type="unprocessable"), E.INVALID_REQUEST),
    Row("no answer in time", R, 504, router(504, error_type="timeout"), E.TRANSIENT, PRE),
    Row("timed out", R, 408, router(408), E.TRANSIENT, PRE),
    Row("too large", R, 413, router(413), E.CONTEXT),
    Row(
        "free tier per minute",
        R,
        429,
        router(
            429,
            "Rate limit exceeded: free-models-per-min.",
            headers={
                "X-RateLimit-Limit": "20",
                "X-RateLimit-Remaining": "0",
                "X-RateLimit-Reset": str(int((NOW + 9) * 1000)),
            },
        ),
        E.RATE_LIMIT,
        scope="provider_free",
        wait=9.0,
        reset=NOW + 9,
    ),
    Row(
        "free tier per day, with a high balance",
        R,
        429,
        router(429, "Rate limit exceeded: free-models-per-day-high-balance."),
        E.QUOTA,
        scope="provider_free",
        reset=UTC_MIDNIGHT,
    ),
    Row(
        "free tier per day",
        R,
        429,
        router(
            429,
            "Rate limit exceeded: free-models-per-day. Add 10 credits to unlock 1000 a day",
            headers={"X-RateLimit-Reset": str(int(UTC_MIDNIGHT * 1000))},
        ),
        E.QUOTA,
        scope="provider_free",
        reset=UTC_MIDNIGHT,
    ),
    Row(
        "free tier per day, by its source",
        R,
        429,
        router(429, "Rate limit exceeded", limit_source="openrouter_free_tier_daily"),
        E.QUOTA,
        scope="provider_free",
        reset=UTC_MIDNIGHT,
    ),
    Row("upstream is busy", R, 429, router(429, "Provider returned error", raw=UPSTREAM), E.RATE_LIMIT),
    Row(
        "capacity",
        R,
        429,
        router(429, availability={"code": "capacity_exhausted", "retryable": True, "retry_after": 4}),
        E.OVERLOADED,
        wait=4.0,
        retryable=True,
    ),
    Row("internal", R, 500, router(500, error_type="server"), E.TRANSIENT, PRE),
    Row("upstream down", R, 502, router(502, error_type="provider_unavailable"), E.TRANSIENT, PRE),
    Row(
        "unavailable for an hour",
        R,
        503,
        router(503, availability={"code": "temporarily_unavailable", "retryable": True, "retry_after": 3600}),
        E.OVERLOADED,
        retryable=False,
        reset=NOW + 3600,
    ),
    Row("edge timeout", R, 524, router(524), E.TRANSIENT, PRE),
    Row("overloaded", R, 503, router(503, error_type="provider_overloaded"), E.OVERLOADED),
    Row("overloaded, by the status only", R, 529, router(529, "Provider returned error"), E.TRANSIENT, PRE),
    Row("upstream down within a 200", R, 200, router(502, "Upstream error"), E.TRANSIENT, PRE),
    Row(
        "error inside the choice, with usage",
        R,
        200,
        {
            "choices": [{"error": {"code": 503, "message": "busy"}, "message": {"content": "ab"}}],
            "usage": {"prompt_tokens": 7, "completion_tokens": 1, "cost": 0},
        },
        E.TRANSIENT,
        SET,
    ),
    Row(
        "finish_reason error",
        R,
        200,
        {"choices": [{"finish_reason": "error", "message": {"content": "ab"}}]},
        E.TRANSIENT,
        PRE,
    ),
]

COMPATIBLE = [
    Row("error is text", C, 404, {"error": "model 'x' not found, try pulling it first"}, E.MODEL_GONE),
    Row("detail", C, 422, {"detail": [{"msg": "field required"}]}, E.INVALID_REQUEST),
    Row(
        "llama.cpp's window",
        C,
        400,
        chat(
            "the request exceeds the available context size, try increasing it", "exceed_context_size_error"
        ),
        E.CONTEXT,
    ),
    Row("flat object", C, 400, {"object": "error", "message": "maximum context length is 9"}, E.CONTEXT),
    Row(
        "no quota",
        C,
        429,
        chat("check billing", "insufficient_quota", "insufficient_quota"),
        E.QUOTA,
        scope="provider",
    ),
    Row("bare 429", C, 429, "", E.RATE_LIMIT),
    Row("quota words", C, 429, chat("daily limit reached"), E.QUOTA),
    Row(
        "date",
        C,
        429,
        "",
        E.RATE_LIMIT,
        wait=10.0,
        reset=NOW + 10,
        headers={"retry-after": "Sun, 22 Nov 2026 10:00:10 GMT"},
    ),
    Row(
        "date, by the server's clock",
        C,
        429,
        "",
        E.RATE_LIMIT,
        wait=10.0,
        reset=NOW + 10,
        headers={"retry-after": "Sun, 22 Nov 2026 14:00:10 GMT", "date": "Sun, 22 Nov 2026 14:00:00 GMT"},
    ),
    Row(
        "date that is past",
        C,
        429,
        "",
        E.RATE_LIMIT,
        wait=0.0,
        reset=NOW,
        headers={"retry-after": "Sun, 22 Nov 2026 09:00:00 GMT"},
    ),
    Row("fraction", C, 429, "", E.RATE_LIMIT, wait=0.25, reset=NOW + 0.25, headers={"retry-after": "0.25"}),
    Row(
        "exactly the cap", C, 429, "", E.RATE_LIMIT, wait=30.0, reset=NOW + 30, headers={"retry-after": "30"}
    ),
    Row("just above the cap", C, 429, "", E.QUOTA, reset=NOW + 30.5, headers={"retry-after": "30.5"}),
    Row("thirty years", C, 429, "", E.QUOTA, headers={"retry-after": "1e9"}),
    Row("negative", C, 429, "", E.QUOTA, headers={"retry-after": "-1"}),
    Row("not a number", C, 429, "", E.QUOTA, headers={"retry-after": "nan"}),
    Row("gibberish", C, 429, "", E.RATE_LIMIT, headers={"retry-after": "soon"}),
    Row("redirect", C, 302, "", E.REDIRECT, headers={"location": "https://evil.example/"}),
    Row("permanent redirect", C, 308, "", E.REDIRECT),
    Row("teapot", C, 418, "", E.INVALID_REQUEST),
    Row("unknown server error", C, 599, "", E.TRANSIENT, PRE),
    Row("busy, with a wait", C, 503, "", E.TRANSIENT, PRE, wait=7.0, headers={"retry-after": "7"}),
    Row("a gateway in front", C, 503, ENVOY, E.TRANSIENT, PRE),
    Row("Ollama is busy", C, 503, {"error": OLLAMA_BUSY}, E.OVERLOADED),
    Row("OpenAI is busy", C, 503, chat("The engine is currently overloaded.", "server_error"), E.OVERLOADED),
    Row("HTML with 200", C, 200, "<!doctype html><title>Sign in</title>", E.MALFORMED, PRE),
    Row("nothing with 200", C, 200, "", E.MALFORMED, PRE),
    Row("cut JSON with 200", C, 200, '{"choices":[{"message":{"content":"4', E.MALFORMED, PRE),
    Row("no choices with 200", C, 200, {"choices": []}, E.MALFORMED, PRE),
    Row("a number with 200", C, 200, "42", E.MALFORMED, PRE),
    Row("deep nesting with 200", C, 200, "[" * 100_000, E.MALFORMED, PRE),
    Row("5,000 digits with 200", C, 200, "9" * 5000, E.MALFORMED, PRE),
]

ROWS = [*ANTHROPIC, *GOOGLE, *GROQ, *OPENROUTER, *COMPATIBLE]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.provider} {row.status} {row.name}")
def test_an_error_reply_is_judged_as_its_row_says(row: Row) -> None:
    """Class, ledger action, reach, wait, end and the provider's own word on retrying, all at once."""
    body = row.body if isinstance(row.body, str) else json.dumps(row.body)
    with pytest.raises(ProviderError) as caught:
        wire_format(row.provider).parse(target(row.provider), row.status, row.headers, body.encode(), now=NOW)
    error = caught.value
    got = (
        error.error_class,
        error.ledger_action,
        error.scope,
        error.wait_s,
        error.retry_after_s,
        error.retryable,
    )
    assert got == (row.error, row.ledger, row.scope, row.wait, row.wait, row.retryable)
    assert error.reset_at == (None if row.reset is None else pytest.approx(row.reset))
    assert error.status == row.status
    assert len(str(error)) <= 500


def test_there_are_at_least_sixty_rows() -> None:
    """The decision tables are covered widely, each provider by itself."""
    assert len(ROWS) >= 60
    assert all(len(part) >= 15 for part in (ANTHROPIC, GOOGLE, GROQ, OPENROUTER, COMPATIBLE))


@pytest.mark.parametrize(
    ("said", "code"),
    [
        ("No endpoints found matching your data policy (Free model publication).", "privacy_restricted"),
        ("No endpoints found that can handle the requested parameters.", "constraint_filtered"),
        ("No endpoints found for x/y.", "404"),
    ],
)
def test_what_older_replies_of_openrouter_say_in_words_has_its_code(said: str, code: str) -> None:
    """The user can mend a data policy, another request asks for less: that is not gone for a day."""
    with pytest.raises(ProviderError) as caught:
        wire_format(R).parse(target(R), 404, {}, json.dumps(router(404, said)).encode(), now=NOW)
    assert (caught.value.error_class, caught.value.code) == (E.MODEL_GONE, code)


def test_a_wait_on_a_good_reply_is_ignored() -> None:
    """Anthropic sends retry-after with many good replies; it means nothing there."""
    body = {"type": "message", "content": [{"type": "text", "text": "42"}], "stop_reason": "end_turn"}
    reply = wire_format(A).parse(target(A), 200, {"retry-after": "61"}, json.dumps(body).encode())
    assert reply.text == "42"


def test_an_error_holds_what_a_person_needs() -> None:
    """Provider, model, request id and the provider's words, on one line; it survives pickling."""
    import pickle

    body = json.dumps(anthropic("not_found_error", "model:\n  claude-opus-4-0")).encode()
    with pytest.raises(ProviderError) as caught:
        wire_format(A).parse(target(A), 404, {"request-id": "req_9"}, body, now=NOW)
    error: ProviderError = pickle.loads(pickle.dumps(caught.value))
    assert str(error) == (
        "anthropic model the-model: model_gone (HTTP 404 not_found_error): model: claude-opus-4-0. "
        "Check the model 'the-model', or name another one"
    )
    assert (error.provider, error.model, error.request_id, error.code) == (
        A,
        "the-model",
        "req_9",
        "not_found_error",
    )


def test_a_key_that_a_provider_echoes_is_not_passed_on() -> None:
    """Some providers quote the rejected key in their message."""
    body = json.dumps(
        chat("Incorrect API key provided: sk-proj-abcdefghijklmnop1234. See our site.")
    ).encode()
    with pytest.raises(ProviderError) as caught:
        wire_format(C).parse(target(C), 401, {}, body)
    assert "abcdefgh" not in str(caught.value)
    assert "[redacted]" in str(caught.value)


@pytest.mark.parametrize("message", ["Please pass a valid API key.", "Please pass a valid API key"])
def test_a_message_has_one_full_stop_before_its_mend(message: str) -> None:
    """The provider's sentence and ours are joined by one full stop, however the provider ends its own."""
    body = json.dumps(google(400, "INVALID_ARGUMENT", message, {"reason": "API_KEY_INVALID"})).encode()
    with pytest.raises(ProviderError) as caught:
        wire_format(G).parse(target(G), 400, {}, body, now=NOW)
    assert "Please pass a valid API key. Check the key in" in str(caught.value)
