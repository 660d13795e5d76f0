"""Reads Gemini generateContent requests, and refuses what the API refuses.

Text and structured output are answered; files, functions and Google's own tools are refused.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, NoReturn

from pydantic import ConfigDict, Field
from pydantic.alias_generators import to_camel, to_snake

from tta_dev_primitives.deployments.sandbox.chat import Ask, Failure, Refusal
from tta_dev_primitives.deployments.sandbox.requests import Fault, Strict, refuse, validated

_MODEL = re.compile(r"^(gemini|gemma|learnlm)-[a-z0-9.\-]+$")
_CONFIG = "generation_config"


class _Proto(Strict):
    """Proto JSON takes each field in camelCase and in snake_case."""

    model_config = ConfigDict(alias_generator=to_camel, validate_by_alias=True, validate_by_name=True)


class _Part(_Proto):
    text: str
    thought: bool | None = None
    thought_signature: str | None = None


class _Content(_Proto):
    parts: list[_Part] = Field(min_length=1)
    role: Literal["user", "model"] | None = None


class _ThinkingConfig(_Proto):
    include_thoughts: bool | None = None
    thinking_budget: int | None = None
    thinking_level: Literal["MINIMAL", "LOW", "MEDIUM", "HIGH", "minimal", "low", "medium", "high"] | None = (
        None
    )


class _GenerationConfig(_Proto):
    UNREAD: ClassVar = frozenset(
        f(name)
        for name in ("top_p", "top_k", "candidate_count", "seed", "frequency_penalty", "response_modalities")
        for f in (str, to_camel)
    )

    temperature: float | None = Field(None, ge=0, le=2)
    max_output_tokens: int | None = Field(None, ge=1)
    stop_sequences: list[str] | None = None
    response_mime_type: str | None = None
    response_schema: dict[str, Any] | None = None
    response_json_schema: dict[str, Any] | None = None
    thinking_config: _ThinkingConfig | None = None


class _Generate(_Proto):
    UNREAD: ClassVar = frozenset({"safety_settings", "safetySettings", "labels", "model"})

    contents: list[_Content] = Field(min_length=1)
    system_instruction: _Content | None = None
    generation_config: _GenerationConfig | None = None


def parse_generate(body: Mapping[str, Any], *, model: str, version: str, stream: bool) -> Ask:
    """Read `POST /{version}/models/{model}:generateContent`, or raise `Refusal` as the API would."""
    if not _MODEL.match(model):
        raise Refusal(Failure("model_gone", facts={"model": model, "version": version}))
    request = validated(_Generate, body, _refuse_fault)
    config = request.generation_config or _GenerationConfig()
    mime = config.response_mime_type
    schema: Mapping[str, Any] | None = config.response_json_schema or config.response_schema
    if schema is not None and mime in (None, "", "text/plain"):
        refuse(
            "a response schema requires response_mime_type `application/json`.",
            f"{_CONFIG}.response_mime_type",
        )
    if config.thinking_config and config.thinking_config.thinking_budget == 0 and "2.5-pro" in model:
        refuse("Budget 0 is invalid. This model only works in thinking mode.", f"{_CONFIG}.thinking_config")
    turns = [
        ("system", _text(request.system_instruction)),
        *((c.role or "user", _text(c)) for c in request.contents),
    ]
    return Ask.of_turns(
        "google-ai-studio", model, turns, max_tokens=config.max_output_tokens, stream=stream,
        stop=tuple(config.stop_sequences or ()), json_mode=mime == "application/json", schema=schema,
        schema_name=schema.get("title") if schema and isinstance(schema.get("title"), str) else None,
    )  # fmt: skip


def _text(content: _Content | None) -> str:
    return "\n".join(p.text for p in content.parts if p.text and not p.thought) if content else ""


def _refuse_fault(fault: Fault) -> NoReturn:
    *parents, name = [to_snake(p) if isinstance(p, str) else p for p in fault.path] or ["body"]
    where, path = _dotted(parents), _dotted([*parents, name])
    text = f"Invalid value at '{path}' ({fault.message}), {str(fault.value)[:100]!r}"
    if fault.type == "extra_forbidden":
        at, path = f" at '{where}'" if where else "", where
        text = f'Invalid JSON payload received. Unknown name "{fault.path[-1]}"{at}: Cannot find field.'
    refuse(text, path, violation=text)


def _dotted(parts: list[str | int]) -> str:
    out = ""
    for part in parts:
        out += f"[{part}]" if isinstance(part, int) else f".{part}" if out else part
    return out
