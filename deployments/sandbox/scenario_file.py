"""Reads scenario files; every fault names the file, the line and the key."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from tta_dev_primitives.config.errors import ConfigError
from tta_dev_primitives.config.reading.config_faults import Fault, KeyPath, config_error, near_miss
from tta_dev_primitives.config.reading.strict_yaml import Document, parse_yaml, read_yaml
from tta_dev_primitives.deployments.sandbox.scenario import (
    Clock,
    Defaults,
    Match,
    Model,
    Quota,
    Reply,
    Rule,
    Scenario,
    UsageScript,
)

__all__ = ["load_scenario", "parse_scenario"]

_BLOCKS: Mapping[str, type[BaseModel]] = {
    "clock": Clock,
    "defaults": Defaults,
    "quotas": Quota,
    "rules": Rule,
    "match": Match,
    "reply": Reply,
    "usage": UsageScript,
}


def load_scenario(path: str | Path) -> Scenario:
    """Read a scenario file, YAML or JSON.

    Raises:
        ConfigError: There is no such file, or it says something unknown; names file, line and key.
    """
    try:
        document = read_yaml(Path(path))
    except FileNotFoundError:
        raise ConfigError(f"Scenario file not found: {path}") from None
    return _scenario(document)


def parse_scenario(text: str, *, source: str = "<scenario>") -> Scenario:
    """Read scenario text; an empty one is a scenario without rules.

    Raises:
        ConfigError: It says something unknown; names the line and the key.
    """
    return _scenario(parse_yaml(text.encode("utf-8", "surrogatepass"), source))


def _scenario(document: Document) -> Scenario:
    document.checked()
    data = {} if document.data is None else document.data
    if not isinstance(data, dict):
        fault = Fault(f"expected keys such as rules: at the top, found a {type(data).__name__}", line=1)
        raise config_error([fault], document.source)
    try:
        return Scenario.model_validate(data)
    except ValidationError as error:
        faults = [_fault(detail, document) for detail in error.errors(include_url=False)]
        raise config_error(faults, document.source) from None


def _fault(detail: Any, document: Document) -> Fault:
    path = _path(detail["loc"], document.data, missing=detail["type"] == "missing")
    if detail["type"] == "extra_forbidden":
        known = [field.alias or name for name, field in _holder(path[:-1]).model_fields.items()]
        meant = near_miss(str(path[-1]), known)
        message = (
            f"unknown key; did you mean {meant}?" if meant else f"unknown key; known here: {', '.join(known)}"
        )
    elif detail["type"] == "value_error":
        message = str(detail["ctx"]["error"])
    else:
        message = detail["msg"]
    return Fault(message, path, document.line_of(path))


def _path(loc: Sequence[str | int], data: Any, *, missing: bool) -> KeyPath:
    """Where the fault stands in the file, without the branches of unions that pydantic names, too."""
    path: list[str | int] = []
    for part in loc:
        if (isinstance(data, dict) and part in data) or (isinstance(data, list) and isinstance(part, int)):
            path.append(part)
            data = data[part]  # type: ignore[index]
    if missing:
        path.append(loc[-1])
    return tuple(path)


def _holder(path: KeyPath) -> type[BaseModel]:
    if not path:
        return Scenario
    name = path[-2] if isinstance(path[-1], int) else path[-1]
    return Model if path[0] == "models" else _BLOCKS.get(str(name), Scenario)
