"""Makes the smallest sensible value that satisfies a JSON Schema. Pure and deterministic."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any, Literal

__all__ = ["sample"]

_MAX_DEPTH = 24
_FORMATS = {
    "date": "2026-01-01",
    "date-time": "2026-01-01T00:00:00Z",
    "time": "00:00:00Z",
    "email": "sandbox@example.com",
    "uri": "https://example.com/",
    "uuid": "00000000-0000-4000-8000-000000000000",
}
_GOOD = re.compile(r"^(accept\w*|ok|yes|correct|valid|pass\w*|good|true|endorsed?)$", re.I)
_BAD = re.compile(r"^(reject\w*|no|incorrect|wrong|invalid|fail\w*|bad|false|unendorsed)$", re.I)
_SCORE = re.compile(r"score|quality|confidence|grade|rating|probability", re.I)
_NEGATIVE = re.compile(r"reject|wrong|incorrect|invalid|fail|problem|issue|escalat", re.I)
_ANSWER = re.compile(r"^(final_?)?(answer|result|solution)$", re.I)

Verdict = Literal["accept", "reject"] | None


def sample(schema: Mapping[str, Any], *, answer: str | None = None, verdict: Verdict = None) -> Any:
    """A value for `schema`: `answer` goes into answer-like fields; with `verdict` judging fields say so."""
    return _Sampler(schema, answer, verdict).value(schema, "", 0)


class _Sampler:
    def __init__(self, root: Mapping[str, Any], answer: str | None, verdict: Verdict) -> None:
        self._root = root
        self._answer = answer
        self._verdict = verdict

    def value(self, schema: Any, name: str, depth: int) -> Any:
        if not isinstance(schema, Mapping) or depth > _MAX_DEPTH:
            return None if schema is not True else {}
        schema = self._resolved(schema)
        if "const" in schema:
            return schema["const"]
        if schema.get("enum"):
            return self._choice(schema["enum"], name)
        for key in ("anyOf", "oneOf"):
            if schema.get(key):
                rest = {k: v for k, v in schema.items() if k != key}
                return self.value({**rest, **self._resolved(schema[key][0])}, name, depth + 1)
        if "allOf" in schema:
            merged: dict[str, Any] = {k: v for k, v in schema.items() if k != "allOf"}
            for part in schema["allOf"]:
                part = self._resolved(part)
                properties = {**merged.get("properties", {}), **part.get("properties", {})}
                required = [*merged.get("required", []), *part.get("required", [])]
                merged |= {**part, "properties": properties, "required": required}
            return self.value(merged, name, depth + 1)
        return self._typed(schema, name, depth)

    def _resolved(self, schema: Any) -> Mapping[str, Any]:
        """Follow local references; a circle or a foreign one is an empty schema."""
        for _ in range(_MAX_DEPTH):
            if not isinstance(schema, Mapping):
                return {}
            reference = schema.get("$ref")
            if not isinstance(reference, str):
                return schema
            node: Any = self._root
            for part in reference.removeprefix("#").strip("/").split("/") if reference != "#" else []:
                node = (
                    node.get(part.replace("~1", "/").replace("~0", "~"))
                    if isinstance(node, Mapping)
                    else None
                )
            schema = node
        return {}

    def _typed(self, schema: Mapping[str, Any], name: str, depth: int) -> Any:
        kind = schema.get("type")
        if isinstance(kind, list):
            kind = next((k for k in kind if k != "null"), "null")
        kind = kind.lower() if isinstance(kind, str) else "object" if "properties" in schema else "string"
        match kind:
            case "object":
                return self._object(schema, depth)
            case "array":
                return [self.value(schema.get("items", {}), name, depth + 1) for _ in range(_count(schema))]
            case "integer":
                return int(self._number(schema, name, whole=True))
            case "number":
                return self._number(schema, name, whole=False)
            case "boolean":
                return self._boolean(name)
            case "null":
                return None
        return self._string(schema, name)

    def _object(self, schema: Mapping[str, Any], depth: int) -> dict[str, Any]:
        properties = schema.get("properties") or {}
        required = schema.get("required")
        wanted = [k for k in properties if k in required] if isinstance(required, list) else []
        if not wanted and depth == 0:
            wanted = list(properties)
        return {key: self.value(properties[key], key, depth + 1) for key in wanted}

    def _choice(self, options: list[Any], name: str) -> Any:
        wanted = _GOOD if self._verdict == "accept" else _BAD if self._verdict == "reject" else None
        if wanted:
            for option in options:
                if isinstance(option, str) and wanted.match(option):
                    return option
        if self._answer in options:
            return self._answer
        return options[0]

    def _boolean(self, name: str) -> bool:
        if self._verdict is None:
            return True
        return (self._verdict == "accept") != bool(_NEGATIVE.search(name))

    def _number(self, schema: Mapping[str, Any], name: str, *, whole: bool) -> float:
        value = 1.0
        if self._verdict and _SCORE.search(name):
            low, high = _number_or(schema.get("minimum"), 0.0), _number_or(schema.get("maximum"), 1.0)
            share = 0.98 if self._verdict == "accept" else 0.05
            value = low + (high - low) * share
            value = round(value) if whole else round(value, 4)
        elif self._answer is not None and _ANSWER.match(name):
            value = _number_or(self._answer, 1.0)
        return _within(schema, math.floor(value) if whole else value, whole=whole)

    def _string(self, schema: Mapping[str, Any], name: str) -> str:
        text = _FORMATS.get(str(schema.get("format")), "")
        if not text:
            known = self._answer is not None and _ANSWER.match(name)
            text = str(self._answer) if known else "ok" if self._verdict else f"[sandbox] {name}".strip()
        shortest = int(_number_or(schema.get("minLength"), 0))
        longest = int(_number_or(schema.get("maxLength"), max(len(text), shortest)))
        return text.ljust(shortest, ".")[: max(longest, 0)]


def _count(schema: Mapping[str, Any]) -> int:
    return min(64, max(0, int(_number_or(schema.get("minItems", schema.get("min_items")), 0))))


def _number_or(value: Any, default: float) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return default
    return number if math.isfinite(number) else default


def _within(schema: Mapping[str, Any], value: float, *, whole: bool) -> float:
    step = 1 if whole else 0.001
    low = _number_or(schema.get("minimum"), -math.inf)
    high = _number_or(schema.get("maximum"), math.inf)
    low = max(low, _number_or(schema.get("exclusiveMinimum"), -math.inf) + step)
    high = min(high, _number_or(schema.get("exclusiveMaximum"), math.inf) - step)
    value = min(max(value, math.ceil(low) if whole and math.isfinite(low) else low), high)
    multiple = _number_or(schema.get("multipleOf"), 0)
    if multiple > 0:
        value = math.ceil(value / multiple) * multiple
    return value
