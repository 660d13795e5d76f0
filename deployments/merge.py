"""Three-way merge of a definition with what stands on the server: what people set there stays."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.actions import VariableCreate, VariableUpdate

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


async def read_last(client: PrefectClient, name: str) -> dict[str, Any] | None:
    """The base of a deployment or of the automations; None when none is kept."""
    found = await client.read_variable_by_name(_variable(name))
    return found.value if found is not None and isinstance(found.value, dict) else None


async def write_last(client: PrefectClient, name: str, base: dict[str, Any]) -> None:
    """Keep the base for the next `tta deploy`, from whatever machine."""
    variable = _variable(name)
    if await client.read_variable_by_name(variable) is None:
        await client.create_variable(VariableCreate(name=variable, value=base, tags=["tta"]))
    else:
        await client.update_variable(VariableUpdate(name=variable, value=base))


def _variable(name: str) -> str:
    return "tta_deployed_" + re.sub(r"[^a-z0-9]+", "_", name.lower())
