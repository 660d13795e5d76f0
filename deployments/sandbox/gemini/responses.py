"""Responses of the Gemini API: bodies, streams, errors, headers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tta_dev_primitives.deployments.sandbox.chat import Answer, Ask, Failure
from tta_dev_primitives.deployments.sandbox.http_reply import (
    METRIC,
    ErrorForm,
    ProviderResponses,
    Reply,
    Sent,
    dumps,
    error_form,
    overridden,
    pieces,
    token,
)

_TYPE = "type.googleapis.com/google.rpc."
_REQUESTS, _TOKENS = (f"generate_content_free_tier_{what}" for what in ("requests", "input_token_count"))
_QUOTAS = {
    "rpm": (_REQUESTS, "GenerateRequestsPerMinutePerProjectPerModel-FreeTier"),
    "rpd": (_REQUESTS, "GenerateRequestsPerDayPerProjectPerModel-FreeTier"),
    "tpm": (_TOKENS, "GenerateContentInputTokensPerModelPerMinute-FreeTier"),
    "tpd": (_TOKENS, "GenerateContentInputTokensPerModelPerDay-FreeTier"),
}
_FINISH = {
    "stop": "STOP", "length": "MAX_TOKENS", "content_filter": "SAFETY", "refusal": "PROHIBITED_CONTENT",
    "tool": "STOP",
}  # fmt: skip


class GeminiResponses(ProviderResponses):
    """Gemini generateContent (Google AI Studio)."""

    provider = "google-ai-studio"
    key_header = "x-goog-api-key"
    no_key = Failure(
        "forbidden",
        "Method doesn't allow unregistered callers (callers without established identity). Please use "
        "API Key or other form of API consumer identity to call this API.",
    )

    def answer(self, ask: Ask, answer: Answer, sent: Sent) -> Reply:
        """One body, or its event stream."""
        if not ask.stream:
            return Reply(body=_body(ask, answer, sent, _parts(answer)))
        return Reply(chunks=[b"data: " + dumps(b) + b"\r\n\r\n" for b in _stream_bodies(ask, answer, sent)])

    def error(self, failure: Failure, sent: Sent) -> Reply:
        """`{"error": {code, message, status, details}}`."""
        if failure.kind in METRIC:
            return self._exhausted(failure)
        form = error_form(self.provider, failure)
        details: list[dict[str, Any]] = []
        if failure.kind == "bad_key":
            info = {"reason": "API_KEY_INVALID", "domain": "googleapis.com"}
            info_metadata = {"metadata": {"service": "generativelanguage.googleapis.com"}}
            details = [{"@type": _TYPE + "ErrorInfo", **info, **info_metadata}]
        elif violation := failure.facts.get("violation"):
            violations = [{"field": failure.param or "", "description": violation}]
            details = [{"@type": _TYPE + "BadRequest", "fieldViolations": violations}]
        return _error(form, details)

    def _exhausted(self, failure: Failure) -> Reply:
        metric = failure.facts.get("metric") or METRIC[failure.kind]
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
            "quotaMetric": f"generativelanguage.googleapis.com/{quota}", "quotaId": quota_id,
            "quotaDimensions": {"location": "global", "model": model}, "quotaValue": str(limit),
        }  # fmt: skip
        shown = int(wait) if wait >= 1 else round(wait, 3)
        details: list[dict[str, Any]] = [
            {"@type": _TYPE + "QuotaFailure", "violations": [violation]},
            {"@type": _TYPE + "RetryInfo", "retryDelay": f"{shown:g}s"},
        ]
        return _error(ErrorForm(429, "RESOURCE_EXHAUSTED", None, message), details)

    def models(self, ids: Sequence[str]) -> dict[str, Any]:
        """`GET /v1beta/models`."""
        return {"models": self.shown(ids, name="models/{}".format, displayName="{} (sandbox)".format)}

    def headers(self, sent: Sent) -> dict[str, str]:
        """Gemini sends no rate-limit headers."""
        return {"server-timing": "gfet4t7; dur=12", "x-gemini-service-tier": "standard"}


def _error(form: ErrorForm, details: list[dict[str, Any]]) -> Reply:
    error = {"code": form.status, "message": form.message, "status": form.type}
    return Reply(form.status, {"error": error | ({"details": details} if details else {})})


def _parts(answer: Answer) -> list[dict[str, Any]]:
    parts: list[dict[str, Any]] = []
    if answer.thinking:
        parts.append({"text": answer.thinking, "thought": True})
    if answer.text:
        parts.append({"text": answer.text})
    return parts


def _body(
    ask: Ask, answer: Answer, sent: Sent, parts: list[dict[str, Any]], *, last: bool = True
) -> dict[str, Any]:
    ids = {"modelVersion": ask.model, "responseId": token("gemini", sent.number, length=22)}
    usage = {"usageMetadata": _usage(answer)} if answer.usage_override != "missing" else {}
    finish = _FINISH[answer.finish]
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
    return overridden(shown, answer, {"promptTokenCount": -1, "candidatesTokenCount": "many"})


def _stream_bodies(ask: Ask, answer: Answer, sent: Sent) -> list[dict[str, Any]]:
    if not answer.text:
        return [_body(ask, answer, sent, _parts(answer))]
    texts: list[dict[str, Any]] = [{"text": piece} for piece in pieces(answer.text)]
    if answer.thinking:
        texts.insert(0, {"text": answer.thinking, "thought": True})
    return [_body(ask, answer, sent, [part], last=n == len(texts) - 1) for n, part in enumerate(texts)]
