"""JSON Schemas that a caller gives: what is refused before anything is spent, and parts of them. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tta_dev_primitives.config.errors import ConfigError
from tta_dev_primitives.flows.answers.linear_patterns import pattern_fault

MAX_SCHEMA_BYTES = 65_536
_MAX_DEPTH = 40
_REFERENCES = ("$dynamicRef", "$recursiveRef")
_ONE_OF = ("anyOf", "oneOf")

Schema = Mapping[str, Any]


def check_schema(schema: Mapping[str, Any], *, name: str) -> dict[str, Any]:
    """A copy of the schema, when a run can use it.

    Raises:
        ConfigError: Not JSON, larger than 64 KiB, too deep, a reference that leaves the schema or finds nothing,
            or a recursion without end. The message names the place.
    """
    try:
        text = json.dumps(schema, ensure_ascii=False, allow_nan=False)
        copy: dict[str, Any] = json.loads(text)
    except (TypeError, ValueError, RecursionError) as error:
        raise ConfigError(f"{name}: not plain JSON: {error}") from None
    if len(text.encode("utf-8", "replace")) > MAX_SCHEMA_BYTES:
        raise ConfigError(
            f"{name}: the schema is larger than {MAX_SCHEMA_BYTES // 1024} KiB. Give a smaller one."
        )
    for place, part in _parts(copy, "#", name, 0):
        _check_references(copy, part, place, name)
        fault = pattern_fault(part)
        if fault is not None:
            raise ConfigError(f"{name}: {fault} (at {place}). Write it without.")
    if not _has_end(copy, copy, frozenset()):
        raise ConfigError(
            f"{name}: no finite value satisfies the schema: a required part contains itself. Make that part optional."
        )
    return copy


def has_object_root(schema: Schema) -> bool:
    """Whether the data is an object, as providers want it at the root."""
    seen: set[str] = set()
    root = schema
    while "$ref" in schema and schema["$ref"] not in seen:
        seen.add(schema["$ref"])
        target = referred(root, schema["$ref"])
        if not isinstance(target, Mapping):
            return False
        schema = target
    return schema.get("type") == "object"


def referred(root: Schema, reference: str) -> Any | None:
    """The part of `root` that `#/...` points to; None when there is none."""
    if not reference.startswith("#"):
        return None
    part: Any = root
    for step in reference[1:].split("/")[1:]:
        step = step.replace("~1", "/").replace("~0", "~")
        if isinstance(part, Mapping) and step in part:
            part = part[step]
        elif isinstance(part, list) and step.isdigit() and int(step) < len(part):
            part = part[int(step)]
        else:
            return None
    return part


def without_nulls(schema: Schema, value: Any) -> Any:
    """The value without the nulls that stand for absent optional fields, as `with_nulls` asks for them."""
    return _without_nulls(schema, schema, value, 0)


def _without_nulls(root: Schema, part: Any, value: Any, depth: int) -> Any:
    part = _target(root, part)
    if depth > _MAX_DEPTH:
        return value
    if isinstance(value, list):
        return [_without_nulls(root, part.get("items"), each, depth + 1) for each in value]
    if not isinstance(value, dict):
        return value
    inner = part.get("properties")
    inner = inner if isinstance(inner, Mapping) else {}
    required = _names(part.get("required"))
    return {
        key: _without_nulls(root, inner.get(key), each, depth + 1)
        for key, each in value.items()
        if each is not None or key in required or key not in inner or takes_null(root, inner[key])
    }


def _target(root: Schema, part: Any) -> Schema:
    for _ in range(_MAX_DEPTH):
        if not isinstance(part, Mapping):
            return {}
        if "$ref" not in part:
            return part
        part = referred(root, str(part["$ref"]))
    return {}


def takes_null(root: Schema, part: Any) -> bool:
    """Whether a part of `root` accepts null."""
    part = _target(root, part)
    kinds = part.get("type")
    if "enum" in part:
        return None in part["enum"]
    if "const" in part:
        return part["const"] is None
    choices = [each for key in _ONE_OF for each in part.get(key, ())]
    if choices:
        return any(takes_null(root, each) for each in choices)
    return kinds is None or kinds == "null" or (isinstance(kinds, list) and "null" in kinds)


def _parts(value: Any, place: str, name: str, depth: int) -> Iterator[tuple[str, Schema]]:
    if depth > _MAX_DEPTH:
        raise ConfigError(f"{name}: the schema is nested deeper than {_MAX_DEPTH} at {place[:120]}.")
    if isinstance(value, Mapping):
        yield place, value
        for key, part in value.items():
            if key not in ("enum", "const", "default", "examples"):
                yield from _parts(part, f"{place}/{key}", name, depth + 1)
    elif isinstance(value, list):
        for index, part in enumerate(value):
            yield from _parts(part, f"{place}/{index}", name, depth + 1)


def _check_references(root: Schema, part: Schema, place: str, name: str) -> None:
    for key in _REFERENCES:
        if key in part and not place.endswith("/properties"):
            raise ConfigError(
                f"{name}: {key} at {place} is not supported. Write {'$ref'!r} with a path in the schema."
            )
    reference = part.get("$ref")
    if reference is None or place.endswith("/properties"):
        return
    if not isinstance(reference, str) or not (reference == "#" or reference.startswith("#/")):
        raise ConfigError(
            f"{name}: the reference {str(reference)[:80]!r} at {place} leaves the schema. Copy that part into $defs."
        )
    if referred(root, reference) is None:
        raise ConfigError(f"{name}: the reference {reference[:80]!r} at {place} finds nothing.")


def _has_end(root: Schema, part: Any, open_references: frozenset[str]) -> bool:
    """Whether some finite value satisfies `part`, as far as recursion goes."""
    if not isinstance(part, Mapping) or "enum" in part or "const" in part:
        return part is not False
    reference = part.get("$ref")
    if isinstance(reference, str):
        if reference in open_references:
            return False
        if not _has_end(root, referred(root, reference), open_references | {reference}):
            return False
    for key in _ONE_OF:
        choices = part.get(key)
        if choices and not any(_has_end(root, choice, open_references) for choice in choices):
            return False
    if not all(_has_end(root, each, open_references) for each in part.get("allOf", ())):
        return False
    inner = part.get("properties", {})
    required = [inner[key] for key in _names(part.get("required")) if key in inner]
    required += [part["items"]] if part.get("minItems", 0) and "items" in part else []
    return all(_has_end(root, each, open_references) for each in required)


def _names(required: object) -> Sequence[str]:
    return [key for key in required if isinstance(key, str)] if isinstance(required, list) else []
