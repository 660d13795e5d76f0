"""Reads scenario files; every fault names the file, the line and the key."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from tta_dev_primitives.config.errors import ConfigError
from tta_dev_primitives.config.reading.config_faults import Fault, KeyPath, config_error, near_miss
from tta_dev_primitives.config.reading.strict_yaml import Document, parse_yaml, read_yaml
from tta_dev_primitives.deployments.sandbox.scenario import scenario as s

_BLOCKS: dict[str, type[BaseModel]] = {
    "defaults": s.Defaults, "quotas": s.Quota, "rules": s.Rule, "match": s.Match,
    "batches": s.BatchScript, "reply": s.Reply, "usage": s.UsageScript,
}  # fmt: skip


def load_scenario(path: str | Path) -> s.Scenario:
    """Read a scenario file, YAML or JSON.

    Raises:
        ConfigError: There is no such file, or its content is wrong; names file, line and key.
    """
    try:
        document = read_yaml(Path(path))
    except FileNotFoundError:
        raise ConfigError(f"Scenario file not found: {path}") from None
    return _scenario(document)


def parse_scenario(text: str, *, source: str = "<scenario>") -> s.Scenario:
    """Read scenario text; an empty one is a scenario without rules.

    Raises:
        ConfigError: Its content is wrong; names the line and the key.
    """
    return _scenario(parse_yaml(text.encode("utf-8", "surrogatepass"), source))


def _scenario(document: Document) -> s.Scenario:
    document.checked()
    data = {} if document.data is None else document.data
    if not isinstance(data, dict):
        fault = Fault(f"expected keys such as rules: at the top, found a {type(data).__name__}", line=1)
        raise config_error([fault], document.source)
    try:
        return s.Scenario.model_validate(data)
    except ValidationError as error:
        faults = [_fault(detail, document) for detail in error.errors(include_url=False)]
        raise config_error(faults, document.source) from None


def _fault(detail: Any, document: Document) -> Fault:
    path, message = _path(detail["loc"], document.data), detail["msg"]
    if detail["type"] == "extra_forbidden":
        known = [field.alias or name for name, field in _holder(path[:-1]).model_fields.items()]
        meant = near_miss(str(path[-1]), known)
        hint = f"did you mean {meant}?" if meant else f"known here: {', '.join(known)}"
        message = f"unknown key; {hint}"
    elif detail["type"] == "value_error":
        message = str(detail["ctx"]["error"])
    return Fault(message, path, document.line_of(path))


def _path(loc: Sequence[str | int], data: Any) -> KeyPath:
    """Where the fault stands in the file, without the branches of unions that pydantic names, too."""
    path: list[str | int] = []
    for part in loc:
        if (isinstance(data, dict) and part in data) or (isinstance(data, list) and isinstance(part, int)):
            path.append(part)
            data = data[part]  # type: ignore[index]
    return tuple(path)


def _holder(path: KeyPath) -> type[BaseModel]:
    if not path:
        return s.Scenario
    name = path[-2] if isinstance(path[-1], int) else path[-1]
    return s.Model if path[0] == "models" else _BLOCKS.get(str(name), s.Scenario)
