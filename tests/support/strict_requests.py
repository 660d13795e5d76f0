"""Strict checks of requests: the request types of the official SDKs as JSON Schemas, closed at every level.

The sandbox of the product reads the fields that the product sends. Whether a request of ours is one that the
provider's own types know is asked here.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Iterable, Mapping
from typing import Any

import jsonschema
from pydantic import BaseModel, TypeAdapter

from tta_dev_primitives.deployments.sandbox import Call


@functools.cache
def validator(provider: str) -> jsonschema.Draft202012Validator:
    """The provider's request type as a validator that refuses unknown fields."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecations of the SDKs at import
        schema = _schema(provider)
    _close(schema)
    return jsonschema.Draft202012Validator(schema)


def faults(provider: str, body: Mapping[str, Any]) -> list[str]:
    """What the provider's own request type refuses in `body`, one line each."""
    return [f"{provider}: {e.json_path}: {e.message[:200]}" for e in validator(provider).iter_errors(body)]


def faults_of_calls(calls: Iterable[Call]) -> list[str]:
    """What is wrong with the requests that a sandbox has answered; each form of request is checked once."""
    forms = {
        (call.provider, repr(_form(call.body))): call
        for call in calls
        if call.endpoint == "chat" and call.error != "invalid_request"
    }
    return [fault for call in forms.values() for fault in faults(call.provider, call.body)]


def _form(node: Any) -> Any:
    """Keys and types without the values."""
    if isinstance(node, Mapping):
        return {key: _form(value) for key, value in node.items()}
    return list(map(_form, node)) if isinstance(node, list) else type(node)


def _schema(provider: str) -> dict[str, Any]:
    if provider == "google-ai-studio":
        return _gemini()
    if provider == "anthropic":
        from anthropic.types.message_create_params import MessageCreateParamsBase as Params

        schema = TypeAdapter(Params).json_schema()
        # `temperature` is of API version 2023-06-01, which our requests name; the SDK's types are of the newest.
        older = {"temperature": {"type": "number"}, "stream": {"type": "boolean"}}
        return schema | {"properties": {**older, **schema["properties"]}}
    if provider == "groq":
        from groq.types.chat.completion_create_params import CompletionCreateParams

        return TypeAdapter(CompletionCreateParams).json_schema()
    if provider == "openrouter":
        from openrouter.components import ChatRequest

        return ChatRequest.model_json_schema()
    from openai.types.chat.completion_create_params import CompletionCreateParamsBase

    schema = TypeAdapter(CompletionCreateParamsBase).json_schema()
    return schema | {"properties": {"stream": {"type": "boolean"}, **schema["properties"]}}


def _gemini() -> dict[str, Any]:
    from google.genai import types

    class Generate(BaseModel):
        contents: list[types.Content]
        systemInstruction: types.Content = types.Content()
        generationConfig: types.GenerationConfig = types.GenerationConfig()

    return Generate.model_json_schema()


def _close(node: Any) -> None:
    """Refuse unknown fields wherever fields are named."""
    if isinstance(node, dict):
        if node.get("type") == "object" and "properties" in node:
            node["additionalProperties"] = False
        node = list(node.values())
    if isinstance(node, list):
        for inner in node:
            _close(inner)
