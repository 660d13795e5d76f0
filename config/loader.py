"""From a file, the environment and the defaults to one configuration."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from tta_dev_primitives.config.consistency import consistency_faults
from tta_dev_primitives.config.errors import ConfigError
from tta_dev_primitives.config.options import ConfigFile, OrchestrationConfig, Provenance
from tta_dev_primitives.config.overrides import (
    Override,
    apply_overrides,
    misspelt_variables,
    read_overrides,
)
from tta_dev_primitives.config.reading.config_faults import Fault, KeyPath, config_error, shown
from tta_dev_primitives.config.reading.option_faults import model_faults
from tta_dev_primitives.config.reading.strict_yaml import Document, read_yaml
from tta_dev_primitives.config.reading.trusted_files import is_home

logger = logging.getLogger("tta_dev_primitives.config.orchestration_config")

SEARCH_PATHS = (
    ".tta/orchestration-config.yaml",
    "orchestration-config.yaml",
    "~/.tta/orchestration-config.yaml",
)


def load_orchestration_config(
    config_path: str | os.PathLike[str] | None = None, use_env_overrides: bool = True
) -> OrchestrationConfig:
    """Load the configuration: the file, over it the five `TTA_*` variables, below it the defaults.

    Args:
        config_path: The file to load; None searches `SEARCH_PATHS` and takes the defaults if none is there.
        use_env_overrides: Whether the `TTA_*` variables (also those in `.env`) override the file.

    Returns:
        The configuration; it knows its `source` and its `overrides`.

    Raises:
        FileNotFoundError: `config_path` names no file.
        ConfigError: A ValueError: the file or a variable is wrong. All faults are in the message, each with
            file, line and key, or with the variable.
    """
    if not isinstance(use_env_overrides, bool):
        raise ConfigError(
            f"use_env_overrides: {use_env_overrides!r:.80} is not accepted. Expected True or False."
        )
    path = find_config_file() if config_path is None else _explicit(config_path)
    document = _read(path, config_path) if path is not None else Document({"orchestration": {}}, "defaults")
    faults = _faults(document)
    overrides, override_faults = read_overrides() if use_env_overrides else ([], [])
    if faults or override_faults:
        raise config_error([*faults, *override_faults], document.source)
    config = _validated(document, overrides)
    _log(path, document, overrides)
    if use_env_overrides:
        for name, meant in misspelt_variables().items():
            _warn_once(f"{name} is no variable of this program. Did you mean {meant}?")
    names = {override.variable: override.key for override in overrides}
    source = None if path is None else Path(os.path.abspath(path))
    found = config_path is None and path is not None and not _is_the_users(path)
    return config.with_provenance(
        Provenance(source, names, document.digest, found, use_env_overrides, config.cost_tracking)
    )


def reload_config(config: OrchestrationConfig) -> OrchestrationConfig:
    """The file of a configuration as it is now, read and trusted in the same way."""
    if config.source is None:
        raise FileNotFoundError("The configuration came from no file")
    again = load_orchestration_config(config.source, config.provenance.environment)
    return again.with_provenance(replace(again.provenance, from_folder=config.provenance.from_folder))


def find_config_file() -> Path | None:
    """The first of `SEARCH_PATHS` that exists (a broken link counts: it is reported, not passed over)."""
    for text in SEARCH_PATHS:
        path = Path(os.path.expanduser(text))
        try:
            path.lstat()
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            logger.warning("%s cannot be looked at (%s): passed over", path, error.strerror)
            continue
        return path
    return None


def _is_the_users(path: Path) -> bool:
    """Whether a file that was found is the one in the user's home, not one that came with a folder."""
    own = Path(os.path.expanduser(SEARCH_PATHS[-1]))
    return path == own or (is_home(Path()) and path == Path(SEARCH_PATHS[0]))


def _explicit(config_path: str | os.PathLike[str]) -> Path:
    if not isinstance(config_path, (str, os.PathLike)):
        raise ConfigError(
            f"config_path: {config_path!r:.80} is no path. Expected the path of a YAML file, or None."
        )
    text = os.fspath(config_path)
    if not text:
        raise FileNotFoundError("Configuration file not found: the path is empty")
    return Path(os.path.expanduser(text))


def _read(path: Path, config_path: object) -> Document:
    try:
        return read_yaml(path)
    except FileNotFoundError:
        shown_path = path if config_path is None else config_path
        raise FileNotFoundError(
            f"Configuration file not found: {shown_path} (create one with: tta init {shown_path})"
        ) from None


def _faults(document: Document) -> list[Fault]:
    """Everything that is wrong with the file itself."""
    data = document.data
    if not isinstance(data, dict):
        found = "the file is empty" if data is None else f"found {shown(data)}"
        raise ConfigError(
            f"{document.source}:1: {found}; expected the key `orchestration:` with options below it"
        )
    known = {fault.path for fault in document.faults}
    found_faults = [fault for fault in _content_faults(document) if not _inside(fault.path, known)]
    return [*document.faults, *found_faults]


def _content_faults(document: Document) -> list[Fault]:
    try:
        config = ConfigFile.model_validate(document.data).orchestration
    except ValidationError as error:
        return model_faults(error, document)
    return [
        Fault(fault.message, fault.path, document.line_of(fault.path)) for fault in consistency_faults(config)
    ]


def _inside(path: KeyPath, known: set[KeyPath]) -> bool:
    return any(path[: len(above)] == above for above in known)


def _validated(document: Document, overrides: list[Override]) -> OrchestrationConfig:
    """File and overrides are each right by themselves; here they must also fit each other."""
    config = ConfigFile.model_validate(apply_overrides(document.data, overrides)).orchestration
    variables = {override.path: override.variable for override in overrides}
    faults = [
        Fault(fault.message, fault.path, document.line_of(fault.path), variables.get(fault.path))
        for fault in consistency_faults(config)
    ]
    if faults:
        raise config_error(faults, document.source)
    return config


def _log(path: Path | None, document: Document, overrides: list[Override]) -> None:
    if path is None:
        logger.info("No config file found, using defaults")
    else:
        logger.info("Loaded orchestration configuration from %s", path)
    for override in overrides:
        before = _value_at(document.data, override.path)
        origin = "" if override.origin == "environment" else f" (from {override.origin})"
        instead = "" if before is None else f" instead of {shown(before)}"
        value = shown(override.value)
        logger.info("%s%s overrides %s: %s%s", override.variable, origin, override.key, value, instead)


@cache
def _warn_once(message: str) -> None:
    """A job reads its configuration again and again."""
    logger.warning(message)


def _value_at(data: Any, path: KeyPath) -> Any:
    for part in path:
        data = data.get(part) if isinstance(data, Mapping) else None
    return data
