"""Reads chat-completion requests of Groq, OpenRouter and others, and refuses as each does."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NoReturn

from pydantic import ValidationError

from tta_dev_primitives.deployments.sandbox.chat import Ask, Failure, Refusal
from tta_dev_primitives.deployments.sandbox.openai_body import (
    ChatBody,
    Function,
    GroqBody,
    ImagePart,
    JsonSchemaFormat,
    NamedTool,
    OpenAIBody,
    OpenRouterBody,
    TextPart,
)
from tta_dev_primitives.deployments.sandbox.openai_rules import check_groq, check_openrouter, check_shared
from tta_dev_primitives.deployments.sandbox.strict import Fault, first_fault, refuse

__all__ = ["parse_chat"]

_DIALECTS: dict[str, type[ChatBody]] = {
    "groq": GroqBody,
    "openrouter": OpenRouterBody,
    "openai-compatible": OpenAIBody,
}


def parse_chat(body: Mapping[str, Any], *, provider: str) -> Ask:
    """Read `POST .../chat/completions` of `provider`, or raise `Refusal` as it would."""
    try:
        request = _DIALECTS[provider].model_validate(body)
    except ValidationError as error:
        _refuse_fault(first_fault(error), provider)
    check_shared(request, provider)
    if provider == "groq":
        check_groq(request, body)
    elif provider == "openrouter":
        check_openrouter(request, body)
    elif not request.model:
        refuse("you must provide a model parameter", "model")
    return _ask(request, provider)


def _refuse_fault(fault: Fault, provider: str) -> NoReturn:
    path = _path(fault.path, provider)
    name = str(fault.path[-1]) if fault.path else "body"
    if fault.type == "extra_forbidden":
        if provider == "groq":
            parent = _path(fault.path[:-1], provider) or "request"
            refuse(f"'{parent}' : property '{name}' is unsupported", path, schema_kind="additionalProperties")
        if provider == "openrouter":
            refuse(f'Unrecognized key: "{name}" (at {path})', path)
        if len(fault.path) == 1:
            refuse(f"Unrecognized request argument supplied: {name}", None)
        refuse(f"Unknown parameter: '{path}'.", path, code="unknown_parameter")
    if fault.type == "missing":
        if provider == "groq":
            parent = _path(fault.path[:-1], provider) or "request"
            refuse(f"'{parent}' : property '{name}' is missing", path)
        if provider == "openrouter":
            refuse(f"Invalid input: expected a value, received undefined (at {path})", path)
        refuse(f"Missing required parameter: '{path}'.", path, code="missing_required_parameter")
    if provider == "groq":
        refuse(f"'{path}' : {fault.message}", path)
    if provider == "openrouter":
        refuse(f"{fault.message} (at {path})", path)
    refuse(f"Invalid type for '{path}': {fault.message}.", path, code="invalid_type")


def _path(parts: tuple[str | int, ...], provider: str) -> str:
    if provider == "groq":
        return ".".join(map(str, parts))
    return re.sub(r"\.(\d+)", r"[\1]", ".".join(map(str, parts)))


def _text(content: str | list[Any] | None) -> str:
    if content is None or isinstance(content, str):
        return content or ""
    return "\n".join(part.text for part in content if isinstance(part, TextPart))


def _ask(request: ChatBody, provider: str) -> Ask:
    if not _known(request.model, provider):
        raise Refusal(Failure("model_gone", facts={"model": request.model, "never_existed": True}))
    texts = [(m.role, _text(m.content)) for m in request.messages]
    users = [t for role, t in texts if role == "user"]
    system = "\n".join(t for role, t in texts if role in ("system", "developer"))
    wanted = request.response_format
    schema_format = wanted.json_schema if isinstance(wanted, JsonSchemaFormat) else None
    tool = _forced(request)
    stop = request.stop if isinstance(request.stop, list) else [request.stop] if request.stop else []
    limits = [m for m in (request.max_completion_tokens, request.max_tokens) if m is not None]
    return Ask(
        provider=provider,
        model=request.model,
        system=system,
        user=users[-1] if users else "",
        transcript="\n".join(t for _, t in texts),
        max_tokens=limits[0] if limits else None,
        stream=bool(request.stream),
        stream_usage=bool(request.stream_options and request.stream_options.include_usage),
        stop=tuple(stop),
        json_mode=wanted is not None and wanted.type != "text",
        schema=tool.parameters or {"type": "object"}
        if tool
        else schema_format.schema_
        if schema_format
        else None,
        schema_name=schema_format.name if schema_format else None,
        tool=tool.name if tool else None,
        images=sum(
            isinstance(p, ImagePart)
            for m in request.messages
            if isinstance(m.content, list)
            for p in m.content
        ),
    )


def _known(model: str, provider: str) -> bool:
    """OpenRouter's ids name their author; other servers tell by their list, which a scenario rules."""
    return bool(re.fullmatch(r"~?[\w.\-]+/[\w.\-]+(:[\w.\-]+)?", model)) if provider == "openrouter" else True


def _forced(request: ChatBody) -> Function | None:
    functions = {t.function.name: t.function for t in request.tools or []}
    choice = request.tool_choice
    if isinstance(choice, NamedTool):
        return functions.get(choice.function.name)
    return next(iter(functions.values()), None) if choice == "required" else None
