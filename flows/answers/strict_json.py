"""JSON from a model's reply, read strictly: a key twice, NaN, a number out of range or text around it is refused."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any, TypedDict

_FENCE = re.compile(r"```[A-Za-z0-9_-]*[ \t]*\n(.*)\n[ \t]*```", re.S)
_ONE_BLOCK = re.compile(r"```(?:json)?[ \t]*\n(.*?)\n[ \t]*```", re.S)
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]|[\ud800-\udfff]")
_SURROGATE_CHAR = re.compile("[\ud800-\udfff]")
_MOST = 100_000
_MOST_FENCES = 100
"""Each one costs a look at the rest of the text."""
_DEPTH = 20
_LONGEST_KEY = 1_000
"""A schema's patterns for names are matched in a time that is the square of their length."""


class StrictJsonError(ValueError):
    """The reply is not one plain JSON object; the message says why in a line that the model may be shown."""


def one_object(text: str, *, exact: bool = False) -> dict[str, Any]:
    """The JSON object that the whole text is; one code fence around it is allowed, nothing else.

    Args:
        exact: Numbers with a point or an exponent become Decimal instead of float.

    Raises:
        StrictJsonError: It is anything else, or too large or too deep.
    """
    body = text.strip()
    fence = _FENCE.fullmatch(body)
    value = _value(fence[1] if fence else body, "object", exact=exact)
    if not isinstance(value, dict):
        raise StrictJsonError(f"expected a JSON object, got {type(value).__name__}")
    return value


def lone_object(text: str, *, exact: bool = False) -> tuple[dict[str, Any], str]:
    """The only JSON object in a text, and the words around it ("" when there are none).

    Args:
        exact: As for `one_object`.

    Raises:
        StrictJsonError: There is no object, or anything else in the text looks like one.
    """
    try:
        return one_object(text, exact=exact), ""
    except StrictJsonError:
        begin, end = text.find("{"), text.rfind("}") + 1
        if begin < 0 or end <= begin or text[:begin].rstrip().endswith(("[", ",")):
            raise
    return one_object(text[begin:end], exact=exact), f"{text[:begin]} {text[end:]}"


def one_value(text: str) -> Any:
    """The JSON value that the whole text is, or the only code fence in it.

    Raises:
        StrictJsonError: It is none, or too large or too deep.
    """
    blocks = _ONE_BLOCK.findall(text) if text.count("```") <= _MOST_FENCES else []
    return _value(blocks[0] if len(blocks) == 1 else text, "value")


def _value(text: str, kind: str, *, exact: bool = False) -> Any:
    body = text.strip()
    if not body:
        raise StrictJsonError("the answer is empty")
    if len(body) > _MOST:
        raise StrictJsonError(f"the answer is longer than {_MOST:,} characters")
    if _depth(body) > _DEPTH:
        raise StrictJsonError(f"the JSON is nested more than {_DEPTH} levels deep")
    try:
        value = json.loads(body, parse_float=Decimal if exact else _finite, **HOOKS)
    except StrictJsonError:
        raise
    except json.JSONDecodeError as error:
        raise StrictJsonError(f"not one JSON {kind}: {error.msg} at character {error.pos}") from None
    except (ValueError, ArithmeticError, RecursionError):
        raise StrictJsonError(f"not one JSON {kind}: a number is too long") from None
    if _SURROGATE.search(body) and any(_SURROGATE_CHAR.search(part) for part in _texts(value)):
        raise StrictJsonError("half of a surrogate pair is not text")
    return value


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, part in value.items():
            yield from (key, *_texts(part))
    elif isinstance(value, list):
        for part in value:
            yield from _texts(part)


def _depth(text: str) -> int:
    """Nesting without recursion; brackets inside strings do not count."""
    level = deepest = 0
    quoted = escaped = False
    for char in text:
        if quoted:
            quoted = escaped or char != '"'
            escaped = char == "\\" and not escaped
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
            raise StrictJsonError(f"the key {key[:40]!r} stands twice")
        if len(key) > _LONGEST_KEY:
            raise StrictJsonError(f"the key {key[:40]!r}... is longer than {_LONGEST_KEY:,} characters")
        found[key] = value
    return found


def _refuse(name: str) -> Any:
    raise StrictJsonError(f"{name} is not a JSON number")


def _finite(text: str) -> float:
    value = float(text)
    if value in (float("inf"), float("-inf")) or (value == 0.0 and Decimal(text) != 0):
        raise StrictJsonError(f"the number {text[:40]} is out of range")
    return value


class _Hooks(TypedDict):
    object_pairs_hook: Callable[[list[tuple[str, Any]]], dict[str, Any]]
    parse_constant: Callable[[str], Any]


HOOKS: _Hooks = {"object_pairs_hook": _unique, "parse_constant": _refuse}
"""What makes Python's JSON reader strict, for readers that look for JSON inside other text."""
