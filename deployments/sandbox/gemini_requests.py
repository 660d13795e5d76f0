"""Gemini generateContent requests: what the API takes, and what it refuses in its own words."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, NoReturn

from pydantic import BeforeValidator, Field, ValidationError
from pydantic.alias_generators import to_snake

from tta_dev_primitives.deployments.sandbox.chat import Ask, Failure, Refusal
from tta_dev_primitives.deployments.sandbox.strict import Fault, Proto, first_fault, refuse

__all__ = ["parse_generate"]

_MODEL = re.compile(r"^(gemini|gemma|learnlm)-[a-z0-9.\-]+$")
_SCHEMA_FIELDS = frozenset(
    [
        "type",
        "format",
        "title",
        "description",
        "nullable",
        "enum",
        "items",
        "maxItems",
        "minItems",
        "properties",
        "required",
        "minProperties",
        "maxProperties",
        "minimum",
        "maximum",
        "minLength",
        "maxLength",
        "pattern",
        "example",
        "anyOf",
        "propertyOrdering",
        "default",
        "additionalProperties",
        "$ref",
        "$defs",
        "ref",
        "defs",
    ]
)
_TYPES = {"STRING", "NUMBER", "INTEGER", "BOOLEAN", "ARRAY", "OBJECT", "NULL", "TYPE_UNSPECIFIED"}


def _listed(value: Any) -> Any:
    """Proto JSON takes one object where a repeated field is expected."""
    return [value] if isinstance(value, dict) else value


class _InlineData(Proto):
    mime_type: str
    data: str


class _FileData(Proto):
    mime_type: str | None = None
    file_uri: str


class _FunctionCall(Proto):
    name: str
    args: dict[str, Any] | None = None
    id: str | None = None


class _FunctionResponse(Proto):
    name: str
    response: dict[str, Any]
    id: str | None = None
    will_continue: bool | None = None
    scheduling: str | None = None


class _Part(Proto):
    text: str | None = None
    thought: bool | None = None
    thought_signature: str | None = None
    inline_data: _InlineData | None = None
    file_data: _FileData | None = None
    function_call: _FunctionCall | None = None
    function_response: _FunctionResponse | None = None
    video_metadata: dict[str, Any] | None = None


_Parts = Annotated[list[_Part], BeforeValidator(_listed)]


class _Content(Proto):
    parts: _Parts = Field(default_factory=list)
    role: str | None = None


class _ThinkingConfig(Proto):
    include_thoughts: bool | None = None
    thinking_budget: int | None = None
    thinking_level: (
        Literal[
            "THINKING_LEVEL_UNSPECIFIED",
            "MINIMAL",
            "LOW",
            "MEDIUM",
            "HIGH",
            "XHIGH",
            "low",
            "high",
            "minimal",
            "medium",
        ]
        | None
    ) = None


class _GenerationConfig(Proto):
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | float | None = None
    candidate_count: int | None = None
    max_output_tokens: int | None = None
    stop_sequences: list[str] | None = None
    seed: int | None = None
    response_mime_type: str | None = None
    response_schema: dict[str, Any] | None = None
    response_json_schema: dict[str, Any] | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    response_logprobs: bool | None = None
    logprobs: int | None = None
    response_modalities: list[Literal["MODALITY_UNSPECIFIED", "TEXT", "IMAGE", "AUDIO"]] | None = None
    media_resolution: str | None = None
    thinking_config: _ThinkingConfig | None = None
    enable_enhanced_civic_answers: bool | None = None


class _SafetySetting(Proto):
    category: str = Field(pattern=r"^HARM_CATEGORY_[A-Z_]+$")
    threshold: Literal[
        "HARM_BLOCK_THRESHOLD_UNSPECIFIED",
        "BLOCK_LOW_AND_ABOVE",
        "BLOCK_MEDIUM_AND_ABOVE",
        "BLOCK_ONLY_HIGH",
        "BLOCK_NONE",
        "OFF",
    ]


class _FunctionDeclaration(Proto):
    name: str = Field(pattern=r"^[a-zA-Z_][a-zA-Z0-9_.:\-]{0,63}$")
    description: str | None = None
    parameters: dict[str, Any] | None = None
    parameters_json_schema: dict[str, Any] | None = None
    response: dict[str, Any] | None = None
    response_json_schema: dict[str, Any] | None = None
    behavior: str | None = None


class _Tool(Proto):
    function_declarations: Annotated[list[_FunctionDeclaration], BeforeValidator(_listed)] | None = None


class _FunctionCallingConfig(Proto):
    mode: Literal["MODE_UNSPECIFIED", "AUTO", "ANY", "NONE", "VALIDATED"] | None = None
    allowed_function_names: list[str] | None = None


class _ToolConfig(Proto):
    function_calling_config: _FunctionCallingConfig | None = None
    include_server_side_tool_invocations: bool | None = None


class _Generate(Proto):
    model: str | None = None
    contents: Annotated[list[_Content], BeforeValidator(_listed)] = Field(default_factory=list)
    system_instruction: _Content | None = None
    generation_config: _GenerationConfig | None = None
    safety_settings: Annotated[list[_SafetySetting], BeforeValidator(_listed)] | None = None
    tools: Annotated[list[_Tool], BeforeValidator(_listed)] | None = None
    tool_config: _ToolConfig | None = None
    cached_content: str | None = None
    service_tier: str | None = None
    store: bool | None = None


def parse_generate(body: Mapping[str, Any], *, model: str, version: str, stream: bool) -> Ask:
    """Read `models/{model}:generateContent`, or raise `Refusal` as the API would.

    `version` is `v1` or `v1beta`: aliases that end in `-latest` are known to v1beta only.
    """
    if not _MODEL.match(model) or (model.endswith("-latest") and version == "v1"):
        raise Refusal(Failure("model_gone", facts={"model": model, "version": version}))
    try:
        request = _Generate.model_validate(body)
    except ValidationError as error:
        _refuse_fault(first_fault(error))
    if not request.contents:
        refuse("* GenerateContentRequest.contents: contents is not specified\n", "contents")
    for number, content in enumerate(request.contents):
        _check_content(number, content)
    if request.cached_content:
        raise Refusal(Failure("forbidden", "CachedContent not found (or permission denied)"))
    config = request.generation_config or _GenerationConfig()
    _check_config(config, model)
    return _ask(request, config, model, stream)


def _refuse_fault(fault: Fault) -> NoReturn:
    *parents, name = [to_snake(p) if isinstance(p, str) else p for p in fault.path] or ["body"]
    where = _dotted(parents)
    at = f" at '{where}'" if where else ""
    if fault.type == "extra_forbidden":
        text = f'Invalid JSON payload received. Unknown name "{fault.path[-1]}"{at}: Cannot find field.'
        refuse(text, where, violation=text)
    path = _dotted([*parents, name])
    text = f"Invalid value at '{path}' ({fault.message}), {str(fault.value)[:100]!r}"
    if fault.type == "missing":
        text = f"* GenerateContentRequest.{path}: required field must be initialized\n"
    refuse(text, path, violation=text)


def _dotted(parts: list[str | int]) -> str:
    out = ""
    for part in parts:
        out += f"[{part}]" if isinstance(part, int) else f".{part}" if out else part
    return out


def _check_content(number: int, content: _Content) -> None:
    if content.role not in (None, "user", "model", "function"):
        refuse("Please use a valid role: user, model.", f"contents[{number}].role")
    where = f"contents[{number}].parts"
    if not content.parts:
        refuse(f"* GenerateContentRequest.{where}: contents.parts must not be empty.\n", where)
    for index, part in enumerate(content.parts):
        data = [part.text, part.inline_data, part.file_data, part.function_call, part.function_response]
        if sum(d is not None for d in data) != 1:
            refuse(
                f"* GenerateContentRequest.{where}[{index}].data: required oneof field 'data' must have one "
                "initialized field\n",
                f"{where}[{index}]",
            )
        if part.inline_data:
            try:
                base64.b64decode(part.inline_data.data, validate=True)
            except binascii.Error:
                refuse(
                    f"Invalid value at '{where}[{index}].inline_data.data' (TYPE_BYTES), Base64 decoding "
                    "failed"
                )


def _check_config(config: _GenerationConfig, model: str) -> None:
    def within(name: str, value: float | None, low: float, high: float) -> None:
        if value is not None and not low <= value <= high:
            refuse(
                f"* GenerateContentRequest.generation_config.{name}: {name} must be in the range "
                f"[{low:.1f}, {high:.1f}].\n",
                f"generation_config.{name}",
            )

    within("temperature", config.temperature, 0, 2)
    within("top_p", config.top_p, 0, 1)
    within("candidate_count", config.candidate_count, 1, 1)
    if config.max_output_tokens is not None and config.max_output_tokens < 1:
        refuse("max_output_tokens must be positive.", "generation_config.max_output_tokens")
    if len(config.stop_sequences or []) > 5:
        refuse("The number of stop sequences must be at most 5.", "generation_config.stop_sequences")
    mime = config.response_mime_type
    if mime not in (None, "", "text/plain", "application/json", "text/x.enum"):
        refuse(
            "* GenerateContentRequest.generation_config.response_mime_type: allowed mimetypes are "
            "`text/plain`, `application/json`, `application/xml`, `application/yaml` and `text/x.enum`.\n",
            "generation_config.response_mime_type",
        )
    schemas = (config.response_schema, config.response_json_schema)
    if any(s is not None for s in schemas) and mime in (None, "", "text/plain"):
        refuse(
            "Function calling config or response schema is set without response_mime_type: a response schema "
            "requires response_mime_type `application/json`.",
            "generation_config.response_mime_type",
        )
    if all(s is not None for s in schemas):
        refuse("Only one of response_schema and response_json_schema can be set.", "generation_config")
    if config.response_schema is not None:
        _check_schema(config.response_schema)
    _check_thinking(config, model)


def _check_thinking(config: _GenerationConfig, model: str) -> None:
    thinking = config.thinking_config
    if thinking is None:
        return
    budget, level = thinking.thinking_budget, thinking.thinking_level
    third = model.startswith("gemini-3")
    if model.startswith(("gemini-1", "gemini-2.0", "gemma-")):
        refuse("Thinking is not enabled for this model.", "generation_config.thinking_config")
    if level is not None and not third:
        refuse("Thinking level is not supported for this model.", "generation_config.thinking_config")
    if level is not None and budget is not None:
        refuse(
            "You can only set one of thinking_budget and thinking_level.", "generation_config.thinking_config"
        )
    if budget is None:
        return
    if budget == 0 and model.startswith("gemini-2.5-pro"):
        refuse(
            "Budget 0 is invalid. This model only works in thinking mode.",
            "generation_config.thinking_config",
        )
    low, high = (128, 32768) if "pro" in model else (512, 24576) if "lite" in model else (0, 24576)
    if budget not in (-1, 0) and not low <= budget <= high:
        refuse(
            f"The thinking budget {budget} is invalid. Please choose a value between {low} and {high}.",
            "generation_config.thinking_config",
        )


def _check_schema(schema: Mapping[str, Any]) -> None:
    """`responseSchema` is an OpenAPI subset, not JSON Schema."""
    for path, node in _nodes(schema, "generation_config.response_schema"):
        for key in node:
            if key not in _SCHEMA_FIELDS and _camel(key) not in _SCHEMA_FIELDS:
                text = (
                    f"Invalid JSON payload received. Unknown name \"{key}\" at '{path}': Cannot find field."
                )
                refuse(text, path, violation=text)
        kind = node.get("type")
        if kind is not None and (not isinstance(kind, str) or kind.upper() not in _TYPES):
            refuse(
                f"Invalid value at '{path}.type' "
                f"(type.googleapis.com/google.ai.generativelanguage.v1beta.Type), {kind!r}",
                path,
            )


def _camel(key: str) -> str:
    """`max_items` -> `maxItems`."""
    head, *rest = key.split("_")
    return head + "".join(w.title() for w in rest)


def _nodes(schema: Mapping[str, Any], path: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    stack: list[tuple[str, Any]] = [(path, schema)]
    while stack:
        where, node = stack.pop()
        if not isinstance(node, Mapping):
            continue
        yield where, node
        for key, value in node.items():
            if key in ("properties", "$defs", "defs") and isinstance(value, Mapping):
                stack.extend((f"{where}.{key}[{n}].value", v) for n, v in enumerate(value.values()))
            elif key == "items":
                stack.append((f"{where}.items", value))
            elif key in ("anyOf", "any_of") and isinstance(value, list):
                stack.extend((f"{where}.any_of[{n}]", v) for n, v in enumerate(value))


def _text(content: _Content | None) -> str:
    return "\n".join(p.text for p in content.parts if p.text and not p.thought) if content else ""


def _ask(request: _Generate, config: _GenerationConfig, model: str, stream: bool) -> Ask:
    system = _text(request.system_instruction)
    users = [_text(c) for c in request.contents if c.role in (None, "user")]
    forced = _forced(request)
    schema: Mapping[str, Any] | None = config.response_json_schema or config.response_schema
    if forced:
        schema = forced.parameters_json_schema or forced.parameters or {"type": "object"}
    return Ask(
        provider="google-ai-studio",
        model=model,
        system=system,
        user=users[-1] if users else "",
        transcript="\n".join([system, *(_text(c) for c in request.contents)]),
        max_tokens=config.max_output_tokens,
        stream=stream,
        stop=tuple(config.stop_sequences or ()),
        json_mode=config.response_mime_type == "application/json",
        schema=schema,
        schema_name=schema.get("title") if schema and isinstance(schema.get("title"), str) else None,
        tool=forced.name if forced else None,
        images=sum(p.inline_data is not None for c in request.contents for p in c.parts),
    )


def _forced(request: _Generate) -> _FunctionDeclaration | None:
    calling = request.tool_config.function_calling_config if request.tool_config else None
    declared = [f for t in request.tools or [] for f in t.function_declarations or []]
    if calling is None or calling.mode != "ANY" or not declared:
        return None
    allowed = calling.allowed_function_names or [f.name for f in declared]
    return next((f for f in declared if f.name in allowed), None)
