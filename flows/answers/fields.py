"""Typed answers compared field by field: which fields agree, which are disputed, and a schema of only these. Pure.

A field is a path of object keys, such as `customer.city`; an array is one field. Closed fields are compared in a
canonical form: numbers and booleans exactly, dates as ISO dates, short texts without differences of Unicode form and
white space, arrays of those in order (as sets when the schema says `uniqueItems`). Long text is open and is not
compared.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any, Literal

from tta_dev_primitives.flows.answers.json_schema import referred, takes_null
from tta_dev_primitives.flows.answers.numbers import number_form

FieldStatus = Literal["agreed", "disputed", "unchecked"]

_SHORT_CHARS = 80
_SHORT_WORDS = 6
_MAX_DEPTH = 20

Form = str | None
"""The canonical form of a closed field; None: open text."""


def forms_of(schema: Mapping[str, Any], data: Any) -> dict[str, Form]:
    """The canonical form of every field of an object; an absent optional field equals null."""
    return dict(_fields(schema, schema, data, "", 0))


def field_paths(schema: Mapping[str, Any]) -> list[str]:
    """The paths of the fields that an object's schema names, in its order; none for data that is no object."""
    return list(_paths(schema, schema, "", 0))


def cut_schema(schema: Mapping[str, Any], paths: Sequence[str]) -> dict[str, Any]:
    """The schema of an object that has only the fields at `paths`; what was optional stays so."""
    cut = _cut(schema, schema, [path.split(".") for path in paths])
    return cut | ({"$defs": schema["$defs"]} if "$defs" in schema else {})


def value_at(data: Any, path: str) -> Any:
    """The value of a field; None where an object on the way is absent."""
    for key in [path] if isinstance(data, Mapping) and path in data else path.split("."):
        data = data.get(key) if isinstance(data, Mapping) else None
    return data


def with_field(data: Mapping[str, Any], path: str, source: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of an object whose field at `path` is that of `source`, or absent as it is there."""
    key, _, rest = path.partition(".")
    if key not in source:
        return {name: value for name, value in data.items() if name != key}
    if not rest or not isinstance(source[key], Mapping):
        return {**data, key: source[key]}
    inner = data.get(key)
    return {**data, key: with_field(inner if isinstance(inner, Mapping) else {}, rest, source[key])}


def _resolved(root: Mapping[str, Any], schema: Any) -> Mapping[str, Any]:
    for _ in range(_MAX_DEPTH):
        if not isinstance(schema, Mapping):
            return {}
        if "$ref" in schema:
            schema = referred(root, str(schema["$ref"]))
            continue
        choices = [c for c in schema.get("anyOf") or schema.get("oneOf") or [] if c != {"type": "null"}]
        if len(choices) == 1:  # an optional field
            schema = choices[0]
            continue
        return schema
    return {}


def _properties(root: Mapping[str, Any], schema: Any) -> Mapping[str, Any]:
    inner = _resolved(root, schema).get("properties")
    return inner if isinstance(inner, Mapping) else {}


def _paths(root: Mapping[str, Any], schema: Any, path: str, depth: int) -> Iterator[str]:
    inner = _properties(root, schema)
    if not inner or depth > _MAX_DEPTH:
        yield from [path] if path else []
        return
    for key, part in inner.items():
        below = f"{path}.{key}" if path else str(key)
        if "." in str(key):
            yield below
        else:
            yield from _paths(root, part, below, depth + 1)


def _fields(
    root: Mapping[str, Any], schema: Any, data: Any, path: str, depth: int
) -> Iterator[tuple[str, Form]]:
    inner = _properties(root, schema)
    if not isinstance(data, Mapping) or depth > _MAX_DEPTH or (path and not inner):
        yield path, _form(_resolved(root, schema), data)
        return
    for key in dict.fromkeys([*inner, *data]):
        below = f"{path}.{key}" if path else str(key)
        if "." in str(key):  # such a key has no path of its own: the object stays one field
            yield below, _form({}, data.get(key))
        else:
            yield from _fields(root, inner.get(key, {}), data.get(key), below, depth + 1)


def _form(schema: Mapping[str, Any], value: Any) -> Form:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float | Decimal):
        return _number(Decimal(str(value)))
    if isinstance(value, str):
        return _text(schema, value)
    if isinstance(value, Mapping):
        parts = {str(key): _form({}, part) for key, part in value.items() if part is not None}
        return None if None in parts.values() else json.dumps(parts, sort_keys=True, ensure_ascii=False)
    items = [_form({}, part) for part in value]
    if None in items:
        return None
    return json.dumps(sorted(items, key=str) if schema.get("uniqueItems") else items, ensure_ascii=False)


def _number(value: Decimal) -> str:
    return f"{value.normalize():f}" if value else "0"


def _text(schema: Mapping[str, Any], text: str) -> Form:
    if "enum" in schema or "const" in schema:
        return text
    tidy = " ".join(unicodedata.normalize("NFKC", text).split())
    if schema.get("format") in ("date", "date-time"):
        return _moment(tidy)
    if len(tidy) > _SHORT_CHARS or len(tidy.split()) > _SHORT_WORDS:
        return None
    return number_form(tidy) or tidy


def _moment(text: str) -> str:
    try:
        if "T" not in text.upper():
            return date.fromisoformat(text).isoformat()
        moment = datetime.fromisoformat(text)
        return (moment.astimezone(UTC) if moment.tzinfo is not None else moment).isoformat()
    except ValueError:
        return text


def _cut(root: Mapping[str, Any], schema: Any, paths: Sequence[Sequence[str]]) -> dict[str, Any]:
    inner = _properties(root, schema)
    below: dict[str, list[Sequence[str]]] = {}
    for head, *rest in paths:
        below.setdefault(head, []).append(rest)
    properties = {
        key: _cut_or_null(root, inner.get(key, {}), rests) if all(rests) else inner.get(key, {})
        for key, rests in below.items()
    }
    required = _resolved(root, schema).get("required")
    return {
        "type": "object",
        "properties": properties,
        "required": [key for key in properties if isinstance(required, list) and key in required],
        "additionalProperties": False,
    }


def _cut_or_null(root: Mapping[str, Any], schema: Any, paths: Sequence[Sequence[str]]) -> dict[str, Any]:
    cut = _cut(root, schema, paths)
    return {"anyOf": [cut, {"type": "null"}]} if takes_null(root, schema) else cut
