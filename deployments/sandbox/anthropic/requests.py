"""Reads Anthropic Messages requests, and refuses what the API refuses.

Text, one forced tool and structured output are answered; images, documents and server tools are refused.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, NoReturn

from pydantic import Field

from tta_dev_primitives.deployments.sandbox.chat import Ask, Failure, Refusal
from tta_dev_primitives.deployments.sandbox.requests import Fault, Strict, plain, refuse, validated

_GENERATION = re.compile(r"^claude-(?:opus|sonnet|haiku|fable|mythos)-(\d+)(?:-(\d{1,2}))?(?:-|$)")
_OLD_GENERATION = re.compile(r"^claude-(\d)(?:-(\d))?-(?:opus|sonnet|haiku)")
_MOST_MARKS = 4


class _CacheControl(Strict):
    type: Literal["ephemeral"]
    ttl: Literal["5m", "1h"] | None = None


class _Block(Strict):
    cache_control: _CacheControl | None = None


class _Text(_Block):
    UNREAD: ClassVar = frozenset({"citations"})

    type: Literal["text"]
    text: str = Field(min_length=1)


class _Message(Strict):
    role: Literal["user", "assistant"]
    content: Annotated[str | list[_Text], Field(min_length=1)]


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
    messages: list[_Message] = Field(min_length=1)
    system: str | list[_Text] | None = None
    tools: list[_Tool] | None = None
    tool_choice: _ToolChoice | None = None
    thinking: _Thinking | None = None
    output_config: _OutputConfig | None = None
    max_tokens: int = Field(ge=1, le=128_000)
    stop_sequences: list[Annotated[str, Field(pattern=r"\S")]] | None = None
    stream: bool = False
    temperature: float | None = Field(None, ge=0, le=1)
    top_p: float | None = Field(None, ge=0, le=1)
    top_k: int | None = None


def parse_messages(body: Mapping[str, Any], *, version: str) -> Ask:
    """Read `POST /v1/messages`, or raise `Refusal` as the API would."""
    request = validated(_Messages, body, _refuse_fault)
    _check_sampling(request, version)
    return _ask(request)


def _refuse_fault(fault: Fault) -> NoReturn:
    path = ".".join(map(str, fault.path)) or "body"
    refuse(f"{path}: {fault.message}", path)


def _blocks(request: _Messages) -> list[tuple[str, _CacheControl | None]]:
    """Text and mark of each block in the order of the prompt: tools, system, messages."""
    texts: list[str | list[_Text] | None] = [request.system, *(m.content for m in request.messages)]
    blocks: list[tuple[str, _CacheControl | None]] = []
    blocks += [(tool.model_dump_json(), tool.cache_control) for tool in request.tools or ()]
    for content in texts:
        parts = content if isinstance(content, list) else ()
        blocks += [(part.text, part.cache_control) for part in parts] or [(plain(content), None)]
    if request.cache_control is not None:
        blocks[-1] = blocks[-1][0], request.cache_control
    return blocks


def _marked(request: _Messages) -> tuple[tuple[str, Literal["5m", "1h"]], ...]:
    """The prompt up to each mark. The schema of structured output stands before everything else."""
    output = request.output_config.format if request.output_config else None
    text, found = "" if output is None else output.model_dump_json(), []
    for block, mark in _blocks(request):
        text += block + "\n"
        if mark is not None:
            found.append((text, mark.ttl or "5m"))
    if len(found) > _MOST_MARKS:
        words = f"A maximum of {_MOST_MARKS} blocks with cache_control may be provided. Found {len(found)}."
        refuse(words, "cache_control")
    return tuple(found)


def _generation(model: str) -> tuple[int, int]:
    """(4, 5) for `claude-sonnet-4-5`; (0, 0) for a name that is no Claude id."""
    found = _GENERATION.match(model) or _OLD_GENERATION.match(model)
    return (int(found[1]), int(found[2] or 0)) if found else (0, 0)


def _check_sampling(request: _Messages, version: str) -> None:
    """Newer models, and the newer version of the API, take no sampling options."""
    for name in ("temperature", "top_p", "top_k"):
        if getattr(request, name) is not None and version == "2026-10-21":
            refuse(f"{name}: Extra inputs are not permitted", name)
        if getattr(request, name) is not None and _generation(request.model) >= (4, 7):
            refuse(f"`{name}` is not supported on this model.", name)


def _ask(request: _Messages) -> Ask:
    if not _generation(request.model)[0]:
        raise Refusal(Failure("model_gone", facts={"model": request.model}))
    choice, tool = request.tool_choice, None
    if choice and choice.type in ("any", "tool"):
        tool = next((t for t in request.tools or () if choice.type == "any" or t.name == choice.name), None)
        if tool is None:
            refuse(f"tool_choice: Tool '{choice.name}' not found in provided tools", "tool_choice")
    output = request.output_config.format if request.output_config else None
    turns = [("system", plain(request.system)), *((m.role, plain(m.content)) for m in request.messages)]
    return Ask.of_turns(
        "anthropic", request.model, turns, max_tokens=request.max_tokens, stream=request.stream,
        stop=tuple(request.stop_sequences or ()), tool=tool.name if tool else None,
        schema=tool.input_schema if tool else output.schema_ if output else None, marked=_marked(request),
    )  # fmt: skip
