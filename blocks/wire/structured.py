"""Structured answers: the schema as each provider wants it, the instruction for models without the ability,
and the strict parser for what comes back.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

__all__ = [
    "AnswerFormatError",
    "all_required",
    "inlined",
    "instruction",
    "parse_json_answer",
    "strict_schema",
    "with_nulls",
]

_MAX_CHARS = 262_144
_MAX_DEPTH = 20
_FENCE = re.compile(r"\A```[A-Za-z0-9_-]*[ \t]*\n(.*)\n[ \t]*```\Z", re.DOTALL)
_THOUGHTS = re.compile(r"\A<think>.*?</think>", re.DOTALL)

# Kept by constrained decoding everywhere; bounds, patterns and titles are refused by one or another.
_KEPT_KEYS = ("type", "description", "enum", "const", "items", "properties", "required", "anyOf")


class AnswerFormatError(ValueError):
    """The answer is not the one JSON object that was asked for; the text says what is wrong with it."""


def instruction(schema: Mapping[str, Any]) -> str:
    """Words that ask for one JSON object; appended to the system text when the model has no schema mode."""
    return (
        "Answer with exactly one JSON object and nothing else: no code fence, no comment. "
        "It must satisfy this JSON Schema:\n" + json.dumps(schema, ensure_ascii=False, sort_keys=True)
    )


def parse_json_answer(text: str) -> dict[str, Any]:
    """Read the one JSON object that an answer consists of; a single code fence around it is accepted.

    Strict, because verdicts and plans decide about money: duplicate keys, NaN, Infinity, anything beside the
    object, more than 256 KiB or 20 levels are refused. Fractions come back as `float`.

    Raises:
        AnswerFormatError: With a one-line reason that can be shown to the model.
    """
    if len(text) > _MAX_CHARS:
        raise AnswerFormatError(f"the answer is longer than {_MAX_CHARS} characters")
    body = _THOUGHTS.sub("", text.strip()).strip()
    fenced = _FENCE.match(body)
    if fenced:
        body = fenced[1].strip()
    if not body:
        raise AnswerFormatError("the answer is empty")
    if _depth(body) > _MAX_DEPTH:
        raise AnswerFormatError(f"the JSON is nested more than {_MAX_DEPTH} levels deep")
    try:
        value = json.loads(body, object_pairs_hook=_unique, parse_constant=_refuse, parse_float=_finite)
    except AnswerFormatError:
        raise
    except json.JSONDecodeError as error:
        raise AnswerFormatError(f"not one JSON object: {error.msg} at character {error.pos}") from None
    except (ValueError, RecursionError):
        raise AnswerFormatError("not one JSON object: a number is too long") from None
    if not isinstance(value, dict):
        raise AnswerFormatError(f"expected a JSON object, got {type(value).__name__}")
    return value


def _depth(text: str) -> int:
    """Count nesting without recursion; brackets inside strings do not count."""
    level = deepest = 0
    quoted = escaped = False
    for char in text:
        if quoted:
            if escaped:
                escaped = False
            elif char == "\\":
                escaped = True
            elif char == '"':
                quoted = False
        elif char == '"':
            quoted = True
        elif char in "{[":
            level += 1
            deepest = max(deepest, level)
        elif char in "}]":
            level -= 1
    return deepest


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise AnswerFormatError(f"the key {key[:40]!r} stands twice")
        found[key] = value
    return found


def _refuse(name: str) -> Any:
    raise AnswerFormatError(f"{name} is not a JSON number")


def _finite(text: str) -> float:
    value = float(text)
    if value in (float("inf"), float("-inf")) or (value == 0.0 and Decimal(text) != 0):
        raise AnswerFormatError(f"the number {text[:40]} is out of range")
    return value


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
