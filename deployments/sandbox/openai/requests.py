"""Reads chat-completion requests of Groq, OpenRouter and OpenAI-compatible servers, and refuses as each does.

Text and structured output are answered; images, tools and routing by several models are refused.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, NoReturn

from pydantic import Field

from tta_dev_primitives.deployments.sandbox.chat import Ask, Failure, Refusal
from tta_dev_primitives.deployments.sandbox.requests import Fault, Strict, plain, refuse, validated

_GROQ_SCHEMA_MODELS = re.compile(
    r"^(openai/gpt-oss-|moonshotai/kimi-k2|meta-llama/llama-4-|qwen/qwen3\.[68])"
)
_OPENROUTER_MODEL = re.compile(r"~?[\w.\-]+/[\w.\-]+(:[\w.\-]+)?")
_UNREAD = frozenset({
    "seed", "user", "metadata", "service_tier", "store", "logit_bias", "frequency_penalty", "presence_penalty",
})  # fmt: skip


class _Text(Strict):
    UNREAD: ClassVar = frozenset({"cache_control"})

    type: Literal["text"]
    text: str


class _Message(Strict):
    UNREAD: ClassVar = frozenset({"name"})

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[_Text]


class _JsonSchema(Strict):
    UNREAD: ClassVar = frozenset({"description"})

    name: str = Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")
    schema_: dict[str, Any] | None = Field(None, alias="schema")
    strict: bool | None = None


class _ResponseFormat(Strict):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: _JsonSchema | None = None


class _StreamOptions(Strict):
    include_usage: bool = False


class _Chat(Strict):
    """What all three read; the dialects add theirs."""

    UNREAD: ClassVar = _UNREAD

    messages: list[_Message] = Field(min_length=1)
    model: str = Field(min_length=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    max_tokens: int | None = Field(None, ge=1)
    n: int | None = Field(None, ge=1, le=128)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, ge=0, le=1)
    response_format: _ResponseFormat | None = None
    reasoning_effort: str | None = None
    stop: str | Annotated[list[str], Field(max_length=4)] | None = None
    stream: bool | None = None
    stream_options: _StreamOptions | None = None


class _Groq(_Chat):
    include_reasoning: bool | None = None
    reasoning_format: str | None = None
    logprobs: bool | None = None


class _Reasoning(Strict):
    UNREAD: ClassVar = frozenset({"enabled", "exclude", "summary"})

    effort: Literal["max", "xhigh", "high", "medium", "low", "minimal", "none"] | None = None
    max_tokens: int | None = None


class _Preferences(Strict):
    UNREAD: ClassVar = frozenset(
        {"allow_fallbacks", "data_collection", "order", "only", "ignore", "sort", "zdr"}
    )

    require_parameters: bool | None = None


class _OpenRouter(_Chat):
    UNREAD: ClassVar = _UNREAD | {"min_p", "repetition_penalty", "top_a", "top_k", "transforms", "usage"}

    provider: _Preferences | None = None
    reasoning: _Reasoning | None = None


class _OpenAI(_Chat):
    UNREAD: ClassVar = _UNREAD | {
        "prompt_cache_key",
        "safety_identifier",
        "verbosity",
        "logprobs",
        "top_logprobs",
    }


_DIALECTS: Mapping[str, type[_Chat]]
_DIALECTS = {"groq": _Groq, "openrouter": _OpenRouter, "openai-compatible": _OpenAI}


def parse_chat(body: Mapping[str, Any], *, provider: str) -> Ask:
    """Read `POST .../chat/completions` of `provider`, or raise `Refusal` as it would."""
    request = validated(_DIALECTS[provider], body, lambda fault: _refuse_fault(fault, provider))
    if request.stream_options is not None and not request.stream:
        refuse("'stream_options' is only allowed when 'stream' is enabled.", "stream_options")
    _check_format(request, provider)
    if provider == "groq":
        _check_groq(request)
    # OpenRouter's ids name their author; other servers know by their list, which a scenario rules.
    if provider == "openrouter" and not _OPENROUTER_MODEL.fullmatch(request.model):
        raise Refusal(Failure("model_gone", facts={"model": request.model, "never_existed": True}))
    turns = [("system" if m.role == "developer" else m.role, plain(m.content)) for m in request.messages]
    wanted = request.response_format or _ResponseFormat(type="text")
    stop = request.stop if isinstance(request.stop, list) else [request.stop] if request.stop else []
    limit = request.max_tokens if request.max_completion_tokens is None else request.max_completion_tokens
    return Ask.of_turns(
        provider, request.model, turns, max_tokens=limit, stream=bool(request.stream),
        stream_usage=bool(request.stream_options and request.stream_options.include_usage), stop=tuple(stop),
        json_mode=wanted.type != "text", schema=wanted.json_schema.schema_ if wanted.json_schema else None,
        schema_name=wanted.json_schema.name if wanted.json_schema else None,
    )  # fmt: skip


def _refuse_fault(fault: Fault, provider: str) -> NoReturn:
    parent, path = (".".join(map(str, p)) for p in (fault.path[:-1], fault.path))
    name, kind = str(fault.path[-1]) if fault.path else "body", fault.type
    if provider == "groq":
        said = {"extra_forbidden": "is unsupported", "missing": "is missing"}.get(kind)
        text = (
            f"'{parent or 'request'}' : property '{name}' {said}" if said else f"'{path}' : {fault.message}"
        )
        refuse(text, path)
    path = re.sub(r"\.(\d+)", r"[\1]", path)
    if provider == "openrouter":
        missing = "Invalid input: expected a value, received undefined"
        said = {"extra_forbidden": f'Unrecognized key: "{name}"', "missing": missing}.get(kind, fault.message)
        refuse(f"{said} (at {path})", path)
    if kind == "extra_forbidden" and not parent:
        refuse(f"Unrecognized request argument supplied: {name}")
    if kind == "extra_forbidden":
        refuse(f"Unknown parameter: '{path}'.", path, code="unknown_parameter")
    if kind == "missing":
        refuse(f"Missing required parameter: '{path}'.", path, code="missing_required_parameter")
    refuse(f"Invalid '{path}': {fault.message}.", path, code="invalid_value")


def _check_format(request: _Chat, provider: str) -> None:
    wanted = request.response_format or _ResponseFormat(type="text")
    said = any("json" in plain(m.content).lower() for m in request.messages)
    if wanted.type == "json_object" and provider != "openrouter" and not said:
        refuse(
            "'messages' must contain the word 'json' in some form, to use 'response_format' of type 'json_object'.",
            "messages",
        )
    if wanted.type == "json_schema" and wanted.json_schema is None:
        name = "response_format.json_schema"
        refuse(f"'{name}' : is required when 'type' is 'json_schema'", name)


def _check_groq(request: _Chat) -> None:
    """What Groq refuses for some models although the field exists."""
    effort, wanted = request.reasoning_effort, request.response_format
    allowed = ("low", "medium", "high") if "gpt-oss" in request.model else ("none", "default")
    if effort and effort not in allowed:
        refuse(f"`reasoning_effort` must be one of {', '.join(allowed)}", "reasoning_effort")
    if wanted and wanted.type == "json_schema" and not _GROQ_SCHEMA_MODELS.match(request.model):
        refuse("This model does not support response format `json_schema`.", "response_format")
