"""The five environment variables that override the file, and how their text is read."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from pydantic import ValidationError

from tta_dev_primitives.config.options import ConfigFile
from tta_dev_primitives.config.reading.config_faults import Fault, KeyPath, dotted
from tta_dev_primitives.config.reading.dotenv import Variable, find_variable, read_dotenv
from tta_dev_primitives.config.reading.option_faults import model_faults
from tta_dev_primitives.config.reading.scalars import OddScalarError, plain_number

_TRUE = {"true", "1", "yes", "on"}
_FALSE = {"false", "0", "no", "off"}


@dataclass(frozen=True, slots=True)
class Override:
    """One variable that is set, read and found right."""

    variable: str
    origin: str
    path: KeyPath
    value: Any

    @property
    def key(self) -> str:
        """The key it overrides, for example `orchestration.quality_threshold`."""
        return dotted(self.path)


def _boolean(text: str) -> bool:
    word = text.lower()
    if word in _TRUE:
        return True
    if word in _FALSE:
        return False
    raise ValueError(f"found {text[:40]!r}, expected true or false (1/0, yes/no, on/off are taken as well)")


def _number(text: str) -> Any:
    try:
        number = plain_number(text)
    except OddScalarError:
        number = None
    if number is None:
        raise ValueError(f"found {text[:40]!r}, expected a plain number such as 100 or 0.85")
    return number


OVERRIDES: Mapping[str, tuple[KeyPath, Callable[[str], Any]]] = {
    "TTA_ORCHESTRATION_ENABLED": (("orchestration", "enabled"), _boolean),
    "TTA_PREFER_FREE_MODELS": (("orchestration", "prefer_free_models"), _boolean),
    "TTA_QUALITY_THRESHOLD": (("orchestration", "quality_threshold"), _number),
    "TTA_ORCHESTRATOR_MODEL": (("orchestration", "orchestrator", "model"), str),
    "TTA_BUDGET_LIMIT_USD": (("orchestration", "cost_tracking", "budget_limit_usd"), _number),
}
"""Variable -> the key it overrides, and how its text is read."""
VARIABLES = (
    *OVERRIDES,
    "TTA_HOME",
    "TTA_LEDGER_URL",
    "TTA_ALLOW_OPEN_ENV",
    "TTA_TRUST",
    "TTA_CONFIG_FOLDERS",
    "TTA_SERVER_PORT",
    "TTA_SERVER_HOST",
    "TTA_SERVER_IDLE_S",
)
"""What a person may set: docs/configuration.md."""
INTERNAL_VARIABLES = (
    "TTA_SERVER_URL",
    "TTA_SERVER_HOME",
    "TTA_SERVER_FOR_PID",
    "TTA_SANDBOX_KEY",
    "TTA_REPLAY_KEY",
    "TTA_FAILPOINT",
)
_NEAR = 0.85


def misspelt_variables(environ: Mapping[str, str] | None = None) -> dict[str, str]:
    """Variables that are set and not read, with the one that was probably meant: a budget may hang on it."""
    given = {*(os.environ if environ is None else environ), *read_dotenv()}
    unknown = sorted(
        n for n in given if n.upper().startswith("TTA") and n not in (*VARIABLES, *INTERNAL_VARIABLES)
    )
    near = {name: get_close_matches(name.upper(), VARIABLES, n=1, cutoff=_NEAR) for name in unknown}
    return {name: found[0] for name, found in near.items() if found}


def read_overrides(environ: Mapping[str, str] | None = None) -> tuple[list[Override], list[Fault]]:
    """The overrides that are set (an empty variable is not), and what is wrong with the others."""
    overrides: list[Override] = []
    faults: list[Fault] = []
    for name, (path, read) in OVERRIDES.items():
        variable = find_variable(name, environ)
        if variable is None:
            continue
        try:
            value = read(variable.text.strip())
        except ValueError as error:
            faults.append(Fault(_with_origin(str(error), variable), variable=name))
            continue
        wrong = _faults_of(path, value)
        faults += [Fault(_with_origin(fault.message, variable), variable=name) for fault in wrong]
        if not wrong:
            overrides.append(Override(name, variable.origin, path, value))
    return overrides, faults


def apply_overrides(data: dict[str, Any], overrides: list[Override]) -> dict[str, Any]:
    """`data` (the content of a file) with the overrides in place; `data` itself stays as it is."""
    merged = deepcopy(data)
    for override in overrides:
        block = merged
        for part in override.path[:-1]:
            block = block.setdefault(str(part), {})
        last = str(override.path[-1])
        if override.path[-2:] == ("orchestrator", "model") and block.get(last) != override.value:
            for key in ("api_model", "price", "limits"):  # they belong to the model that is replaced
                block.pop(key, None)
        block[last] = override.value
    return merged


def _faults_of(path: KeyPath, value: Any) -> list[Fault]:
    data: Any = value
    for part in reversed(path):
        data = {part: data}
    try:
        ConfigFile.model_validate(data)
    except ValidationError as error:
        return model_faults(error)
    return []


def _with_origin(message: str, variable: Variable) -> str:
    return message if variable.origin == "environment" else f"{message} (set in {variable.origin})"
