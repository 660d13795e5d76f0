"""Reads Anthropic Messages requests, and refuses what the API refuses, in its own words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import ValidationError

from tta_dev_primitives.deployments.sandbox.anthropic_body import (
    CountBody,
    DocumentBlock,
    ImageBlock,
    MessagesBody,
    TextBlock,
    Tool,
    ToolResultBlock,
)
from tta_dev_primitives.deployments.sandbox.anthropic_rules import (
    check_limits,
    check_model_rules,
    check_turns,
    model_generation,
)
from tta_dev_primitives.deployments.sandbox.chat import Ask, Failure, Refusal
from tta_dev_primitives.deployments.sandbox.strict import first_fault, refuse

__all__ = ["parse_count", "parse_messages"]

R = TypeVar("R", bound=CountBody)


def parse_messages(body: Mapping[str, Any], *, version: str) -> Ask:
    """Read `POST /v1/messages`, or raise `Refusal` as the API would."""
    request = _validated(MessagesBody, body)
    check_limits(request)
    check_model_rules(request, body, version)
    return _ask(
        request, max_tokens=request.max_tokens, stream=request.stream, stop=request.stop_sequences or []
    )


def parse_count(body: Mapping[str, Any], *, version: str) -> Ask:
    """Read `POST /v1/messages/count_tokens`, or raise `Refusal`."""
    del version  # no field of this request depends on it
    request = _validated(CountBody, body)
    check_turns(request)
    return _ask(request, max_tokens=None, stream=False, stop=[])


def _validated(kind: type[R], body: Mapping[str, Any]) -> R:
    try:
        return kind.model_validate(body)
    except ValidationError as error:
        fault = first_fault(error)
        path = ".".join(map(str, fault.path)) or "body"
        refuse(f"{path}: {fault.message}", path)


def _plain(content: str | list[Any] | None) -> str:
    if content is None or isinstance(content, str):
        return content or ""
    parts = []
    for block in content:
        if isinstance(block, TextBlock):
            parts.append(block.text)
        elif isinstance(block, DocumentBlock):
            parts.append(getattr(block.source, "data", ""))
        elif isinstance(block, ToolResultBlock):
            parts.append(_plain(block.content))
    return "\n".join(parts)


def _ask(request: CountBody, *, max_tokens: int | None, stream: bool, stop: list[str]) -> Ask:
    if not model_generation(request.model)[0]:
        raise Refusal(Failure("model_gone", facts={"model": request.model}))
    texts = [(m.role, _plain(m.content)) for m in request.messages]
    system = "\n".join([_plain(request.system), *(t for role, t in texts if role == "system")]).strip("\n")
    users = [t for role, t in texts if role == "user"]
    tool = _forced_tool(request)
    images = sum(
        isinstance(b, ImageBlock) for m in request.messages if isinstance(m.content, list) for b in m.content
    )
    output = request.output_config.format if request.output_config else None
    return Ask(
        provider="anthropic",
        model=request.model,
        system=system,
        user=users[-1] if users else "",
        transcript="\n".join([system, *(t for role, t in texts if role != "system")]),
        max_tokens=max_tokens,
        stream=stream,
        stop=tuple(stop),
        schema=tool.input_schema if tool else output.schema_ if output else None,
        tool=tool.name if tool else None,
        images=images,
    )


def _forced_tool(request: CountBody) -> Tool | None:
    choice, tools = request.tool_choice, request.tools or []
    if choice is None or choice.type in ("auto", "none") or not tools:
        return None
    return next((t for t in tools if t.name == choice.name), tools[0])
