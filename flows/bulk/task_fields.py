"""The fields of a task line: known ones, near misses, and a user's own, which are copied to the output. Pure."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from typing import Any

from tta_dev_primitives.flows.tasks.result import OrchestrationResult

FIELDS = ("id", "task", "use_case", "system", "schema", "seed")
_MEANT = {
    **dict.fromkeys(("prompt", "question", "text", "input", "query", "content", "message"), "task"),
    **dict.fromkeys(("systemprompt", "instructions", "systemmessage"), "system"),
    **dict.fromkeys(("kind", "category", "usecases"), "use_case"),
    **dict.fromkeys(("outputschema", "jsonschema", "responseformat", "outputtype"), "schema"),
    **dict.fromkeys(("key", "name", "customid", "taskid"), "id"),
}
_SETTINGS = (
    "model",
    "provider",
    "maxtokens",
    "maxoutputtokens",
    "temperature",
    "topp",
    "billing",
    "timeouts",
)
_OUTPUT = frozenset({*OrchestrationResult.model_fields, "error", "digest"})


class Doubled(ValueError):
    """A JSON object that has a field twice; its text is the field."""


def unique_fields(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The pairs of a JSON object as a mapping.

    Raises:
        Doubled: A field stands twice: one of them would be dropped in silence.
    """
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise Doubled(name)
        found[name] = value
    return found


def unknown_field(entry: Mapping[Any, Any]) -> str | None:
    """What is wrong with the first unknown field, and what was perhaps meant; None: all are known."""
    for name in entry:
        if name in FIELDS:
            continue
        meant = _meant(str(name), [field for field in FIELDS if field not in entry])
        remedy = f"Did you mean {meant!r}?" if meant else _remedy(str(name))
        return (
            f"unknown field {str(name)[:80]!r}. {remedy} The task would be paid without it. "
            "--allow-extra (allow_extra) copies such fields to the output"
        )
    return None


def own_fields(entry: Mapping[Any, Any]) -> tuple[dict[str, Any], str | None]:
    """The fields that are the user's own, and why they cannot be copied, if so."""
    extra = {str(name): value for name, value in entry.items() if name not in FIELDS}
    taken = next((name for name in extra if name in _OUTPUT), None)
    return (
        extra,
        None if taken is None else f"field {taken!r} cannot be copied: the output has one of this name",
    )


def _meant(name: str, free: Iterable[str]) -> str | None:
    plain = re.sub(r"[^a-z]", "", name.lower())
    by_plain = {re.sub(r"[^a-z]", "", field): field for field in free}
    if plain in by_plain:
        return by_plain[plain]
    if _MEANT.get(plain) in by_plain.values():
        return _MEANT[plain]
    close = difflib.get_close_matches(plain, list(by_plain), n=1, cutoff=0.75)
    return by_plain[close[0]] if close else None


def _remedy(name: str) -> str:
    if re.sub(r"[^a-z]", "", name.lower()) in _SETTINGS:
        return "Models and their settings stand in the configuration; a line chooses them by use_case."
    return f"Known: {', '.join(FIELDS)}."
