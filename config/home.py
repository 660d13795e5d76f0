"""Where ledger, keys, server and logs are kept."""

from __future__ import annotations

from pathlib import Path

from tta_dev_primitives.config.reading.dotenv import find_variable


def tta_home() -> Path:
    """The folder of ledger, keys, server and logs: `TTA_HOME` (environment, then `.env`), default `~/.tta`.

    Raises:
        ConfigError: `.env` may be changed by others.
    """
    found = find_variable("TTA_HOME")
    return Path("~/.tta" if found is None else found.text.strip()).expanduser().absolute()
