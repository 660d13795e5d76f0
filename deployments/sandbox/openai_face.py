"""What Groq, OpenRouter and OpenAI-compatible servers answer: bodies, streams, errors, headers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from tta_dev_primitives.deployments.sandbox.chat import Answer, Ask, Failure, Refusal
from tta_dev_primitives.deployments.sandbox.openai_errors import groq_error, openai_error, openrouter_error
from tta_dev_primitives.deployments.sandbox.wire import Reply, Room, Sent, dumps, pieces, token

__all__ = ["GroqFace", "OpenAIFace", "OpenRouterFace"]

_FINISH = {
    "stop": "stop",
    "length": "length",
    "content_filter": "content_filter",
    "refusal": "content_filter",
    "tool": "tool_calls",
    "error": "stop",
}
_NATIVE = {"stop": "end_turn", "length": "max_tokens", "tool": "tool_use"}


class OpenAIFace:
    """Any OpenAI-compatible server: the least that all of them answer."""

    provider = "openai-compatible"
    id_prefix = "chatcmpl-"
    finishes: ClassVar[Mapping[str, str]] = _FINISH

    def key_of(self, headers: Mapping[str, str]) -> str | None:
        """The bearer token."""
        scheme, _, key = headers.get("authorization", "").partition(" ")
        return key.strip() or None if scheme.lower() == "bearer" else None

    def missing_key(self) -> Refusal:
        """What a request without a key is told."""
        return Refusal(
            Failure(
                "bad_key",
                "You didn't provide an API key. You need to provide your API key in an Authorization header "
                "using Bearer auth (i.e. Authorization: Bearer YOUR_KEY).",
            )
        )

    def answer(self, ask: Ask, answer: Answer, sent: Sent) -> Reply:
        """A chat completion, or its event stream."""
        if ask.stream:
            return self._streamed(self._chunks(ask, answer, sent), sent)
        finish = answer.raw_finish or self.finishes[answer.finish]
        body: dict[str, Any] = {
            **self._envelope(ask, answer, sent, "chat.completion"),
            "choices": [self._choice({"message": self._message(ask, answer, sent)}, finish, answer)],
        }
        if answer.usage_override != "missing":
            body["usage"] = self._shown(answer, sent)
        return Reply(body=body | self._tail(sent), headers=self.headers(sent))

    def broken_stream(self, ask: Ask, answer: Answer, sent: Sent) -> Reply:
        """A stream that ends in a frame with `error`; a plain 500 when no stream was asked."""
        if not ask.stream:
            return self.error(Failure("server_error"), sent)
        error = self.error(Failure("server_error"), sent).body
        begun = self._chunks(ask, answer, sent)[:2]
        return Reply(
            chunks=[*begun, b"data: " + dumps(error) + b"\n\n"],
            headers={**self.headers(sent), "content-type": "text/event-stream"},
        )

    def error(self, failure: Failure, sent: Sent) -> Reply:
        """The server's own error for `failure`."""
        return openai_error(failure, self.headers(sent))

    def models(self, ids: Sequence[str]) -> dict[str, Any]:
        """The body of the model list."""
        return {"object": "list", "data": [self.model(i) for i in ids]}

    def model(self, model: str) -> dict[str, Any]:
        """One entry of the model list."""
        return {"id": model, "object": "model", "created": 1_750_000_000, "owned_by": "sandbox"}

    def headers(self, sent: Sent) -> dict[str, str]:
        """The request id."""
        return {"x-request-id": sent.request_id}

    # What a reply is made of; the two dialects below override some.

    def _envelope(self, ask: Ask, answer: Answer, sent: Sent, kind: str) -> dict[str, Any]:
        return {
            "id": f"{self.id_prefix}{token('chat', sent.number, sent.request_id)}",
            "object": kind,
            "created": int(sent.at),
            "model": answer.model or ask.model,
            "system_fingerprint": "fp_sandbox",
        }

    def _tail(self, sent: Sent) -> dict[str, Any]:
        return {}

    def _choice(self, inner: dict[str, Any], finish: str | None, answer: Answer) -> dict[str, Any]:
        return {"index": 0, **inner, "logprobs": None, "finish_reason": finish}

    def _message(self, ask: Ask, answer: Answer, sent: Sent) -> dict[str, Any]:
        message: dict[str, Any] = {"role": "assistant", "content": answer.text}
        if answer.finish == "refusal":
            message |= {"content": None, "refusal": answer.text or "I'm sorry, I can't help with that."}
        if ask.tool and answer.finish == "tool":
            call = {"name": ask.tool, "arguments": answer.text}
            message |= {
                "content": None,
                "tool_calls": [{"id": f"call_{token(sent.number)}", "type": "function", "function": call}],
            }
        if answer.thinking:
            message["reasoning"] = answer.thinking
        return message

    def _usage(self, answer: Answer, sent: Sent) -> dict[str, Any]:
        usage = answer.usage
        return {
            "prompt_tokens": usage.total_input,
            "completion_tokens": usage.output_tokens,
            "total_tokens": usage.total_input + usage.output_tokens,
        }

    def _shown(self, answer: Answer, sent: Sent) -> dict[str, Any]:
        shown = self._usage(answer, sent)
        if answer.usage_override == "invalid":
            return shown | {"prompt_tokens": -1, "completion_tokens": "many"}
        return {**shown, **answer.usage_override} if isinstance(answer.usage_override, Mapping) else shown

    def _chunks(self, ask: Ask, answer: Answer, sent: Sent) -> list[bytes]:
        finish = answer.raw_finish or self.finishes[answer.finish]
        deltas: list[dict[str, Any]] = [{"role": "assistant", "content": ""}]
        deltas += [{"reasoning": piece} for piece in pieces(answer.thinking)]
        if ask.tool and answer.finish == "tool":
            message = self._message(ask, answer, sent)
            deltas.append({"tool_calls": [{"index": 0, **message["tool_calls"][0]}]})
        else:
            deltas += [{"content": piece} for piece in pieces(answer.text)]
        envelope = self._envelope(ask, answer, sent, "chat.completion.chunk")
        bodies = [{**envelope, "choices": [self._choice({"delta": d}, None, answer)]} for d in deltas]
        bodies.append({**envelope, "choices": [self._choice({"delta": {}}, finish, answer)]})
        self._finish_stream(bodies, envelope, ask, answer, sent)
        return [b"data: " + dumps(body) + b"\n\n" for body in bodies]

    def _finish_stream(
        self, bodies: list[dict[str, Any]], envelope: dict[str, Any], ask: Ask, answer: Answer, sent: Sent
    ) -> None:
        """Put the usage where this server puts it in a stream."""
        if ask.stream_usage and answer.usage_override != "missing":
            bodies.append({**envelope, "choices": [], "usage": self._shown(answer, sent)})

    def _streamed(self, chunks: list[bytes], sent: Sent) -> Reply:
        return Reply(
            chunks=[*chunks, b"data: [DONE]\n\n"],
            headers={**self.headers(sent), "content-type": "text/event-stream"},
        )


class GroqFace(OpenAIFace):
    """Groq: usage with times, `x_groq`, rate-limit headers as Go durations."""

    provider = "groq"
    finishes: ClassVar[Mapping[str, str]] = {
        **_FINISH,
        "content_filter": "stop",  # Groq has no word for it
        "refusal": "stop",
    }

    def error(self, failure: Failure, sent: Sent) -> Reply:
        """`{"error": {message, type, code}}`."""
        return groq_error(failure, self.headers(sent))

    def headers(self, sent: Sent) -> dict[str, str]:
        """Requests are a day's, tokens are a minute's."""
        rooms = {room.metric: room for room in sent.rooms}
        requests = rooms.get("rpd") or Room("rpd", 14_400, 14_399, 6.0)
        tokens = rooms.get("tpm") or Room("tpm", 300_000, 299_000, 0.2)
        headers = {"x-request-id": sent.request_id, "x-groq-region": "sandbox"}
        for name, room in (("requests", requests), ("tokens", tokens)):
            headers[f"x-ratelimit-limit-{name}"] = str(room.limit)
            headers[f"x-ratelimit-remaining-{name}"] = str(room.remaining)
            headers[f"x-ratelimit-reset-{name}"] = go_duration(room.reset_s)
        return headers

    def model(self, model: str) -> dict[str, Any]:
        """One entry of the model list."""
        owner = model.split("/")[0] if "/" in model else "Meta"
        extra = {
            "active": True,
            "context_window": 131_072,
            "public_apps": None,
            "max_completion_tokens": 32_768,
        }
        return {**super().model(model), "owned_by": owner, **extra}

    def _tail(self, sent: Sent) -> dict[str, Any]:
        return {"usage_breakdown": None, "x_groq": {"id": sent.request_id}, "service_tier": "on_demand"}

    def _usage(self, answer: Answer, sent: Sent) -> dict[str, Any]:
        usage, shown = answer.usage, super()._usage(answer, sent)
        prompt, completion = usage.total_input * 1e-5, usage.output_tokens * 2e-3
        shown |= {
            "queue_time": 0.01,
            "prompt_time": round(prompt, 6),
            "completion_time": round(completion, 6),
            "total_time": round(prompt + completion, 6),
        }
        if usage.cache_read_tokens:
            shown["prompt_tokens_details"] = {"cached_tokens": usage.cache_read_tokens}
        if usage.thinking_tokens:
            shown["completion_tokens_details"] = {"reasoning_tokens": usage.thinking_tokens}
        return shown

    def _finish_stream(
        self, bodies: list[dict[str, Any]], envelope: dict[str, Any], ask: Ask, answer: Answer, sent: Sent
    ) -> None:
        bodies[0]["x_groq"] = {"id": sent.request_id}
        if answer.usage_override != "missing":
            usage = self._shown(answer, sent)
            bodies[-1]["x_groq"] = {"id": sent.request_id, "usage": usage}
            if ask.stream_usage:
                bodies.append({**envelope, "choices": [], "usage": usage})


class OpenRouterFace(OpenAIFace):
    """OpenRouter: cost in the usage, the provider's name, comments in streams, errors after HTTP 200."""

    provider = "openrouter"
    id_prefix = "gen-"
    finishes: ClassVar[Mapping[str, str]] = {**_FINISH, "error": "error"}

    def missing_key(self) -> Refusal:
        """What a request without a key is told."""
        return Refusal(Failure("bad_key", "No auth credentials found"))

    def error(self, failure: Failure, sent: Sent) -> Reply:
        """`{"error": {code, message, metadata}}`."""
        return openrouter_error(failure, self.headers(sent), sent.at)

    def broken_stream(self, ask: Ask, answer: Answer, sent: Sent) -> Reply:
        """A 200 that carries an error: in a stream's last chunk, or in the choice of a whole reply."""
        error = {"code": 502, "message": "Provider returned error", "metadata": {"provider_name": "Sandbox"}}
        if ask.stream:
            envelope = self._envelope(ask, answer, sent, "chat.completion.chunk")
            choice = self._choice({"delta": {"content": ""}}, "error", answer)
            last = b"data: " + dumps({**envelope, "error": error, "choices": [choice]}) + b"\n\n"
            return self._streamed([*self._chunks(ask, answer, sent)[:3], last], sent)
        whole = self.answer(ask, answer, sent)
        choice = self._choice({"message": {"role": "assistant", "content": ""}}, "error", answer)
        body = {**whole.body, "choices": [{**choice, "error": error}]}
        return Reply(body=body, headers=whole.headers)

    def headers(self, sent: Sent) -> dict[str, str]:
        """The generation id."""
        return {"x-generation-id": f"gen-{token('chat', sent.number, sent.request_id)}"}

    def models(self, ids: Sequence[str]) -> dict[str, Any]:
        """The body of the model list."""
        return {"data": [self.model(i) for i in ids], "links": {"next": None}, "total_count": len(ids)}

    def model(self, model: str) -> dict[str, Any]:
        """One entry of the model list."""
        free = "0" if model.endswith(":free") else "0.000001"
        return {
            "id": model,
            "canonical_slug": model.split(":")[0],
            "name": f"{model} (sandbox)",
            "created": 1_750_000_000,
            "description": "A sandbox model.",
            "context_length": 131_072,
            "hugging_face_id": None,
            "architecture": {
                "modality": "text->text",
                "input_modalities": ["text"],
                "output_modalities": ["text"],
                "tokenizer": "Other",
                "instruct_type": None,
            },
            "pricing": {"prompt": free, "completion": free, "request": "0", "image": "0"},
            "top_provider": {
                "context_length": 131_072,
                "max_completion_tokens": 32_768,
                "is_moderated": False,
            },
            "per_request_limits": None,
            "supported_parameters": [
                "max_tokens",
                "temperature",
                "response_format",
                "structured_outputs",
                "tools",
            ],
            "default_parameters": None,
            "links": {"details": f"/api/v1/models/{model}/endpoints"},
            "supported_voices": None,
        }

    def _envelope(self, ask: Ask, answer: Answer, sent: Sent, kind: str) -> dict[str, Any]:
        envelope = {**super()._envelope(ask, answer, sent, kind), "provider": "Sandbox"}
        if kind == "chat.completion":
            envelope["system_fingerprint"] = None
        return envelope

    def _choice(self, inner: dict[str, Any], finish: str | None, answer: Answer) -> dict[str, Any]:
        native = None if finish is None else answer.raw_finish or _NATIVE.get(answer.finish, answer.finish)
        shown = finish if finish is None or answer.raw_finish is None else self.finishes[answer.finish]
        return {**super()._choice(inner, shown, answer), "native_finish_reason": native}

    def _message(self, ask: Ask, answer: Answer, sent: Sent) -> dict[str, Any]:
        return {"refusal": None, "reasoning": None, **super()._message(ask, answer, sent)}

    def _usage(self, answer: Answer, sent: Sent) -> dict[str, Any]:
        usage = answer.usage
        shown = super()._usage(answer, sent) | {
            "prompt_tokens_details": {
                "cached_tokens": usage.cache_read_tokens,
                "cache_write_tokens": usage.cache_write_tokens,
                "audio_tokens": 0,
            },
            "completion_tokens_details": {"reasoning_tokens": usage.thinking_tokens},
            "is_byok": False,
        }
        cost = usage.reported_cost_usd if usage.reported_cost_usd is not None else sent.cost
        return shown if cost is None else shown | {"cost": float(cost)}

    def _chunks(self, ask: Ask, answer: Answer, sent: Sent) -> list[bytes]:
        return [b": OPENROUTER PROCESSING\n\n", *super()._chunks(ask, answer, sent)]

    def _finish_stream(
        self, bodies: list[dict[str, Any]], envelope: dict[str, Any], ask: Ask, answer: Answer, sent: Sent
    ) -> None:
        if answer.usage_override != "missing":
            last = {"choices": [{**bodies[-1]["choices"][0], "delta": {"role": "assistant", "content": ""}}]}
            bodies.append({**envelope, **last, "usage": self._shown(answer, sent)})


def go_duration(seconds: float) -> str:
    """`2m59.56s`, `7.66s`, `120ms`: how Go writes a duration."""
    if seconds < 1:
        return f"{seconds * 1000:.6g}ms"
    minutes, rest = divmod(round(seconds, 3), 60)
    hours, minutes = divmod(int(minutes), 60)
    text = f"{rest:.3f}".rstrip("0").rstrip(".")
    return (f"{hours}h" if hours else "") + (f"{minutes}m" if minutes or hours else "") + f"{text}s"
