"""Makes the smallest sensible value that satisfies a JSON Schema. Pure and deterministic."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

_MAX_DEPTH = 24
_FORMATS = {
    "date": "2026-01-01", "date-time": "2026-01-01T00:00:00Z", "time": "00:00:00Z", "email": "sandbox@example.com",
    "uri": "https://example.com/", "uuid": "00000000-0000-4000-8000-000000000000",
}  # fmt: skip
_GOOD = re.compile(r"^(accept\w*|ok|yes|correct|valid|pass\w*|good|true|endorsed?)$", re.I)
_BAD = re.compile(r"^(reject\w*|no|incorrect|wrong|invalid|fail\w*|bad|false|unendorsed)$", re.I)
_SCORE = re.compile(r"score|quality|confidence|grade|rating|probability", re.I)
_NEGATIVE = re.compile(r"reject|wrong|incorrect|invalid|fail|problem|issue|escalat", re.I)
_ANSWER = re.compile(r"^(final_?)?(answer|result|solution)$", re.I)

Verdict = Literal["accept", "reject"] | None


def sample(schema: Mapping[str, Any], *, answer: str | None = None, verdict: Verdict = None) -> Any:
    """A value for `schema`: `answer` goes into answer-like fields; with `verdict` judging fields say so."""
    return _Sampler(schema, answer, verdict).value(schema, "", 0)


@dataclass(frozen=True, slots=True)
class _Sampler:
    root: Mapping[str, Any]
    answer: str | None
    verdict: Verdict

    def value(self, schema: Any, name: str, depth: int) -> Any:
        if not isinstance(schema, Mapping) or depth > _MAX_DEPTH:
            return None if schema is not True else {}
        schema = self._resolved(schema)
        if "const" in schema:
            return schema["const"]
        if schema.get("enum"):
            return self._choice(schema["enum"])
        for key in ("anyOf", "oneOf"):
            if schema.get(key):
                rest = {k: v for k, v in schema.items() if k != key}
                return self.value({**rest, **self._resolved(schema[key][0])}, name, depth + 1)
        kind = schema.get("type")
        if isinstance(kind, list):
            kind = next((k for k in kind if k != "null"), "null")
        match kind.lower() if isinstance(kind, str) else "object" if "properties" in schema else "string":
            case "object":
                return self._object(schema, depth)
            case "array":
                count = min(64, max(0, int(_number_or(schema.get("minItems", schema.get("min_items")), 0))))
                return [self.value(schema.get("items", {}), name, depth + 1) for _ in range(count)]
            case "integer":
                return int(self._number(schema, name, whole=True))
            case "number":
                return self._number(schema, name, whole=False)
            case "boolean":
                return self.verdict is None or (self.verdict == "accept") != bool(_NEGATIVE.search(name))
            case "null":
                return None
        return self._string(schema, name)

    def _resolved(self, schema: Any) -> Mapping[str, Any]:
        """Follow local references; a circle or a foreign one is an empty schema."""
        for _ in range(_MAX_DEPTH):
            if not isinstance(schema, Mapping):
                return {}
            reference = schema.get("$ref")
            if not isinstance(reference, str):
                return schema
            node: Any = self.root
            for part in filter(None, reference.removeprefix("#").split("/")):
                name = part.replace("~1", "/").replace("~0", "~")
                node = node.get(name) if isinstance(node, Mapping) else None
            schema = node
        return {}

    def _object(self, schema: Mapping[str, Any], depth: int) -> dict[str, Any]:
        properties, required = schema.get("properties") or {}, schema.get("required")
        wanted = [k for k in properties if k in required] if isinstance(required, list) else []
        if not wanted and depth == 0:
            wanted = list(properties)
        return {key: self.value(properties[key], key, depth + 1) for key in wanted}

    def _choice(self, options: list[Any]) -> Any:
        wanted = {"accept": _GOOD, "reject": _BAD}.get(self.verdict or "")
        fitting = [o for o in options if wanted and isinstance(o, str) and wanted.match(o)]
        fitting += [o for o in options if o == self.answer]
        return fitting[0] if fitting else options[0]

    def _number(self, schema: Mapping[str, Any], name: str, *, whole: bool) -> float:
        low, high = (_number_or(schema.get(k), d) for k, d in (("minimum", -math.inf), ("maximum", math.inf)))
        value = 1.0
        if self.verdict and _SCORE.search(name):
            least, most = low if math.isfinite(low) else 0.0, high if math.isfinite(high) else 1.0
            value = least + (most - least) * (0.98 if self.verdict == "accept" else 0.05)
            value = round(value) if whole else round(value, 4)
        elif self.answer is not None and _ANSWER.match(name):
            value = _number_or(self.answer, 1.0)
        step = 1 if whole else 0.001
        low = max(low, _number_or(schema.get("exclusiveMinimum"), -math.inf) + step)
        high = min(high, _number_or(schema.get("exclusiveMaximum"), math.inf) - step)
        if whole:
            value, low = math.floor(value), math.ceil(low) if math.isfinite(low) else low
        return min(max(value, low), high)

    def _string(self, schema: Mapping[str, Any], name: str) -> str:
        text = _FORMATS.get(str(schema.get("format")), "")
        if not text:
            known = self.answer is not None and _ANSWER.match(name)
            text = str(self.answer) if known else "ok" if self.verdict else f"[sandbox] {name}".strip()
        shortest = int(_number_or(schema.get("minLength"), 0))
        longest = int(_number_or(schema.get("maxLength"), max(len(text), shortest)))
        return text.ljust(shortest, ".")[: max(longest, 0)]


def _number_or(value: Any, default: float) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return default
    return number if math.isfinite(number) else default
