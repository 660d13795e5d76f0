"""OpenAI chat completions: the format that Groq, OpenRouter and every compatible server share.

What is particular to one of them is a subclass: a path, extra request fields, and its own reading of errors.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from typing_extensions import override

from tta_dev_primitives.blocks.wire import error_rules
from tta_dev_primitives.blocks.wire.error_rules import ErrorBody, Fault
from tta_dev_primitives.blocks.wire.reading import (
    at,
    cost_of,
    count_of,
    flat,
    obj,
    rate_headers,
    seq,
    text_of,
    usage_flag,
)
from tta_dev_primitives.blocks.wire.reply_problems import finish_of
from tta_dev_primitives.blocks.wire.structured import (
    all_required,
    instruction,
    strict_schema,
    within_limits,
)
from tta_dev_primitives.blocks.wire.thoughts import split_thoughts
from tta_dev_primitives.blocks.wire.types import ChatReply, ChatRequest, Lifecycle, ModelInfo, WireRequest
from tta_dev_primitives.blocks.wire.wire_format import Answered, Events, WireFormat
from tta_dev_primitives.config.models.targets import IMPLAUSIBLE, Target, Usage
from tta_dev_primitives.config.provider_errors import ErrorClass, LedgerAction

_LIMITS = {"properties": 5000, "depth": 10, "choices": 1000, "unions": 5000}
"""Of strict mode, as OpenAI documents them."""

_BUSY = re.compile(
    r"(?:engine|model|server|service)\b.{0,60}\boverloaded"
    r"|server busy|maximum pending requests|loading model|slow down",
    re.IGNORECASE,
)
_BUSY_CODES = frozenset(
    {"overloaded", "overloaded_error", "server_is_overloaded", "slow_down", "unavailable_error"}
)


class OpenAIChat(WireFormat):
    """The chat-completions format, as a server without a name of its own speaks it."""

    path = "/chat/completions"
    """Relative to the base address as the provider's SDK takes it."""
    models_path = "/models"
    reports_cost = False
    """Its `usage.cost` is what it charged, in USD; of any other server the meaning of such a figure is unknown."""

    def __init__(self, provider: str, base_url: str | None) -> None:
        self.provider, self.base_url = provider, base_url

    def extras(self, target: Target, request: ChatRequest, body: dict[str, Any]) -> None:
        """Add the provider's own request fields."""

    def special(self, status: int, headers: Mapping[str, str], body: ErrorBody, now: float) -> Fault | None:
        """Judge an error by the provider's own codes; None leaves it to the status."""
        return None

    def overloaded(self, body: ErrorBody) -> bool:
        """Whether an error is the answer by which this server turns requests away before it works on them.

        OpenAI, Ollama, llama.cpp and others.
        """
        return bool({body.code, body.type} & _BUSY_CODES or _BUSY.search(body.message[:2000]))

    @override
    def build(self, target: Target, request: ChatRequest) -> WireRequest:
        """Translate `request` for `target`, sending the least that says it."""
        can = target.capabilities
        field = "max_completion_tokens" if can.max_tokens_field == "max_completion_tokens" else "max_tokens"
        system = request.system or ""
        body: dict[str, Any] = {
            "model": target.api_model,
            "messages": None,
            field: request.max_output_tokens,
            "stream": False,
        }
        if request.json_schema is not None:
            wanted = _response_format(can.json_mode, request)
            if wanted is not None:
                body["response_format"] = wanted
            if wanted is None or wanted["type"] == "json_object":
                # json_object alone names no shape, and Groq refuses it unless the prompt says "JSON".
                system = f"{system}\n\n{instruction(request.json_schema)}".strip()
        turns = [{"role": m.role, "content": m.content} for m in request.messages]
        if system and can.system_role:
            turns.insert(0, {"role": "system", "content": system})
        elif system:
            # In the first turn: templates that know no system role want user and assistant to alternate, too.
            turns[0]["content"] = f"{system}\n\n{turns[0]['content']}"
        body["messages"] = turns
        if request.stop and can.stop:
            body["stop"] = list(request.stop)
        if request.temperature is not None and can.temperature:
            body["temperature"] = request.temperature
        self.extras(target, request, body)
        return WireRequest(self.path, body)

    @override
    def stream(self, got: Answered, events: Events) -> ChatReply:
        whole: dict[str, Any] = {}
        content, refusal, reasoning, finish, done = "", "", "", None, False
        for name, chunk in events:
            if chunk is None:
                done = True
                continue
            error_at = chunk if name == "error" or obj(chunk).get("error") else at(chunk, "x_groq")
            if name == "error" or obj(error_at).get("error"):
                raise self.failed(got, error_at, self._usage_or_none(chunk))
            usage = at(chunk, "usage") or at(chunk, "x_groq", "usage")
            whole |= {k: v for k, v in obj(chunk).items() if v is not None} | (
                {"usage": usage} if usage else {}
            )
            for choice in filter(_is_first, map(obj, seq(at(chunk, "choices")))):
                if choice.get("error"):
                    raise self.failed(got, choice, self._usage_or_none(chunk))
                # Some servers put a whole message where a stream has pieces.
                piece = obj(choice.get("delta")) or obj(choice.get("message"))
                content += _content(piece.get("content"))
                refusal += text_of(piece.get("refusal"))
                reasoning += _reasoning(piece)
                finish = text_of(choice.get("finish_reason")) or finish
        if not done and finish is None:
            raise got.cut_off()
        message = {"content": content, "refusal": refusal, "reasoning": reasoning}
        whole |= {"choices": [{"message": message, "finish_reason": finish}]}
        return self.reply(got, whole)

    @override
    def classify(self, status: int, headers: Mapping[str, str], payload: Any, now: float) -> Fault:
        body = error_rules.read_error(payload)
        started = 200 <= status < 300
        if started:
            status = error_rules.status_inside(body) or 500
        fault = self.special(status, headers, body, now)
        if fault is None and (started or status < 500):
            fault = _common(body)
        if fault is None:
            busy = self.overloaded(body)
            fault = error_rules.by_status(status, body, headers=headers, now=now, overloaded=busy)
        return error_rules.overridden(fault, headers)

    @override
    def reply(self, got: Answered, payload: Any) -> ChatReply:
        payload = payload[0] if isinstance(payload, list) and len(payload) == 1 else payload
        usage = self._usage(at(payload, "usage") or at(payload, "x_groq", "usage"))
        choices = [*map(obj, seq(at(payload, "choices")))]
        choice = next(filter(_is_first, choices), choices[0] if choices else {})
        raw = text_of(choice.get("finish_reason")) or None
        for node in (payload, choice):
            if obj(node).get("error") or at(node, "object") == "error":
                raise self.failed(got, node, usage)
        if not choices and error_rules.is_error(payload):
            raise self.failed(got, payload, usage)
        if (raw or "").strip().lower() == "error":
            node = {"error": {"message": "the provider ended the answer with an error"}}
            raise self.failed(got, node, usage)
        message = choice.get("message")
        if not isinstance(message, dict):
            fault = error_rules.after_start(error_rules.unreadable("it holds no message"), usage)
            raise got.error(fault, usage)
        text, thoughts = split_thoughts(_content(message.get("content")))
        refused, finish = text_of(message.get("refusal")), finish_of(raw)
        return ChatReply(
            text=text,
            finish="content_filter" if refused and not text else finish,
            usage=usage,
            raw_finish=raw,
            reasoning="\n\n".join(filter(None, (_reasoning(message), thoughts))),
            model_returned=flat(at(payload, "model"), limit=200) or None,
            request_id=error_rules.request_id_of(got.headers, payload),
            reply_id=flat(at(payload, "id"), limit=120) or None,
            headers=rate_headers(got.headers),
        )

    def _usage(self, node: Any) -> Usage:
        usage = _usage(node)
        return _with_reported_cost(usage, node) if self.reports_cost else usage

    def _usage_or_none(self, chunk: Any) -> Usage | None:
        node = at(chunk, "usage") or at(chunk, "x_groq", "usage")
        return self._usage(node) if node else None

    @override
    def model_of(self, entry: Any) -> ModelInfo:
        name = flat(at(entry, "id"), limit=200) or flat(at(entry, "name"), limit=200)
        lifecycle: Lifecycle = "retired" if at(entry, "active") is False else "active"
        return ModelInfo(name, lifecycle, flat(at(entry, "expiration_date")) or None)


def _response_format(mode: str, request: ChatRequest) -> dict[str, Any] | None:
    assert request.json_schema is not None
    if mode == "json_schema":
        closed = strict_schema(request.json_schema)
        strict = closed is not None and all_required(closed) and within_limits(closed, **_LIMITS)
        schema = closed if closed is not None and strict else dict(request.json_schema)
        inner: dict[str, Any] = {"name": request.schema_name, "schema": schema}
        return {"type": "json_schema", "json_schema": inner | ({"strict": True} if strict else {})}
    return {"type": "json_object"} if mode == "json_object" else None


def _is_first(choice: Mapping[str, Any]) -> bool:
    """One choice is asked for; of a server that sends more, the first counts."""
    return not count_of(choice.get("index"))


def _content(value: Any) -> str:
    """Content is a string, or (some servers) a list of parts, thoughts among them."""
    if isinstance(value, list):
        return "".join(text_of(p) or text_of(at(p, "text")) for p in value if at(p, "type") in _TEXT_PARTS)
    return text_of(value)


def _reasoning(message: Mapping[str, Any]) -> str:
    """The thoughts that a server keeps apart from the content, under any of their names."""
    for key in ("reasoning_content", "reasoning", "thinking"):
        if text_of(message.get(key)):
            return text_of(message[key])
    parts = [*seq(message.get("reasoning_details")), *seq(message.get("content"))]
    return "".join(_thought(part) for part in parts)


def _thought(part: Any) -> str:
    if at(part, "type") in ("thinking", "reasoning"):
        inner = at(part, "thinking")
        return (
            text_of(inner) or "".join(text_of(at(p, "text")) for p in seq(inner)) or text_of(at(part, "text"))
        )
    return text_of(at(part, "text")) if at(part, "type") == "reasoning.text" else ""


_TEXT_PARTS = (None, "text", "output_text")


def _usage(node: Any) -> Usage:
    """`prompt_tokens` includes the cached ones, `completion_tokens` the reasoning ones.

    Servers that leave reasoning out of `completion_tokens` count it in `total_tokens`: the larger holds. A total
    that no part accounts for is charged, too, and flagged.
    """
    prompt, out, total = at(node, "prompt_tokens"), at(node, "completion_tokens"), at(node, "total_tokens")
    details = at(node, "prompt_tokens_details")
    write = at(details, "cache_write_tokens")
    # Spellings of DeepSeek, Mistral and others.
    reads = (
        at(details, "cached_tokens"),
        *(at(node, key) for key in ("prompt_cache_hit_tokens", "num_cached_tokens", "cached_tokens")),
    )
    read = next((figure for figure in reads if figure is not None), None)
    thinking = at(node, "completion_tokens_details", "reasoning_tokens")
    flag = usage_flag(prompt, out, read, write, total)
    n_in, n_read, n_write = count_of(prompt) or 0, count_of(read) or 0, count_of(write) or 0
    n_out, n_total, n_thinking = count_of(out) or 0, count_of(total) or 0, count_of(thinking) or 0
    unexplained = n_total > n_in + n_out and n_total != n_in + n_out + n_thinking
    if not n_in and n_out:
        n_in = max(0, n_total - n_out)
    # OpenRouter bills Gemini's cache writes on top of reads of the same tokens; elsewhere they are disjoint.
    fresh = n_in - n_read - n_write if n_read + n_write <= n_in else n_in - max(n_read, n_write)
    return Usage(
        input_tokens=max(0, fresh),
        cache_read_tokens=n_read,
        cache_write_tokens=n_write,
        output_tokens=max(n_out, n_total - n_in),
        thinking_tokens=n_thinking,
        flag=flag or ("usage_invalid" if fresh < 0 else IMPLAUSIBLE if unexplained else None),
    )


def _with_reported_cost(usage: Usage, node: Any) -> Usage:
    """OpenRouter's `cost` is what it charged; with your own key (BYOK) the upstream bill comes on top.

    Without that bill, or with a `cost` of null, what was charged is not known: the list price holds.
    """
    cost = cost_of(at(node, "cost"))
    upstream = cost_of(at(node, "cost_details", "upstream_inference_cost"))
    own_key = at(node, "is_byok") is True
    if cost is not None and (not own_key or upstream is not None):
        return replace(usage, reported_cost_usd=cost + upstream if own_key and upstream else cost)
    doubtful = "cost" in obj(node) and usage.flag is None
    return replace(usage, flag=IMPLAUSIBLE) if doubtful else usage


_CODES: Mapping[str, ErrorClass] = {
    "model_not_found": ErrorClass.MODEL_GONE,
    "model_decommissioned": ErrorClass.MODEL_GONE,
    "context_length_exceeded": ErrorClass.CONTEXT,
    "content_filter": ErrorClass.CONTENT,
    "content_policy_violation": ErrorClass.CONTENT,
    "invalid_api_key": ErrorClass.AUTH,
    "insufficient_quota": ErrorClass.QUOTA,
    "json_validate_failed": ErrorClass.MODEL_SLIP,
    "tool_use_failed": ErrorClass.MODEL_SLIP,
}
_PROVIDER_WIDE = frozenset({ErrorClass.AUTH, ErrorClass.QUOTA})


def _common(body: ErrorBody) -> Fault | None:
    """Codes that mean the same on every server of this format."""
    error_class = _CODES.get(body.code) or _CODES.get(body.type)
    if error_class is None:
        return None
    # A slip of the model comes after generation: the tokens are spent although no usage is reported.
    spent = error_class is ErrorClass.MODEL_SLIP
    return Fault(
        error_class,
        LedgerAction.CHARGE_AT_BOUND if spent else LedgerAction.RELEASE,
        body.message,
        body.code if body.code in _CODES else body.type,
        "provider" if error_class in _PROVIDER_WIDE else "model",
    )
