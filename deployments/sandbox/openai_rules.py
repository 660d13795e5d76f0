"""Rules of chat-completion servers that no field type can say: ranges, combinations, what a model can do."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from tta_dev_primitives.deployments.sandbox.openai_body import ChatBody
from tta_dev_primitives.deployments.sandbox.strict import refuse

__all__ = ["check_groq", "check_openrouter", "check_shared"]

_GROQ_SCHEMA_MODELS = re.compile(
    r"^(openai/gpt-oss-|moonshotai/kimi-k2|meta-llama/llama-4-|qwen/qwen3\.[68])"
)
_GROQ_REASONING = re.compile(r"gpt-oss|qwen|deepseek-r1")


def check_shared(request: ChatBody, provider: str) -> None:
    """Ranges and combinations that all chat-completion servers refuse."""
    if not request.messages:
        _bad(provider, "messages", "minimum number of items is 1")
    for name, low, high in (
        ("temperature", 0, 2),
        ("top_p", 0, 1),
        ("frequency_penalty", -2, 2),
        ("presence_penalty", -2, 2),
        ("top_logprobs", 0, 20),
        ("n", 1, 128),
    ):
        value = getattr(request, name)
        if value is not None and not low <= value <= high:
            _bad(provider, name, f"number must be between {low} and {high}")
    for name in ("max_tokens", "max_completion_tokens"):
        value = getattr(request, name)
        if value is not None and value < 1:
            _bad(provider, name, "number must be at least 1")
    if isinstance(request.stop, list) and len(request.stop) > 4:
        _bad(provider, "stop", "maximum number of items is 4")
    if request.stream_options is not None and not request.stream:
        _bad(provider, "stream_options", "is only allowed when 'stream' is enabled")
    if request.tool_choice not in (None, "none") and not request.tools:
        _bad(provider, "tool_choice", "is only allowed when 'tools' are specified")
    _check_format(request, provider)


def _check_format(request: ChatBody, provider: str) -> None:
    wanted = request.response_format
    if wanted is None or wanted.type == "text":
        return
    if wanted.type == "json_object":
        said = " ".join(str(m.content) for m in request.messages)
        if "json" not in said.lower() and provider != "openrouter":
            refuse(
                "'messages' must contain the word 'json' in some form, to use 'response_format' of type "
                "'json_object'.",
                "messages",
            )
        return
    described = wanted.json_schema
    if described.strict and described.schema_ is not None:
        _check_strict(described.schema_, described.name)


def _check_strict(schema: Mapping[str, Any], name: str) -> None:
    """`strict: true` wants closed objects with every property required."""
    stack: list[Any] = [schema]
    while stack:
        node = stack.pop()
        if isinstance(node, list):
            stack.extend(node)
        elif isinstance(node, Mapping):
            properties = node.get("properties")
            if node.get("type") == "object" or isinstance(properties, Mapping):
                properties = properties if isinstance(properties, Mapping) else {}
                where = f"Invalid schema for response_format '{name}': In context=()"
                if node.get("additionalProperties") is not False:
                    refuse(
                        f"{where}, 'additionalProperties' is required to be supplied and to be false.",
                        "response_format",
                    )
                missing = [k for k in properties if k not in (node.get("required") or [])]
                if missing:
                    refuse(
                        f"{where}, 'required' is required to be supplied and to be an array including every "
                        f"key in properties. Missing '{missing[0]}'.",
                        "response_format",
                    )
            stack.extend(v for k, v in node.items() if k not in ("enum", "const", "default", "examples"))


def check_groq(request: ChatBody, body: Mapping[str, Any]) -> None:
    """What Groq refuses although the field exists."""
    for name in ("logprobs", "logit_bias", "top_logprobs"):
        if body.get(name):
            _bad("groq", name, "is not supported with this model")
    if request.n not in (None, 1):
        _bad("groq", "n", "number must be at most 1")
    effort = body.get("reasoning_effort")
    reasons = bool(_GROQ_REASONING.search(request.model))
    if (effort or body.get("reasoning_format") or "include_reasoning" in body) and not reasons:
        refuse(f"reasoning is not supported with this model `{request.model}`", "reasoning_effort")
    if effort and "gpt-oss" in request.model and effort not in ("low", "medium", "high"):
        refuse("`reasoning_effort` must be one of `low`, `medium`, or `high`", "reasoning_effort")
    if effort and "gpt-oss" not in request.model and effort not in ("none", "default"):
        refuse("`reasoning_effort` must be one of `none` or `default`", "reasoning_effort")
    if "gpt-oss" in request.model and body.get("reasoning_format"):
        refuse(
            "`reasoning_format` is not supported with this model, use `include_reasoning`", "reasoning_format"
        )
    if body.get("reasoning_format") and body.get("include_reasoning") is not None:
        refuse("`reasoning_format` and `include_reasoning` are mutually exclusive", "include_reasoning")
    wanted = request.response_format
    if wanted and wanted.type == "json_schema" and not _GROQ_SCHEMA_MODELS.match(request.model):
        refuse(
            f"This model does not support response format `json_schema`. See supported models at "
            f"https://console.groq.com/docs/structured-outputs#supported-models ({request.model})",
            "response_format",
        )
    if wanted and wanted.type == "json_object" and request.stream and request.tools:
        refuse("json mode cannot be combined with tool/function calling", "response_format")


def check_openrouter(request: ChatBody, body: Mapping[str, Any]) -> None:
    """What OpenRouter refuses although the field exists."""
    if not request.model and not body.get("models"):
        refuse("No models provided", "model")
    reasoning = body.get("reasoning") or {}
    if reasoning.get("effort") and reasoning.get("max_tokens") is not None:
        refuse('Only one of "reasoning.effort" and "reasoning.max_tokens" may be specified', "reasoning")
    if reasoning.get("effort") and body.get("reasoning_effort"):
        refuse('Only one of "reasoning.effort" and "reasoning_effort" may be specified', "reasoning")


def _bad(provider: str, name: str, what: str) -> None:
    if provider == "openai-compatible":
        refuse(f"Invalid '{name}': {what}.", name)
    refuse(f"'{name}' : {what}", name)
