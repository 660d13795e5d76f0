"""Patterns of a caller's schema, matched in a time that grows with the text only: none makes a run hang. Pure.

Python's own engine can take years for thirty letters (`^(a+)+$`), and nothing interrupts it. The engine of pydantic
cannot. What that one does not read (look-around, back-references), and the names of `patternProperties`, go to
Python's when they repeat one thing at most and choose between none; their time is the square of the text's length.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

from jsonschema.exceptions import ValidationError
from pydantic_core import SchemaError, SchemaValidator, core_schema
from pydantic_core import ValidationError as PatternError

_REPEATED_GROUP = re.compile(r"\)[*+{?]")
_REPEATED = re.compile(r"[*+]|(?<!\()\?|\{\d*,")
_LONGEST = 10_000


def pattern_fault(part: Mapping[str, Any]) -> str | None:
    """Why the patterns of a schema's part are not used; None: they are."""
    names = part.get("patternProperties")
    for pattern in names if isinstance(names, Mapping) else ():
        if _is_slow(pattern):
            return f"the pattern {pattern!r:.60} of patternProperties repeats too much and may take for ever"
    pattern = part.get("pattern")
    if isinstance(pattern, str) and _linear(pattern) is None and _is_slow(pattern):
        return f"the pattern {pattern!r:.60} looks around and repeats too much, so it may take for ever"
    return None


def _is_slow(pattern: str) -> bool:
    return (
        "|" in pattern or len(_REPEATED.findall(pattern)) > 1 or _REPEATED_GROUP.search(pattern) is not None
    )


def matches(validator: Any, pattern: str, value: Any, schema: Any) -> Iterator[ValidationError]:
    """The keyword `pattern`, for `jsonschema.validators.extend`."""
    if isinstance(value, str) and not _found(pattern, value):
        yield ValidationError(f"{value!r:.60} does not match {pattern!r}")


def _found(pattern: str, text: str) -> bool:
    linear = _linear(pattern)
    if linear is None:
        return len(text) <= _LONGEST and re.search(pattern, text) is not None
    try:
        linear.validate_python(text)
    except PatternError:
        return False
    return True


@lru_cache(maxsize=256)
def _linear(pattern: str) -> SchemaValidator | None:
    try:
        return SchemaValidator(core_schema.str_schema(pattern=pattern))
    except SchemaError:
        return None
