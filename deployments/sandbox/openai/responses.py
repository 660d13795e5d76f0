"""Responses of Groq, OpenRouter and OpenAI-compatible servers: bodies, streams, errors, headers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from tta_dev_primitives.deployments.sandbox.chat import Answer, Ask, Failure
from tta_dev_primitives.deployments.sandbox.http_reply import (
    METRIC,
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

_FINISH = {
    "stop": "stop", "length": "length", "content_filter": "content_filter", "refusal": "content_filter",
    "tool": "stop",
}  # fmt: skip
_NATIVE = {"stop": "end_turn", "length": "max_tokens"}
_NO_KEY = Failure(
    "bad_key",
    "You didn't provide an API key. You need to provide your API key in an Authorization header using Bearer auth "
    "(i.e. Authorization: Bearer YOUR_KEY).",
)
_Body = dict[str, Any]
_INVALID = {"prompt_tokens": -1, "completion_tokens": "many"}


def _event(body: Any) -> bytes:
    return b"data: " + dumps(body) + b"\n\n"


class OpenAIResponses(ProviderResponses):
    """Any OpenAI-compatible server: the least that all of them answer."""

    provider: ClassVar[str] = "openai-compatible"
    id_prefix = "chatcmpl-"
    no_key = _NO_KEY
    finishes: ClassVar[Mapping[str, str]] = _FINISH

    def answer(self, ask: Ask, answer: Answer, sent: Sent) -> Reply:
        """A chat completion, or its event stream."""
        if ask.stream:
            return Reply(chunks=[*self._chunks(ask, answer, sent), b"data: [DONE]\n\n"])
        finish = self.finishes[answer.finish]
        choice = self._choice({"message": self._message(answer)}, finish, answer)
        usage = {} if answer.usage_override == "missing" else {"usage": self._shown(answer, sent)}
        body = {**self._envelope(ask, answer, sent, "chat.completion"), "choices": [choice], **usage}
        return Reply(body=body | self._tail(sent))

    def error(self, failure: Failure, sent: Sent) -> Reply:
        """OpenAI's `{"error": {message, type, param, code}}`."""
        status, kind, code, message = error_form(self.provider, failure)
        code = failure.facts.get("code", code)
        error = {"message": message, "type": kind, "param": failure.param, "code": code}
        return Reply(status, {"error": error}, headers=retry_after(failure.retry_after))

    def models(self, ids: Sequence[str]) -> dict[str, Any]:
        """The body of the model list."""
        return {"object": "list", "data": self.shown(ids, id=str)}

    def headers(self, sent: Sent) -> dict[str, str]:
        """The request id."""
        return {"x-request-id": sent.request_id}

    # The parts of a reply; the two dialects below override some.

    def _envelope(self, ask: Ask, answer: Answer, sent: Sent, kind: str) -> dict[str, Any]:
        ids = {
            "id": f"{self.id_prefix}{token('chat', sent.number, sent.request_id)}",
            "created": int(sent.at),
        }
        return {**ids, "object": kind, "model": ask.model, "system_fingerprint": "fp_sandbox"}

    def _tail(self, sent: Sent) -> dict[str, Any]:
        return {}

    def _choice(self, inner: dict[str, Any], finish: str | None, answer: Answer) -> dict[str, Any]:
        return {"index": 0, **inner, "logprobs": None, "finish_reason": finish}

    def _message(self, answer: Answer) -> dict[str, Any]:
        message: dict[str, Any] = {"role": "assistant", "content": answer.text}
        if answer.finish == "refusal":
            message |= {"content": None, "refusal": answer.text or "I'm sorry, I can't help with that."}
        return message | ({"reasoning": answer.thinking} if answer.thinking else {})

    def _usage(self, answer: Answer, sent: Sent) -> dict[str, Any]:
        prompt, completion = answer.usage.total_input, answer.usage.output_tokens
        return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}

    def _shown(self, answer: Answer, sent: Sent) -> dict[str, Any]:
        return overridden(self._usage(answer, sent), answer, _INVALID)

    def _chunks(self, ask: Ask, answer: Answer, sent: Sent) -> list[bytes]:
        finish = self.finishes[answer.finish]
        deltas: list[dict[str, Any]] = [{"role": "assistant", "content": ""}]
        deltas += [{"reasoning": piece} for piece in pieces(answer.thinking)]
        deltas += [{"content": piece} for piece in pieces(answer.text)]
        envelope = self._envelope(ask, answer, sent, "chat.completion.chunk")
        bodies = [{**envelope, "choices": [self._choice({"delta": d}, None, answer)]} for d in deltas]
        bodies.append({**envelope, "choices": [self._choice({"delta": {}}, finish, answer)]})
        usage = None if answer.usage_override == "missing" else self._shown(answer, sent)
        self._end(bodies, envelope, ask, sent, usage)
        return [_event(body) for body in bodies]

    def _end(self, bodies: list[_Body], envelope: _Body, ask: Ask, sent: Sent, usage: _Body | None) -> None:
        """Put the usage where this server puts it in a stream."""
        if ask.stream_usage and usage is not None:
            bodies.append({**envelope, "choices": [], "usage": usage})


class GroqResponses(OpenAIResponses):
    """Groq: usage with times, `x_groq`, rate-limit headers as Go durations."""

    provider = "groq"
    # Groq has no word for a filtered answer.
    finishes: ClassVar[Mapping[str, str]] = {**_FINISH, "content_filter": "stop", "refusal": "stop"}

    def error(self, failure: Failure, sent: Sent) -> Reply:
        """`{"error": {message, type, code, failed_generation?}}`."""
        if failure.kind in METRIC:
            return self._limited(failure)
        status, kind, code, message = error_form(self.provider, failure)
        error: dict[str, Any] = {"message": message, "type": kind} | ({"code": code} if code else {})
        if failure.kind == "json_failed":
            error["failed_generation"] = failure.facts.get("failed_generation", '{"answer": ')
        return Reply(status, {"error": error}, headers=retry_after(failure.retry_after))

    def _limited(self, failure: Failure) -> Reply:
        metric = failure.facts.get("metric") or METRIC[failure.kind]
        kind, window = "requests" if metric[0] == "r" else "tokens", "minute" if metric[2] == "m" else "day"
        limit = 30 if failure.limit is None else failure.limit
        used = limit if failure.used is None else failure.used
        requested = 1 if failure.requested is None else failure.requested
        where = (
            f"for model `{failure.facts.get('model', '')}` in organization `org_sandbox` service tier `on_demand` "
            f"on {kind} per {window} ({metric.upper()}): Limit {limit}, "
        )
        error = {"message": failure.message, "type": kind, "code": "rate_limit_exceeded"}
        if failure.kind == "request_over_limit":
            rest = f"Requested {requested}, please reduce your message size and try again."
            error["message"] = failure.message or f"Request too large {where}{rest}"
            return Reply(413, {"error": error})
        wait = failure.retry_after or (3600.0 if failure.kind == "daily_limit" else 2.5)
        shown = wait if isinstance(wait, str) else f"{wait:.9g}s"
        rest = f"Used {used}, Requested {requested}. Please try again in {shown}."
        error["message"] = failure.message or f"Rate limit reached {where}{rest}"
        # Groq's header holds whole seconds; a scenario that asks for less than one gets the fraction.
        header = math.ceil(wait) if isinstance(wait, (int, float)) and wait >= 1 else wait
        return Reply(429, {"error": error}, headers=retry_after(header))

    def headers(self, sent: Sent) -> dict[str, str]:
        """Requests are a day's, tokens are a minute's."""
        limits = {limit.metric: limit for limit in sent.limits}
        requests = limits.get("rpd") or RateLimit("rpd", 14_400, 14_399, 6.0)
        tokens = limits.get("tpm") or RateLimit("tpm", 300_000, 299_000, 0.2)
        headers = {"x-request-id": sent.request_id, "x-groq-region": "sandbox"}
        for name, limit in (("requests", requests), ("tokens", tokens)):
            headers[f"x-ratelimit-limit-{name}"] = str(limit.limit)
            headers[f"x-ratelimit-remaining-{name}"] = str(limit.remaining)
            headers[f"x-ratelimit-reset-{name}"] = go_duration(limit.reset_s)
        return headers

    def _tail(self, sent: Sent) -> dict[str, Any]:
        return {"usage_breakdown": None, "x_groq": {"id": sent.request_id}, "service_tier": "on_demand"}

    def _usage(self, answer: Answer, sent: Sent) -> dict[str, Any]:
        usage, shown = answer.usage, super()._usage(answer, sent)
        times = [0.01, round(usage.total_input * 1e-5, 6), round(usage.output_tokens * 2e-3, 6)]
        shown |= zip(("queue_time", "prompt_time", "completion_time"), times, strict=True)
        shown["total_time"] = round(times[1] + times[2], 6)
        if usage.cache_read_tokens:
            shown["prompt_tokens_details"] = {"cached_tokens": usage.cache_read_tokens}
        if usage.thinking_tokens:
            shown["completion_tokens_details"] = {"reasoning_tokens": usage.thinking_tokens}
        return shown

    def _end(self, bodies: list[_Body], envelope: _Body, ask: Ask, sent: Sent, usage: _Body | None) -> None:
        bodies[0]["x_groq"] = {"id": sent.request_id}
        if usage is not None:
            bodies[-1]["x_groq"] = {"id": sent.request_id, "usage": usage}
        super()._end(bodies, envelope, ask, sent, usage)


class OpenRouterResponses(OpenAIResponses):
    """OpenRouter: cost in the usage, the provider's name, comments in streams, errors after HTTP 200."""

    provider = "openrouter"
    id_prefix = "gen-"
    no_key = Failure("bad_key", "No auth credentials found")

    def error(self, failure: Failure, sent: Sent) -> Reply:
        """`{"error": {code, message, metadata}}`."""
        status, kind, _, message = error_form(self.provider, failure)
        model, limits = failure.facts.get("model", ""), {}
        metadata: dict[str, Any] = {"error_type": kind}
        error: dict[str, Any] = {"message": message, "code": status, "metadata": metadata}
        if failure.kind == "model_gone" and failure.facts.get("never_existed"):
            status = error["code"] = 400
            error["message"] = failure.message or f"{model} is not a valid model ID"
        elif failure.kind == "model_gone":
            free = model.endswith(":free")
            error["availability"] = {
                "code": "free_variant_ended" if free else "no_endpoints", "retryable": False,
                "fallback_models": [model.removesuffix(":free")] if free else [],
            }  # fmt: skip
        if failure.kind in ("rate_limit", "daily_limit", "token_limit"):
            wait = failure.retry_after
            if not isinstance(wait, (int, float)):
                wait = 86_400.0 if failure.kind == "daily_limit" else 60.0
            limits = {
                "X-RateLimit-Limit": str(20 if failure.limit is None else failure.limit),
                "X-RateLimit-Remaining": "0", "X-RateLimit-Reset": str(round((sent.at + wait) * 1000)),
            }  # fmt: skip
            metadata |= {"headers": limits, "provider_name": None}
        body = {"error": error, "user_id": "user_sandbox"}
        return Reply(status, body, headers={**retry_after(failure.retry_after), **limits})

    def headers(self, sent: Sent) -> dict[str, str]:
        """The generation id."""
        return {"x-generation-id": f"gen-{token('chat', sent.number, sent.request_id)}"}

    def models(self, ids: Sequence[str]) -> dict[str, Any]:
        """The body of the model list."""
        shown = self.shown(
            ids, id=str, canonical_slug=lambda i: i.split(":")[0], name="{} (sandbox)".format, pricing=_pricing,
            links=lambda i: {"details": f"/api/v1/models/{i}/endpoints"},
        )  # fmt: skip
        return {"data": shown, "links": {"next": None}, "total_count": len(ids)}

    def _envelope(self, ask: Ask, answer: Answer, sent: Sent, kind: str) -> dict[str, Any]:
        fingerprint = {"system_fingerprint": None} if kind == "chat.completion" else {}
        return {**super()._envelope(ask, answer, sent, kind), "provider": "Sandbox", **fingerprint}

    def _choice(self, inner: dict[str, Any], finish: str | None, answer: Answer) -> dict[str, Any]:
        native = None if finish is None else _NATIVE.get(answer.finish, answer.finish)
        return {**super()._choice(inner, finish, answer), "native_finish_reason": native}

    def _message(self, answer: Answer) -> dict[str, Any]:
        return {"refusal": None, "reasoning": None, **super()._message(answer)}

    def _usage(self, answer: Answer, sent: Sent) -> dict[str, Any]:
        usage = answer.usage
        cached = {"cached_tokens": usage.cache_read_tokens, "cache_write_tokens": usage.cache_write_tokens}
        shown = super()._usage(answer, sent) | {
            "prompt_tokens_details": {**cached, "audio_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": usage.thinking_tokens},
            "is_byok": False,
        }
        cost = usage.reported_cost_usd if usage.reported_cost_usd is not None else sent.cost
        return shown if cost is None else shown | {"cost": float(cost)}

    def _chunks(self, ask: Ask, answer: Answer, sent: Sent) -> list[bytes]:
        return [b": OPENROUTER PROCESSING\n\n", *super()._chunks(ask, answer, sent)]

    def _end(self, bodies: list[_Body], envelope: _Body, ask: Ask, sent: Sent, usage: _Body | None) -> None:
        if usage is not None:
            choice = {**bodies[-1]["choices"][0], "delta": {"role": "assistant", "content": ""}}
            bodies.append({**envelope, "choices": [choice], "usage": usage})


def _pricing(model: str) -> dict[str, str]:
    price = "0" if model.endswith(":free") else "0.000001"
    return {"prompt": price, "completion": price, "request": "0", "image": "0"}


def go_duration(seconds: float) -> str:
    """`2m59.56s`, `7.66s`, `120ms`: how Go writes a duration."""
    if seconds < 1:
        return f"{seconds * 1000:.6g}ms"
    minutes, rest = divmod(round(seconds, 3), 60)
    hours, minutes = divmod(int(minutes), 60)
    text = f"{rest:.3f}".rstrip("0").rstrip(".")
    return (f"{hours}h" if hours else "") + (f"{minutes}m" if minutes or hours else "") + f"{text}s"
