"""Reads Anthropic Messages requests, and refuses what the API refuses, with its sentences.

Text, one forced tool and structured output are answered; images, documents and server tools are refused.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, NoReturn

from pydantic import Field

from tta_dev_primitives.deployments.sandbox.chat import Ask, Failure, Refusal
from tta_dev_primitives.deployments.sandbox.requests import Fault, Strict, refuse, validated

_GENERATION = re.compile(r"^claude-(?:opus|sonnet|haiku|fable|mythos)-(\d+)(?:-(\d{1,2}))?(?:-|$)")
_OLD_GENERATION = re.compile(r"^claude-(\d)(?:-(\d))?-(?:opus|sonnet|haiku)")
_MAX_OUTPUT = 128_000
_MOST_MARKS = 4


class _CacheControl(Strict):
    type: Literal["ephemeral"]
    ttl: Literal["5m", "1h"] | None = None


class _Block(Strict):
    cache_control: _CacheControl | None = None


class _Text(_Block):
    UNREAD: ClassVar = frozenset({"citations"})

    type: Literal["text"]
    text: str


class _Message(Strict):
    role: Literal["user", "assistant"]
    content: str | list[_Text]


class _Tool(_Block):
    UNREAD: ClassVar = frozenset({"description", "strict"})

    name: str = Field(pattern=r"^[a-zA-Z0-9_-]{1,128}$")
    input_schema: dict[str, Any]
    type: Literal["custom"] | None = None


class _ToolChoice(Strict):
    UNREAD: ClassVar = frozenset({"disable_parallel_tool_use"})

    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None


class _Format(Strict):
    type: Literal["json_schema"]
    schema_: dict[str, Any] = Field(alias="schema")


class _OutputConfig(Strict):
    effort: Literal["low", "medium", "high", "xhigh", "max"] | None = None
    format: _Format | None = None


class _Thinking(Strict):
    UNREAD: ClassVar = frozenset({"budget_tokens", "display"})

    type: Literal["enabled", "disabled", "adaptive"]


class _Messages(_Block):
    UNREAD: ClassVar = frozenset({"metadata", "service_tier", "inference_geo"})

    model: str
    messages: list[_Message]
    system: str | list[_Text] | None = None
    tools: list[_Tool] | None = None
    tool_choice: _ToolChoice | None = None
    thinking: _Thinking | None = None
    output_config: _OutputConfig | None = None
    max_tokens: int = Field(ge=1)
    stop_sequences: list[str] | None = None
    stream: bool = False
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None


def parse_messages(body: Mapping[str, Any], *, version: str) -> Ask:
    """Read `POST /v1/messages`, or raise `Refusal` as the API would."""
    request = validated(_Messages, body, _refuse_fault)
    if request.max_tokens > _MAX_OUTPUT:
        refuse(
            f"max_tokens: {request.max_tokens} > {_MAX_OUTPUT}, which is the maximum allowed number of "
            f"output tokens for {request.model}",
            "max_tokens",
        )
    for name in ("temperature", "top_p"):
        if (value := getattr(request, name)) is not None and not 0 <= value <= 1:
            refuse(f"{name}: range: 0..1", name)
    if any(not s.strip() for s in request.stop_sequences or []):
        refuse("stop_sequences: each stop sequence must contain non-whitespace", "stop_sequences")
    _check_turns(request)
    _check_sampling(request, body, version)
    return _ask(request)


def _refuse_fault(fault: Fault) -> NoReturn:
    path = ".".join(map(str, fault.path)) or "body"
    refuse(f"{path}: {fault.message}", path)


def _check_turns(request: _Messages) -> None:
    if not request.messages:
        refuse("messages: at least one message is required", "messages")
    for number, message in enumerate(request.messages):
        last = number == len(request.messages) - 1
        if not message.content and not (last and message.role == "assistant"):
            refuse(
                f"messages.{number}: all messages must have non-empty content except for the optional final "
                "assistant message",
                f"messages.{number}",
            )
        if isinstance(message.content, list) and any(not block.text for block in message.content):
            refuse("messages: text content blocks must be non-empty", f"messages.{number}")
    choice, tools = request.tool_choice, {tool.name for tool in request.tools or []}
    if choice and choice.type == "tool" and choice.name not in tools:
        refuse(f"tool_choice: Tool '{choice.name}' not found in provided tools", "tool_choice")
    _check_marks(request)


def _blocks(request: _Messages) -> list[tuple[str, _CacheControl | None]]:
    """Text and mark of each block in the order of the prompt: tools, system, messages."""
    texts: list[str | list[_Text] | None] = [request.system, *(m.content for m in request.messages)]
    blocks = [(tool.model_dump_json(), tool.cache_control) for tool in request.tools or ()]
    for content in texts:
        parts = content if isinstance(content, list) else [_Text(type="text", text=content or "")]
        blocks += [(part.text, part.cache_control) for part in parts]
    if request.cache_control is not None:
        blocks[-1] = blocks[-1][0], request.cache_control
    return blocks


def _check_marks(request: _Messages) -> None:
    marks = [(text, mark) for text, mark in _blocks(request) if mark is not None]
    if len(marks) > _MOST_MARKS:
        refuse(
            f"A maximum of {_MOST_MARKS} blocks with cache_control may be provided. Found {len(marks)}.",
            "cache_control",
        )


def _marked(request: _Messages) -> tuple[tuple[str, Literal["5m", "1h"]], ...]:
    """The prompt up to each mark. The schema of structured output stands before everything else."""
    output = request.output_config.format if request.output_config else None
    text, found = "" if output is None else output.model_dump_json(), []
    for block, mark in _blocks(request):
        text += block + "\n"
        if mark is not None:
            found.append((text, mark.ttl or "5m"))
    return tuple(found)


def _generation(model: str) -> tuple[int, int]:
    """(4, 5) for `claude-sonnet-4-5`; (0, 0) for a name that is no Claude id."""
    found = _GENERATION.match(model) or _OLD_GENERATION.match(model)
    return (int(found[1]), int(found[2] or 0)) if found else (0, 0)


def _check_sampling(request: _Messages, body: Mapping[str, Any], version: str) -> None:
    """Newer models, and the newer version of the API, take no sampling options."""
    for name in ("temperature", "top_p", "top_k"):
        if body.get(name) is not None and version == "2026-10-21":
            refuse(f"{name}: Extra inputs are not permitted", name)
        if body.get(name) is not None and _generation(request.model) >= (4, 7):
            refuse(f"`{name}` is not supported on this model.", name)


def _plain(content: str | list[_Text] | None) -> str:
    return "\n".join(block.text for block in content) if isinstance(content, list) else content or ""


def _ask(request: _Messages) -> Ask:
    if not _generation(request.model)[0]:
        raise Refusal(Failure("model_gone", facts={"model": request.model}))
    system, users = _plain(request.system), [_plain(m.content) for m in request.messages if m.role == "user"]
    choice, tool = request.tool_choice, None
    if choice and choice.type in ("any", "tool") and request.tools:
        tool = next((t for t in request.tools if t.name == choice.name), request.tools[0])
    output = request.output_config.format if request.output_config else None
    return Ask(
        provider="anthropic", model=request.model, system=system, user=users[-1] if users else "",
        transcript="\n".join([system, *(_plain(m.content) for m in request.messages)]),
        max_tokens=request.max_tokens, stream=request.stream,
        stop=tuple(request.stop_sequences or ()), tool=tool.name if tool else None,
        schema=tool.input_schema if tool else output.schema_ if output else None, marked=_marked(request),
    )  # fmt: skip
