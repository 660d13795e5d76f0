"""One JSON object from a model's reply, read strictly: what is not plainly one object is refused."""

from __future__ import annotations

import json
import re
from decimal import Decimal
from typing import Any

__all__ = ["StrictJsonError", "lone_object", "one_object", "parses"]

_FENCE = re.compile(r"```(?:json)?[ \t]*\n(.*)\n[ \t]*```", re.S)
_MOST = 100_000
_DEPTH = 20


class StrictJsonError(ValueError):
    """The reply is not one plain JSON object; the message says why, without quoting it."""


def one_object(text: str, *, exact: bool = False) -> dict[str, Any]:
    """The JSON object that the whole text is; one code fence around it is allowed, nothing else.

    Args:
        exact: Numbers with a point or an exponent become Decimal instead of float.

    Raises:
        StrictJsonError: Other text around it, a key twice, NaN or Infinity, not an object, too large or
        too deep.
    """
    text = text.strip()
    fence = _FENCE.fullmatch(text)
    if fence:
        text = fence[1]
    if len(text) > _MOST:
        raise StrictJsonError(f"the reply is longer than {_MOST:,} characters")
    if _depth(text) > _DEPTH:
        raise StrictJsonError(f"the reply is nested deeper than {_DEPTH}")
    try:
        value = json.loads(
            text,
            object_pairs_hook=_pairs,
            parse_constant=_constant,
            parse_float=Decimal if exact else None,
        )
    except StrictJsonError:
        raise
    except (ValueError, ArithmeticError, RecursionError) as error:
        raise StrictJsonError(f"the reply is not one JSON object: {type(error).__name__}") from None
    if not isinstance(value, dict):
        raise StrictJsonError("the reply is JSON, but not an object")
    return value


def lone_object(text: str, *, exact: bool = False) -> tuple[dict[str, Any], str]:
    """The only JSON object in a text, and the words around it ("" when there are none).

    Args:
        text: A model's reply.
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


def parses(text: str) -> tuple[Any] | None:
    """The JSON value that the whole text (or its one fenced block) is, in a tuple; None when it is none."""
    blocks = re.findall(r"```(?:json)?[ \t]*\n(.*?)\n[ \t]*```", text, re.S)
    body = blocks[0] if len(blocks) == 1 else text.strip()
    if len(body) > _MOST or _depth(body) > _DEPTH:
        return None
    try:
        return (json.loads(body, object_pairs_hook=_pairs, parse_constant=_constant),)
    except (ValueError, RecursionError):
        return None


def _depth(text: str) -> int:
    depth = deepest = 0
    for char in text:
        if char in "{[":
            depth += 1
            deepest = max(deepest, depth)
        elif char in "}]":
            depth -= 1
    return deepest


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len({key for key, _ in pairs}) != len(pairs):
        raise StrictJsonError("the reply names a key twice")
    return dict(pairs)


def _constant(name: str) -> Any:
    raise StrictJsonError(f"the reply holds {name}, which is not JSON")
