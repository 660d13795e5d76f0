"""Structured answers: the schema as each provider wants it, and the instruction for models without the ability."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

__all__ = ["all_required", "inlined", "instruction", "strict_schema", "with_nulls"]

# Kept by constrained decoding everywhere; bounds, patterns and titles are refused by one or another.
_KEPT_KEYS = ("type", "description", "enum", "const", "items", "properties", "required", "anyOf")


def instruction(schema: Mapping[str, Any]) -> str:
    """Words that ask for one JSON object; appended to the system text when the model has no schema mode."""
    return (
        "Answer with exactly one JSON object and nothing else: no code fence, no comment. "
        "It must satisfy this JSON Schema:\n" + json.dumps(schema, ensure_ascii=False, sort_keys=True)
    )


def strict_schema(schema: Mapping[str, Any]) -> dict[str, Any] | None:
    """Rewrite a schema for constrained decoding, or None when it cannot be expressed.

    Every object is closed, references are put in, bounds and titles go: the answer is checked against the full schema
    anyway. Recursion and open objects have no such form (Anthropic: structured outputs, limits).
    """
    plain = inlined(schema)
    return None if plain is None else _closed(plain)


def inlined(schema: Mapping[str, Any]) -> dict[str, Any] | None:
    """The schema with each reference to a part of itself replaced by that part; None when one is recursive."""
    try:
        found = _inlined(schema, schema, ())
    except _RecursiveError:
        return None
    return {key: part for key, part in found.items() if key != "$defs"}


def with_nulls(schema: Mapping[str, Any]) -> dict[str, Any]:
    """A schema without references in which every property is required; one that was optional may be null.

    OpenAI's `strict: true` wants all properties required.
    """
    out = dict(schema)
    if isinstance(out.get("properties"), Mapping):
        required = set(out.get("required") or ())
        inner = {
            key: with_nulls(part) for key, part in out["properties"].items() if isinstance(part, Mapping)
        }
        out["properties"] = {key: part if key in required else _or_null(part) for key, part in inner.items()}
        out["required"] = list(out["properties"])
    if isinstance(out.get("items"), Mapping):
        out["items"] = with_nulls(out["items"])
    for key in ("anyOf", "oneOf", "allOf"):
        if key in out:
            out[key] = [with_nulls(part) if isinstance(part, Mapping) else part for part in out[key]]
    return out


class _RecursiveError(Exception):
    """A part of the schema contains itself."""


def _inlined(root: Mapping[str, Any], part: Any, within: tuple[str, ...]) -> Any:
    if isinstance(part, list):
        return [_inlined(root, each, within) for each in part]
    if not isinstance(part, Mapping):
        return part
    reference = part.get("$ref")
    if not isinstance(reference, str):
        return {
            key: each
            if key in ("enum", "const", "default", "examples", "$defs")
            else _inlined(root, each, within)
            for key, each in part.items()
        }
    if reference in within:
        raise _RecursiveError
    target = _pointed(root, reference)
    beside = {key: each for key, each in part.items() if key != "$ref"}
    return _inlined(root, {**target, **beside}, (*within, reference))


def _pointed(root: Any, reference: str) -> Mapping[str, Any]:
    for step in reference.lstrip("#").split("/")[1:]:
        name = step.replace("~1", "/").replace("~0", "~")
        root = root[int(name)] if isinstance(root, list) else root[name]
    if not isinstance(root, Mapping):
        raise _RecursiveError
    return root


def _closed(schema: Mapping[str, Any]) -> dict[str, Any] | None:
    choices = schema.get("anyOf") or schema.get("oneOf")
    if "allOf" in schema:
        if len(schema["allOf"]) != 1:
            return None
        return _closed({**{k: v for k, v in schema.items() if k != "allOf"}, **schema["allOf"][0]})
    if isinstance(schema.get("type"), list):
        rest = {key: part for key, part in schema.items() if key != "type"}
        choices = [{**(rest if kind != "null" else {}), "type": kind} for kind in schema["type"]]
        schema = {key: schema[key] for key in ("description",) if key in schema}
    out: dict[str, Any] = {k: schema[k] for k in _KEPT_KEYS if k in schema}
    if choices:
        closed = [_closed(part) for part in choices if isinstance(part, Mapping)]
        if not all(closed):
            return None
        return {k: out[k] for k in ("description",) if k in out} | {"anyOf": closed}
    if isinstance(out.get("items"), Mapping):
        out["items"] = _closed(out["items"])
        if out["items"] is None:
            return None
    if out.get("type") == "object" or "properties" in out:
        inner = {k: _closed(v) for k, v in dict(out.get("properties") or {}).items()}
        if not inner or None in inner.values():
            # An open object ("any keys") has no closed form: the instruction says it better.
            return None
        out |= {"type": "object", "properties": inner, "additionalProperties": False}
    return out or None


def _or_null(schema: Mapping[str, Any]) -> dict[str, Any]:
    choices = schema["anyOf"] if set(schema) == {"anyOf"} else [schema]
    return dict(schema) if {"type": "null"} in choices else {"anyOf": [*choices, {"type": "null"}]}


def all_required(schema: Mapping[str, Any]) -> bool:
    """Say whether every object names all its properties as required (OpenAI's `strict: true` wants that)."""
    inner = schema.get("properties")
    if isinstance(inner, Mapping):
        if set(schema.get("required") or ()) != set(inner):
            return False
        if not all(all_required(v) for v in inner.values()):
            return False
    parts = [schema["items"]] if isinstance(schema.get("items"), Mapping) else []
    parts += schema.get("anyOf") or []
    return all(all_required(p) for p in parts)
