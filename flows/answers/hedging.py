"""What an answer itself says of its own certainty: free, deterministic, and never a reason to refuse it. Pure.

    hedged("It is not stated, so we assume 8 hours. ... The answer is 42.", "42")   -> True

An answer that wavers on its way, or ends in a broken number, is wrong more often than the same model's others: many
times on school maths, less so on code (measured: docs/validation.md). Such answers have accounts of their own in the
risk ledger.
"""

from __future__ import annotations

import re
from fractions import Fraction

from tta_dev_primitives.flows.answers.numbers import split_form

_WAVERS = re.compile(
    r"\b(?:however|but|assum(?:e|es|ed|ing|ption|ptions)|can(?:not|['’]t)|approximat(?:e|ely)|mistaken?|actually|"
    r"instead|round(?:ed|ing))\b",
    re.I,
)


def hedged(text: str, final: str | None) -> bool:
    """Whether a closed answer wavers in its text, or is a number that is not whole."""
    return _WAVERS.search(text) is not None or _broken(final)


def _broken(final: str | None) -> bool:
    number = split_form(final) if final is not None else None
    return number is not None and Fraction(number[0]).denominator != 1
