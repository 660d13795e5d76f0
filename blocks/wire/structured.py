"""Structured answers: the schema as each provider wants it, and the instruction for models without the ability."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

_GEMINI_LIMITS = frozenset(("minItems", "maxItems", "minimum", "maximum", "additionalProperties"))
_GEMINI_KEYS = _GEMINI_LIMITS | {"type", "format", "title", "description", "enum", "required", "$ref"}
_GEMINI_FORMATS = frozenset(("date", "date-time", "time"))
_NOT_IN_GEMINI = frozenset(("not", "if", "patternProperties", "dependentSchemas", "prefixItems"))

# Kept by constrained decoding everywhere; bounds, patterns and titles are refused by one or another.
_KEPT_KEYS = ("type", "description", "enum", "const", "items", "properties", "required", "anyOf")


def instruction(schema: Mapping[str, Any]) -> str:
    """Words that ask for one JSON object; appended to the system text when the model has no schema mode."""
    return (
        "Answer with exactly one JSON object and nothing else: no code fence, no comment. "
        "It must satisfy this JSON Schema:\n" + json.dumps(schema, ensure_ascii=False, sort_keys=True)
    )


class _NoFormError(Exception):
    """A part of the schema cannot be expressed."""


def strict_schema(schema: Mapping[str, Any]) -> dict[str, Any] | None:
    """Rewrite a schema for constrained decoding, or None when it cannot be expressed.

    Every object is closed, references are put in, bounds and titles go: the answer is checked against the full schema
    anyway. Recursion and open objects have no such form (Anthropic: structured outputs, limits).
    """
    try:
        return _closed(_inlined(schema, schema, ()))
    except _NoFormError:
        return None


def gemini_schema(schema: Mapping[str, Any]) -> dict[str, Any] | None:
    """The part of a schema that Gemini reads, or None when its fields cannot be expressed so.

    What is left out (patterns, lengths, most formats) is checked in the answer.
    """
    try:
        return _gemini(schema)
    except _NoFormError:
        return None


def _gemini(schema: Any) -> dict[str, Any]:
    if not isinstance(schema, Mapping):  # true: anything
        return {}
    if "allOf" in schema:
        return _gemini(_merged(schema))
    if _NOT_IN_GEMINI & set(schema):
        raise _NoFormError
    out: dict[str, Any] = {}
    for key, part in schema.items():
        if key in ("properties", "$defs"):
            out[key] = {name: _gemini(each) for name, each in part.items()}
        elif key in ("anyOf", "oneOf"):
            out[key] = [_gemini(each) for each in part]
        elif key in ("items", "additionalProperties") and isinstance(part, Mapping):
            out[key] = _gemini(part)
        elif key == "const":
            out["enum"] = [part]
        elif key in _GEMINI_KEYS and (key != "format" or part in _GEMINI_FORMATS):
            out[key] = part
    return out


def _merged(schema: Mapping[str, Any]) -> dict[str, Any]:
    """The schema with its one `allOf` part put in."""
    rest = dict(schema)
    first, *others = rest.pop("allOf")
    if others:
        raise _NoFormError
    return {**rest, **first}


def within_limits(
    schema: Mapping[str, Any], *, properties: int, depth: int, choices: int, unions: int
) -> bool:
    """Whether a closed schema is small enough for a provider's constrained decoding; a larger one is refused there."""
    seen = {"properties": 0, "depth": 0, "choices": 0, "unions": 0}

    def count(part: Mapping[str, Any], level: int) -> None:
        seen["depth"] = max(seen["depth"], level)
        seen["choices"] += len(part.get("enum", ()))
        seen["unions"] += "anyOf" in part
        inner = part.get("properties", {})
        seen["properties"] += len(inner)
        below = [*inner.values(), *([part["items"]] if "items" in part else [])]
        for each in below:
            count(each, level + 1)
        for each in part.get("anyOf", ()):
            count(each, level)

    count(schema, 1)
    most = {"properties": properties, "depth": depth, "choices": choices, "unions": unions}
    return all(seen[name] <= limit for name, limit in most.items())


def inlined(schema: Mapping[str, Any]) -> dict[str, Any] | None:
    """The schema with each reference to a part of itself replaced by that part; None when one is recursive."""
    try:
        found = _inlined(schema, schema, ())
    except _NoFormError:
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
    if reference in within:  # a part that contains itself
        raise _NoFormError
    target = _pointed(root, reference)
    beside = {key: each for key, each in part.items() if key != "$ref"}
    return _inlined(root, {**target, **beside}, (*within, reference))


def _pointed(root: Any, reference: str) -> Mapping[str, Any]:
    for step in reference.lstrip("#").split("/")[1:]:
        name = step.replace("~1", "/").replace("~0", "~")
        root = root[int(name)] if isinstance(root, list) else root[name]
    if not isinstance(root, Mapping):
        raise _NoFormError
    return root


def _closed(schema: Mapping[str, Any]) -> dict[str, Any]:
    choices = schema.get("anyOf") or schema.get("oneOf")
    if "allOf" in schema:
        return _closed(_merged(schema))
    if isinstance(schema.get("type"), list):
        rest = {key: part for key, part in schema.items() if key != "type"}
        choices = [{**(rest if kind != "null" else {}), "type": kind} for kind in schema["type"]]
        schema = {key: schema[key] for key in ("description",) if key in schema}
    if isinstance(schema.get("enum"), list) and "type" not in schema and not choices:
        schema, choices = _typed_enum(schema)
    out: dict[str, Any] = {k: schema[k] for k in _KEPT_KEYS if k in schema}
    if "const" in out and "type" not in out and _kind_of(out["const"]):
        out["type"] = _kind_of(out["const"])
    if choices:
        closed = [_closed(part) for part in choices if isinstance(part, Mapping)]
        return {k: out[k] for k in ("description",) if k in out} | {"anyOf": closed}
    if isinstance(out.get("items"), Mapping):
        out["items"] = _closed(out["items"])
    if out.get("type") == "object" or "properties" in out:
        inner = {k: _closed(v) for k, v in dict(out.get("properties") or {}).items()}
        if not inner:  # an open object ("any keys") has no closed form: the instruction says it better
            raise _NoFormError
        out |= {"type": "object", "properties": inner, "additionalProperties": False}
    if not out:
        raise _NoFormError
    return out


_KINDS = {bool: "boolean", int: "integer", float: "number", str: "string", type(None): "null"}


def _kind_of(value: Any) -> str | None:
    return _KINDS.get(type(value))


def _typed_enum(schema: Mapping[str, Any]) -> tuple[Mapping[str, Any], list[dict[str, Any]] | None]:
    """An enum with the type of its values, which strict modes want; one of several types becomes a union."""
    kinds: dict[str | None, list[Any]] = {}
    for value in schema["enum"]:
        kinds.setdefault(_kind_of(value), []).append(value)
    if None in kinds:
        return schema, None
    if len(kinds) == 1:
        return {**schema, "type": next(iter(kinds))}, None
    rest = {key: part for key, part in schema.items() if key != "enum"}
    return rest, [
        {"type": kind} if kind == "null" else {"type": kind, "enum": values} for kind, values in kinds.items()
    ]


def _or_null(schema: Mapping[str, Any]) -> dict[str, Any]:
    if {"type": "null"} in schema.get("anyOf", ()):
        return dict(schema)
    choices = schema["anyOf"] if set(schema) == {"anyOf"} else [schema]
    return {"anyOf": [*choices, {"type": "null"}]}


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
