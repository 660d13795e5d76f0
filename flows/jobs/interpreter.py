"""Which Python runs generated tests: the project's, not this program's."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from tta_dev_primitives.config.errors import ConfigError


def find_python(given: str | None) -> str:
    """The interpreter that runs the tests: the given one, that of the active virtual environment, or this one's.

    Raises:
        ConfigError: There is none at the given path.
    """
    active = os.environ.get("VIRTUAL_ENV")
    found = given or (str(Path(active, "bin", "python")) if active else "")
    if found and os.access(found, os.X_OK) and Path(found).is_file():
        # Not resolved: a virtual environment is known by the path of its link.
        return os.path.abspath(found)
    if given:
        raise ConfigError(
            f"--python {given}: no program there. Give the path of an interpreter, such as .venv/bin/python."
        )
    return sys.executable
