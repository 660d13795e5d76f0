"""What a bare word in YAML or a variable means: true, a number, text, or one of YAML's traps (refused)."""

from __future__ import annotations

import re
from decimal import Decimal

_NULL = {"", "~", "null", "Null", "NULL"}
_TRUE = {"true", "True", "TRUE"}
_FALSE = {"false", "False", "FALSE"}
_WORD_BOOLEANS = {"yes": "true", "on": "true", "no": "false", "off": "false"}
_MAX_DIGITS = 40

_INTEGER = re.compile(r"[-+]?(0|[1-9][0-9]*)", re.ASCII)
_DECIMAL = re.compile(r"[-+]?((0|[1-9][0-9]*)\.[0-9]*|\.[0-9]+)", re.ASCII)
_ODD = (
    (
        re.compile(r"[-+]?0[0-9][0-9_]*(\.[0-9_]*)?", re.ASCII),
        "has a leading zero (YAML readers take it as octal)",
    ),
    (re.compile(r"[-+]?0[xX][0-9a-fA-F_]+|[-+]?0[oO][0-7_]+|[-+]?0[bB][01_]+", re.ASCII), "is not decimal"),
    (re.compile(r"[-+]?[0-9][0-9]*_[0-9_]*(\.[0-9_]*)?", re.ASCII), "has underscores"),
    (
        re.compile(r"[-+]?([0-9]+(\.[0-9]*)?|\.[0-9]+)[eE][-+]?[0-9]+", re.ASCII),
        "has an exponent (YAML readers disagree on it)",
    ),
    (re.compile(r"[-+]?\.(inf|nan)", re.ASCII | re.IGNORECASE), "is not a finite number"),
    (
        re.compile(r"[-+]?[0-9]+(:[0-5]?[0-9])+(\.[0-9]*)?", re.ASCII),
        "is a base-60 number to YAML readers",
    ),
)


class OddScalarError(ValueError):
    """A scalar that YAML readers take for different things; the message says the expected form."""


def plain_scalar(text: str) -> object:
    """The value of an unquoted scalar: None, bool, int, Decimal (exact, from the text) or str.

    Raises:
        OddScalarError: `0100`, `1:30`, `.inf`, `1e3`, `1_000`, `yes` and their like.
    """
    if text in _NULL:
        return None
    if text in _TRUE:
        return True
    if text in _FALSE:
        return False
    meant = _WORD_BOOLEANS.get(text.lower())
    if meant is not None:
        raise OddScalarError(
            f"found {text}, which YAML readers take for {meant} or for a word; expected true or false "
            f'(or "{text}" in quotes if the word is meant)'
        )
    if text[0] in "+-.0123456789":
        number = plain_number(text)
        if number is not None:
            return number
    return text


def plain_number(text: str) -> int | Decimal | None:
    """The number that `text` writes in plain decimal form; None if it is no number at all."""
    whole = _INTEGER.fullmatch(text)
    if whole or _DECIMAL.fullmatch(text):
        if len(text) > _MAX_DIGITS:
            raise OddScalarError(f"found a number of {len(text)} characters; expected at most {_MAX_DIGITS}")
        return int(text) if whole else Decimal(text)
    for pattern, reason in _ODD:
        if pattern.fullmatch(text):
            raise OddScalarError(
                f"found {text[:_MAX_DIGITS]}, which {reason}; expected a plain number such as 100 or 0.85 "
                "(in quotes if text is meant)"
            )
    return None
