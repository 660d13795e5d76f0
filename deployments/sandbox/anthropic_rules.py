"""Rules of the Anthropic API that no field type can say: ranges, turns, what a model's generation takes."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from tta_dev_primitives.deployments.sandbox.anthropic_body import CountBody, MessagesBody, TextBlock
from tta_dev_primitives.deployments.sandbox.strict import refuse

__all__ = ["check_limits", "check_model_rules", "check_turns", "model_generation"]

_GENERATION = re.compile(r"^claude-(opus|sonnet|haiku|fable|mythos)-(\d+)(?:-(\d{1,2}))?(?:-|$)")
_OLD_GENERATION = re.compile(r"^claude-(\d)(?:-(\d))?-(opus|sonnet|haiku)")
_MAX_OUTPUT = 128_000


def model_generation(model: str) -> tuple[int, int]:
    """(4, 5) for `claude-sonnet-4-5`; (0, 0) for a name that is no Claude id."""
    if found := _GENERATION.match(model):
        return int(found.group(2)), int(found.group(3) or 0)
    if found := _OLD_GENERATION.match(model):
        return int(found.group(1)), int(found.group(2) or 0)
    return 0, 0


def check_limits(request: MessagesBody) -> None:
    """Ranges of numbers, then the turns."""
    if request.max_tokens < 1:
        refuse("max_tokens: Input should be greater than or equal to 1", "max_tokens")
    if request.max_tokens > _MAX_OUTPUT:
        refuse(
            f"max_tokens: {request.max_tokens} > {_MAX_OUTPUT}, which is the maximum allowed number of "
            f"output tokens for {request.model}",
            "max_tokens",
        )
    if request.temperature is not None and not 0 <= request.temperature <= 1:
        refuse("temperature: range: 0..1", "temperature")
    if request.top_p is not None and not 0 <= request.top_p <= 1:
        refuse("top_p: range: 0..1", "top_p")
    if request.top_k is not None and request.top_k < 0:
        refuse("top_k: Input should be greater than or equal to 0", "top_k")
    if any(not s.strip() for s in request.stop_sequences or []):
        refuse("stop_sequences: each stop sequence must contain non-whitespace", "stop_sequences")
    check_turns(request)


def check_turns(request: CountBody) -> None:
    """Order and content of the messages, and a tool choice without its tool."""
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
        if isinstance(message.content, list):
            for block in message.content:
                if isinstance(block, TextBlock) and not block.text:
                    refuse("messages: text content blocks must be non-empty", f"messages.{number}")
    choice, tools = request.tool_choice, {t.name: t for t in request.tools or []}
    if choice and choice.type != "none" and not tools:
        refuse("tool_choice: may only be specified while providing tools", "tool_choice")
    if choice and choice.type == "tool":
        if choice.name is None:
            refuse("tool_choice.tool.name: Field required", "tool_choice.tool.name")
        if choice.name not in tools:
            refuse(f"tool_choice: Tool '{choice.name}' not found in provided tools", "tool_choice")
    for tool in tools.values():
        if tool.input_schema.get("type") != "object":
            refuse("tools.0.custom.input_schema.type: Field required", "tools")


def check_model_rules(request: MessagesBody, body: Mapping[str, Any], version: str) -> None:
    """What depends on the model's generation and on the version header."""
    sampling = [k for k in ("temperature", "top_p", "top_k") if body.get(k) is not None]
    generation, is_haiku = model_generation(request.model), "haiku" in request.model
    if sampling and version == "2026-10-21":
        refuse(f"{sampling[0]}: Extra inputs are not permitted", sampling[0])
    if sampling and generation >= (4, 7):
        refuse(f"`{sampling[0]}` is not supported on this model.", sampling[0])
    if "temperature" in sampling and "top_p" in sampling and generation >= (4, 5):
        refuse(
            "`temperature` and `top_p` cannot both be specified for this model. Please use only one.", "top_p"
        )
    if request.messages[-1].role == "assistant" and generation >= (4, 6):
        refuse(
            "This model does not support assistant message prefill. The conversation must end with a user "
            "message.",
            "messages",
        )
    config = request.output_config
    if (
        config
        and config.effort
        and (generation < (4, 5) or (generation == (4, 5) and "opus" not in request.model))
    ):
        refuse("This model does not support the effort parameter.", "output_config.effort")
    if config and config.format:
        if generation < (4, 5) or (is_haiku and generation < (4, 5)):
            refuse(f"'{request.model}' does not support output_config.format.", "output_config.format")
        _check_schema(config.format.schema_, "output_config.format.schema")
    _check_thinking(request, generation)


def _check_thinking(request: MessagesBody, generation: tuple[int, int]) -> None:
    thinking = request.thinking
    if thinking is None:
        return
    if thinking.type == "enabled":
        if generation >= (4, 7):
            refuse(
                '"thinking.type.enabled" is not supported for this model. Use "adaptive".', "thinking.type"
            )
        if thinking.budget_tokens is None:
            refuse("thinking.enabled.budget_tokens: Field required", "thinking.budget_tokens")
        if thinking.budget_tokens < 1024:
            refuse(
                "thinking.enabled.budget_tokens: Input should be greater than or equal to 1024",
                "thinking.budget_tokens",
            )
        if thinking.budget_tokens >= request.max_tokens:
            refuse("`max_tokens` must be greater than `thinking.budget_tokens`.", "max_tokens")
        if request.temperature not in (None, 1, 1.0):
            refuse("`temperature` may only be set to 1 when thinking is enabled.", "temperature")
    elif thinking.budget_tokens is not None:
        refuse(
            f"thinking.{thinking.type}.budget_tokens: Extra inputs are not permitted",
            "thinking.budget_tokens",
        )
    if thinking.type in ("adaptive", "between_tools") and (0, 0) < generation < (4, 6):
        refuse(f"{thinking.type} thinking is not supported on this model", "thinking.type")
    if thinking.display and thinking.type in ("disabled", "between_tools"):
        refuse(f"thinking.{thinking.type}.display: Extra inputs are not permitted", "thinking.display")


_UNSUPPORTED = (
    "minimum",
    "maximum",
    "exclusiveMinimum",
    "exclusiveMaximum",
    "multipleOf",
    "minLength",
    "maxLength",
    "maxItems",
    "uniqueItems",
    "minProperties",
    "maxProperties",
    "patternProperties",
)


def _check_schema(schema: Mapping[str, Any], where: str) -> None:
    """Structured output takes a subset of JSON Schema."""
    for node in _objects(schema):
        kind = node.get("type")
        if (kind == "object" or "properties" in node) and node.get("additionalProperties") is not False:
            refuse(
                f"{where}: For 'object' type, 'additionalProperties' must be explicitly set to false",
                where,
            )
        for key in _UNSUPPORTED:
            if key in node and isinstance(kind, (str, list)):
                refuse(f"{where}: For '{kind}' type, property '{key}' is not supported", where)


def _objects(schema: Any) -> Iterator[Mapping[str, Any]]:
    """Each sub-schema, without descending into constants."""
    stack = [schema]
    while stack:
        node = stack.pop()
        if isinstance(node, Mapping):
            yield node
            for key, value in node.items():
                if key in ("properties", "$defs", "definitions") and isinstance(value, Mapping):
                    stack.extend(value.values())
                elif key in ("items", "additionalProperties"):
                    stack.append(value)
                elif key in ("anyOf", "oneOf", "allOf", "prefixItems") and isinstance(value, list):
                    stack.extend(value)
