"""JSON Schemas that a caller gives: what is refused before anything is spent, and parts of them. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tta_dev_primitives.config.errors import ConfigError
from tta_dev_primitives.flows.answers.linear_patterns import pattern_fault

MAX_SCHEMA_BYTES = 65_536
_MAX_DEPTH = 40
_MOST_PARTS = 50_000
_REFERENCES = ("$dynamicRef", "$recursiveRef", "$id")
"""What gives `$ref` another meaning than a path in the schema; `$id` may stand at the root."""
_DATA = frozenset({"enum", "const", "default", "examples"})
_NAMED = frozenset({"properties", "patternProperties", "$defs", "definitions", "dependentSchemas"})
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
    parts = dict(_parts(copy, "#", name, 0))
    known = {id(part) for part in parts.values()}
    for place, part in parts.items():
        _check_references(copy, part, place, name, known)
        fault = pattern_fault(part)
        if fault is not None:
            raise ConfigError(f"{name}: {fault} (at {place}). Write it without.")
    try:
        size = _size(copy, copy, {})
    except RecursionError:
        size = _MOST_PARTS
    if size >= _MOST_PARTS:
        raise ConfigError(
            f"{name}: its references make more than {_MOST_PARTS:,} parts. Use each part less often."
        )
    if not _has_end(copy, list(parts.values())):
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


def _parts(
    value: Any, place: str, name: str, depth: int, *, names: bool = False
) -> Iterator[tuple[str, Schema]]:
    """Each schema with its place. `names`: the keys of `value` are names that the caller chose, no keywords."""
    if depth > _MAX_DEPTH:
        raise ConfigError(f"{name}: the schema is nested deeper than {_MAX_DEPTH} at {place[:120]}.")
    if isinstance(value, Mapping):
        if not names:
            yield place, value
        for key, part in value.items():
            if names or key not in _DATA:
                yield from _parts(part, f"{place}/{key}", name, depth + 1, names=not names and key in _NAMED)
    elif isinstance(value, list):
        for index, part in enumerate(value):
            yield from _parts(part, f"{place}/{index}", name, depth + 1)


def _check_references(root: Schema, part: Schema, place: str, name: str, known: set[int]) -> None:
    for key in _REFERENCES if place != "#" else _REFERENCES[:-1]:
        if key in part:
            raise ConfigError(
                f"{name}: {key} at {place} is not supported. Write {'$ref'!r} with a path in the schema."
            )
    reference = part.get("$ref")
    if reference is None:
        return
    if not isinstance(reference, str) or not (reference == "#" or reference.startswith("#/")):
        raise ConfigError(
            f"{name}: the reference {str(reference)[:80]!r} at {place} leaves the schema. Copy that part into $defs."
        )
    target = referred(root, reference)
    # A validator decodes `%`. What stands below `default` or `enum` is data, which no check has seen.
    if "%" in reference or not (isinstance(target, bool) or id(target) in known):
        raise ConfigError(f"{name}: the reference {reference[:80]!r} at {place} finds nothing.")


def _size(root: Schema, part: Any, sizes: dict[int, int]) -> int:
    """How many parts the schema has with each reference replaced once, at most `_MOST_PARTS`."""
    if not isinstance(part, (Mapping, list)):
        return 1
    if id(part) not in sizes:
        sizes[id(part)] = 1
        inner = list(part.values()) if isinstance(part, Mapping) else part
        if isinstance(part, Mapping) and isinstance(part.get("$ref"), str):
            inner.append(referred(root, part["$ref"]))
        sizes[id(part)] = min(1 + sum(_size(root, each, sizes) for each in inner), _MOST_PARTS)
    return sizes[id(part)]


def _has_end(root: Schema, parts: Sequence[Schema]) -> bool:
    """Whether some finite value satisfies `root`, as far as recursion goes: the smallest solution over all parts."""
    ended: set[int] = set()
    found = -1
    while found < len(ended):
        found = len(ended)
        # Inner parts come last: most schemas are solved in one round.
        ended |= {id(part) for part in reversed(parts) if id(part) not in ended and _ends(root, part, ended)}
    return id(root) in ended


def _ends(root: Schema, part: Schema, ended: set[int]) -> bool:
    def done(inner: Any) -> bool:
        return id(inner) in ended if isinstance(inner, Mapping) else inner is not False

    if "enum" in part or "const" in part:
        return True
    if isinstance(part.get("$ref"), str) and not done(referred(root, part["$ref"])):
        return False
    if any(part.get(key) and not any(map(done, part[key])) for key in _ONE_OF):
        return False
    inner = part.get("properties", {})
    needed = [*part.get("allOf", ()), *(inner[key] for key in _names(part.get("required")) if key in inner)]
    needed += [part["items"]] if part.get("minItems", 0) and "items" in part else []
    return all(map(done, needed))


def _names(required: object) -> Sequence[str]:
    return [key for key in required if isinstance(key, str)] if isinstance(required, list) else []
