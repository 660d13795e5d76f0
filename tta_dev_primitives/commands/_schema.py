"""`--schema`: the type of the answers, from a JSON file or a Python module."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

from tta_dev_primitives.config.errors import ConfigError
from tta_dev_primitives.flows.answers.json_schema import MAX_SCHEMA_BYTES
from tta_dev_primitives.flows.answers.output_type import OutputType


def read_schema(text: str | None) -> OutputType | None:
    """The output type that `--schema` names; None without the option.

    Args:
        text: The path of a JSON Schema file, or `module:Model`, importable from the working folder.

    Raises:
        ConfigError: There is no such file or name, or it is no usable schema.
    """
    if text is None:
        return None
    module, colon, name = text.partition(":")
    if colon and name.isidentifier() and not Path(text).exists():
        return OutputType.of(_named(module, name), name=f"--schema {text}")
    path = Path(text)
    try:
        with path.open("rb") as file:
            data = file.read(4 * MAX_SCHEMA_BYTES)
        schema = json.loads(data)
    except OSError as error:
        raise ConfigError(
            f"--schema {text}: {error.strerror}. Give a JSON Schema file, or module:Model."
        ) from None
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"--schema {text}: not JSON: {error}") from None
    if not isinstance(schema, dict):
        raise ConfigError(f"--schema {text}: expected a JSON Schema object, got {type(schema).__name__}.")
    return OutputType.of(schema, name=f"--schema {text}")


def _named(module: str, name: str) -> object:
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        found = importlib.import_module(module)
    except (Exception, SystemExit) as error:  # the user's own module may raise anything
        why = f"{type(error).__name__}: {error}"
        raise ConfigError(f"--schema {module}:{name}: the module cannot be imported: {why}.") from None
    if not hasattr(found, name):
        raise ConfigError(f"--schema {module}:{name}: the module has no {name}.")
    return getattr(found, name)
