"""What the Gemini API answers: bodies, streams with and without `alt=sse`, errors, headers."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from tta_dev_primitives.deployments.sandbox.chat import Answer, Ask, ErrorKind, Failure, Refusal
from tta_dev_primitives.deployments.sandbox.wire import Reply, Sent, dumps, pieces, token

__all__ = ["GeminiFace"]

_TYPE = "type.googleapis.com/google.rpc."
_ERRORS: dict[ErrorKind, tuple[int, str, str]] = {
    "invalid_request": (400, "INVALID_ARGUMENT", "Request contains an invalid argument."),
    "context_length": (
        400,
        "INVALID_ARGUMENT",
        "The input token count (1200000) exceeds the maximum number of tokens allowed (1048576).",
    ),
    "too_large": (400, "INVALID_ARGUMENT", "Request payload size exceeds the limit: 20971520 bytes."),
    "bad_key": (400, "INVALID_ARGUMENT", "API key not valid. Please pass a valid API key."),
    "forbidden": (403, "PERMISSION_DENIED", "The caller does not have permission"),
    "no_credit": (
        400,
        "FAILED_PRECONDITION",
        "User location is not supported for the API use without a billing account linked.",
    ),
    "model_gone": (
        404,
        "NOT_FOUND",
        "models/{model} is not found for API version {version}, or is not supported for generateContent. "
        "Call ListModels to see the list of available models and their supported methods.",
    ),
    "content_policy": (400, "INVALID_ARGUMENT", "The request was blocked by content policy."),
    "json_failed": (500, "INTERNAL", "An internal error has occurred."),
    "server_error": (500, "INTERNAL", "An internal error has occurred. Please retry or report."),
    "bad_gateway": (502, "UNKNOWN", "Bad Gateway"),
    "timeout": (504, "DEADLINE_EXCEEDED", "Deadline expired before operation could complete."),
    "overloaded": (503, "UNAVAILABLE", "The model is overloaded. Please try again later."),
}
_QUOTAS: dict[str, tuple[str, str]] = {
    "rpm": ("generate_content_free_tier_requests", "GenerateRequestsPerMinutePerProjectPerModel-FreeTier"),
    "rpd": ("generate_content_free_tier_requests", "GenerateRequestsPerDayPerProjectPerModel-FreeTier"),
    "tpm": (
        "generate_content_free_tier_input_token_count",
        "GenerateContentInputTokensPerModelPerMinute-FreeTier",
    ),
    "tpd": (
        "generate_content_free_tier_input_token_count",
        "GenerateContentInputTokensPerModelPerDay-FreeTier",
    ),
}
_KIND_METRIC: dict[str, str] = {
    "rate_limit": "rpm",
    "token_limit": "tpm",
    "daily_limit": "rpd",
    "request_over_limit": "tpm",
}
_FINISH = {
    "stop": "STOP",
    "length": "MAX_TOKENS",
    "content_filter": "SAFETY",
    "refusal": "PROHIBITED_CONTENT",
    "tool": "STOP",
    "error": "OTHER",
}


class GeminiFace:
    """Gemini generateContent (Google AI Studio)."""

    provider = "google-ai-studio"

    def key_of(self, headers: Mapping[str, str]) -> str | None:
        """`x-goog-api-key`. A `?key=` in the address is refused: it would end up in logs."""
        return headers.get("x-goog-api-key") or None

    def missing_key(self) -> Refusal:
        """What a request without a key is told: 403, unlike a wrong key's 400."""
        text = (
            "Method doesn't allow unregistered callers (callers without established identity). Please use "
            "API Key or other form of API consumer identity to call this API."
        )
        return Refusal(Failure("forbidden", text))

    def answer(self, ask: Ask, answer: Answer, sent: Sent) -> Reply:
        """One body; or SSE events; or, without `alt=sse`, a JSON array."""
        if not ask.stream:
            return Reply(body=_body(ask, answer, sent, _parts(ask, answer)), headers=self.headers(sent))
        return self._streamed(_stream_bodies(ask, answer, sent), sent)

    def broken_stream(self, ask: Ask, answer: Answer, sent: Sent) -> Reply:
        """A stream that ends in an error object; a plain 500 when no stream was asked."""
        if not ask.stream:
            return self.error(Failure("server_error"), sent)
        begun = _stream_bodies(ask, answer, sent)[:1]
        return self._streamed([*begun, _error_body(*_ERRORS["overloaded"])], sent)

    def _streamed(self, bodies: list[dict[str, Any]], sent: Sent) -> Reply:
        if not sent.as_array:
            chunks = [b"data: " + dumps(body) + b"\r\n\r\n" for body in bodies]
            return Reply(chunks=chunks, headers={**self.headers(sent), "content-type": "text/event-stream"})
        chunks = [(b"[" if n == 0 else b",\r\n") + dumps(body) for n, body in enumerate(bodies)]
        return Reply(
            chunks=[*chunks, b"]"],
            headers={**self.headers(sent), "content-type": "application/json; charset=UTF-8"},
        )

    def error(self, failure: Failure, sent: Sent) -> Reply:
        """`{"error": {code, message, status, details}}`."""
        if failure.kind in _KIND_METRIC:
            return self._exhausted(failure, sent)
        status, name, text = _ERRORS[failure.kind]
        facts = {"model": "", "version": "v1beta", **failure.facts}
        message = failure.message or text.format(**facts)
        details: list[dict[str, Any]] = []
        if failure.kind == "bad_key":
            info = {"reason": "API_KEY_INVALID", "domain": "googleapis.com"}
            info_metadata = {"metadata": {"service": "generativelanguage.googleapis.com"}}
            details = [{"@type": _TYPE + "ErrorInfo", **info, **info_metadata}]
        elif violation := failure.facts.get("violation"):
            violations = [{"field": failure.param or "", "description": violation}]
            details = [{"@type": _TYPE + "BadRequest", "fieldViolations": violations}]
        return self._error(status, name, message, details, sent)

    def _exhausted(self, failure: Failure, sent: Sent) -> Reply:
        if failure.facts.get("capacity"):
            return self._error(
                429, "RESOURCE_EXHAUSTED", "Resource has been exhausted (e.g. check quota).", [], sent
            )
        metric = failure.facts.get("metric") or _KIND_METRIC[failure.kind]
        quota, quota_id = _QUOTAS[metric]
        limit, model = failure.limit if failure.limit is not None else 5, failure.facts.get("model", "")
        wait = failure.retry_after if isinstance(failure.retry_after, (int, float)) else 26.4
        message = failure.message or (
            "You exceeded your current quota, please check your plan and billing details. For more "
            "information on this error, head over to: https://ai.google.dev/gemini-api/docs/rate-limits.\n"
            f"* Quota exceeded for metric: generativelanguage.googleapis.com/{quota}, limit: {limit}, "
            f"model: {model}\nPlease retry in {wait:.9g}s."
        )
        violation = {
            "quotaMetric": f"generativelanguage.googleapis.com/{quota}",
            "quotaId": quota_id,
            "quotaDimensions": {"location": "global", "model": model},
            "quotaValue": str(limit),
        }
        help_link = {
            "description": "Learn more about Gemini API quotas",
            "url": "https://ai.google.dev/gemini-api/docs/rate-limits",
        }
        shown = int(wait) if wait >= 1 else round(wait, 3)
        details: list[dict[str, Any]] = [
            {"@type": _TYPE + "Help", "links": [help_link]},
            {"@type": _TYPE + "QuotaFailure", "violations": [violation]},
            {"@type": _TYPE + "RetryInfo", "retryDelay": f"{shown:g}s"},
        ]
        return self._error(429, "RESOURCE_EXHAUSTED", message, details, sent)

    def _error(
        self, status: int, name: str, message: str, details: list[dict[str, Any]], sent: Sent
    ) -> Reply:
        body = _error_body(status, name, message)
        if details:
            body["error"]["details"] = details
        return Reply(status, [body] if sent.as_array else body, headers=self.headers(sent))

    def models(self, ids: Sequence[str]) -> dict[str, Any]:
        """`GET /v1beta/models`."""
        return {"models": [self.model(i) for i in ids]}

    def model(self, model: str) -> dict[str, Any]:
        """`GET /v1beta/models/{id}`."""
        return {
            "name": f"models/{model}",
            "version": "001",
            "displayName": f"{model} (sandbox)",
            "description": "A sandbox model.",
            "inputTokenLimit": 1_048_576,
            "outputTokenLimit": 65_536,
            "supportedGenerationMethods": ["generateContent"],
            "thinking": True,
        }

    def headers(self, sent: Sent) -> dict[str, str]:
        """Gemini sends no rate-limit headers."""
        return {"server-timing": "gfet4t7; dur=12", "x-gemini-service-tier": "standard"}


def _error_body(status: int, name: str, message: str) -> dict[str, Any]:
    return {"error": {"code": status, "message": message, "status": name}}


def _parts(ask: Ask, answer: Answer) -> list[dict[str, Any]]:
    parts: list[dict[str, Any]] = []
    if answer.thinking:
        parts.append({"text": answer.thinking, "thought": True})
    if ask.tool and answer.finish == "tool":
        parts.append({"functionCall": {"name": ask.tool, "args": json.loads(answer.text)}})
    elif answer.text:
        parts.append({"text": answer.text})
    return parts


def _body(
    ask: Ask, answer: Answer, sent: Sent, parts: list[dict[str, Any]], *, last: bool = True
) -> dict[str, Any]:
    ids = {"modelVersion": answer.model or ask.model, "responseId": token("gemini", sent.number, length=22)}
    usage = {"usageMetadata": _usage(answer)} if answer.usage_override != "missing" else {}
    if answer.blocked_prompt:
        return {"promptFeedback": {"blockReason": answer.raw_finish or "PROHIBITED_CONTENT"}, **usage, **ids}
    finish = answer.raw_finish or _FINISH[answer.finish]
    candidate: dict[str, Any] = {"content": {"parts": parts, "role": "model"}, "index": 0}
    if not parts:
        candidate["content"] = {} if finish == "SAFETY" else {"role": "model"}
    if last:
        candidate["finishReason"] = finish
    return {"candidates": [candidate], **usage, **ids}


def _usage(answer: Answer) -> dict[str, Any]:
    usage = answer.usage
    prompt = usage.total_input
    visible = usage.output_tokens - usage.thinking_tokens
    shown: dict[str, Any] = {
        "promptTokenCount": prompt,
        "totalTokenCount": prompt + usage.output_tokens,
        "promptTokensDetails": [{"modality": "TEXT", "tokenCount": prompt}],
    }
    if visible:
        shown["candidatesTokenCount"] = visible
    if usage.cache_read_tokens:
        shown["cachedContentTokenCount"] = usage.cache_read_tokens
    if usage.thinking_tokens:
        shown["thoughtsTokenCount"] = usage.thinking_tokens
    if answer.usage_override == "invalid":
        shown |= {"promptTokenCount": -1, "candidatesTokenCount": "many"}
    elif isinstance(answer.usage_override, Mapping):
        shown |= answer.usage_override
    return shown


def _stream_bodies(ask: Ask, answer: Answer, sent: Sent) -> list[dict[str, Any]]:
    if answer.blocked_prompt or (ask.tool and answer.finish == "tool") or not answer.text:
        return [_body(ask, answer, sent, _parts(ask, answer))]
    texts: list[dict[str, Any]] = [{"text": piece} for piece in pieces(answer.text)]
    if answer.thinking:
        texts.insert(0, {"text": answer.thinking, "thought": True})
    return [_body(ask, answer, sent, [part], last=n == len(texts) - 1) for n, part in enumerate(texts)]
