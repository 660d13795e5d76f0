"""Pydantic's findings on a configuration, retold for the person who wrote the file."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel, ValidationError

from tta_dev_primitives.config.options import ConfigFile
from tta_dev_primitives.config.reading.config_faults import Fault, KeyPath, dotted, near_miss, shown
from tta_dev_primitives.config.reading.strict_yaml import Document

_NOT_SHOWN = {"api_key_env", "base_url", "ledger_url"}
"""Options whose value may hold a secret by mistake: messages say only what was expected."""
_EXPECTED = {
    "bool_type": "true or false",
    "string_type": "text",
    "list_type": "a list, such as [a, b]",
    "model_type": "a block of keys below it",
    "model_attributes_type": "a block of keys below it",
    "dict_type": "a block of keys below it",
}


def model_faults(error: ValidationError, document: Document | None = None) -> list[Fault]:
    """One fault for each finding; with `document`, each has its line."""
    return [_fault(detail, document) for detail in error.errors(include_url=False)]


def _fault(detail: Any, document: Document | None) -> Fault:
    path: KeyPath = detail["loc"]
    line = document.line_of(path) if document else None
    return Fault(_message(detail, path), path, line)


def _message(detail: Any, path: KeyPath) -> str:
    kind = detail["type"]
    if kind == "extra_forbidden":
        return _unknown_key(path)
    if kind == "missing":
        return "this key is required" + _misplaced_root(detail, path)
    found = detail.get("input")
    if kind == "value_error":
        return str(detail["ctx"]["error"])
    if found is None:
        fix = "give" if _is_required(path) else "remove the line or give"
        return f"nothing stands here; {fix} {_expected(detail)}"
    secret = path and path[-1] in _NOT_SHOWN
    text = (
        f"expected {_expected(detail)}" if secret else f"found {shown(found)}, expected {_expected(detail)}"
    )
    meant = near_miss(found, _choices(path)) if kind == "literal_error" and isinstance(found, str) else None
    return text + (f"; did you mean {meant}?" if meant else "")


def _expected(detail: Any) -> str:
    kind, context = detail["type"], detail.get("ctx", {})
    if kind == "literal_error":
        return (
            "one of: " + ", ".join(_choices(detail["loc"]))
            if _choices(detail["loc"])
            else context["expected"]
        )
    if kind in ("greater_than_equal", "less_than_equal"):
        limit = context.get("ge", context.get("le"))
        return f"at {'least' if kind.startswith('greater') else 'most'} {limit}"
    message = str(detail["msg"])
    return _EXPECTED.get(kind) or message.removeprefix("expected ")


def _unknown_key(path: KeyPath) -> str:
    name, around = str(path[-1]), path[:-1]
    known = _keys_at(around)
    meant = near_miss(name, known)
    if name == "api_key" and "api_key_env" in known:
        return "unknown key; did you mean api_key_env? It names the variable; keys never stand in the file"
    # The very name at another place says more than a similar name at this one.
    elsewhere = [dotted(place) for place in _places_of(name) if place[:-1] != around]
    if elsewhere:
        return f"unknown key here; it belongs at {elsewhere[0]}"
    if meant:
        return f"unknown key; did you mean {meant}?"
    return f"unknown key; known here: {', '.join(known)}"


def _is_required(path: KeyPath) -> bool:
    model = _model_at(path[:-1])
    field = model.model_fields.get(str(path[-1])) if model and path else None
    return field is not None and field.is_required()


def _misplaced_root(detail: Any, path: KeyPath) -> str:
    found = detail.get("input")
    options = _keys_at(("orchestration",))
    if path == ("orchestration",) and isinstance(found, dict) and any(key in options for key in found):
        return " as the first line of the file, with all else indented below it"
    return ""


def _keys_at(path: KeyPath) -> list[str]:
    model = _model_at(path)
    return list(model.model_fields) if model else []


def _model_at(path: KeyPath) -> type[BaseModel] | None:
    model: type[BaseModel] | None = ConfigFile
    for part in path:
        if isinstance(part, int):
            continue
        field = model.model_fields.get(part) if model else None
        model = next(_models_in(field.annotation), None) if field else None
    return model


def _choices(path: KeyPath) -> list[str]:
    model = _model_at(path[:-1])
    field = model.model_fields.get(str(path[-1])) if model and path else None
    annotations = (field.annotation, *get_args(field.annotation)) if field else ()
    literal = next((a for a in annotations if get_origin(a) is Literal), None)
    return [str(choice) for choice in get_args(literal)] if literal else []


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from _models_in(part)


def _places_of(name: str, model: type[BaseModel] = ConfigFile, path: KeyPath = ()) -> Iterator[KeyPath]:
    for field_name, field in model.model_fields.items():
        if field_name == name:
            yield (*path, name)
        for part in _models_in(field.annotation):
            yield from _places_of(name, part, (*path, field_name))
