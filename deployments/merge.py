"""Three-way merge of a definition with what stands on the server: what people set there stays. Pure."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Fields = Mapping[str, Any]
"""Field name to JSON value; a field that is not set is absent."""
_NONE: Any = object()


@dataclass(frozen=True, slots=True)
class Difference:
    """A field that keeps the server's value although the definition says otherwise."""

    field: str
    server: Any
    """None: the field was deleted on the server."""
    definition: Any
    """None: the definition does not have the field."""


@dataclass(frozen=True, slots=True)
class Merged:
    """What the server shall hold."""

    values: dict[str, Any] = field(default_factory=dict)
    kept: tuple[Difference, ...] = ()


def digests(fields: Fields) -> dict[str, str]:
    """The base of the next merge: a short digest for each field of the definition."""
    return {name: _digest(value) for name, value in fields.items()}


def merge(
    base: Mapping[str, str] | None,
    definition: Fields,
    server: Fields,
    *,
    given: Fields | None = None,
    reset: bool = False,
) -> Merged:
    """Apply what the definition changed since the base, unless the server's value changed as well.

    Args:
        base: Digests of the definition that was deployed last; None or a missing field: not known.
        definition: What the definition says now.
        server: What stands on the server now.
        given: Options of this call; they replace every other value.
        reset: The definition replaces the server's values.

    Returns:
        The merged values, and the fields where the server's value stays against the definition.
    """
    known, chosen = base or {}, given or {}
    values: dict[str, Any] = {}
    kept: list[Difference] = []
    for name in sorted({*definition, *server, *chosen}):
        ours, theirs = definition.get(name, _NONE), server.get(name, _NONE)
        if name in chosen:
            value = chosen[name]
        elif reset or ours == theirs or not _set_by_person(known.get(name), theirs):
            value = ours
        else:
            value = theirs
            kept.append(
                Difference(name, None if theirs is _NONE else theirs, None if ours is _NONE else ours)
            )
        if value is not _NONE:
            values[name] = value
    return Merged(values, tuple(kept))


def _set_by_person(base: str | None, theirs: Any) -> bool:
    """Whether the server's value is another one than was deployed; a deployed field that is gone was deleted."""
    if theirs is _NONE:
        return base is not None
    return base != _digest(theirs)


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:12]
