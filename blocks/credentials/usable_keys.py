"""Whether any model of a configuration can have a key, asked before a server is started. Does not import Prefect."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Collection, Iterable
from contextlib import closing

from tta_dev_primitives.blocks.credentials.config_trust import refuse_untrusted
from tta_dev_primitives.blocks.credentials.keys import block_name
from tta_dev_primitives.blocks.prefect_server.endpoint import configured_api
from tta_dev_primitives.blocks.prefect_server.server_settings import ServerHome
from tta_dev_primitives.blocks.providers.address_rules import base_of, is_private_host
from tta_dev_primitives.config import OrchestrationConfig
from tta_dev_primitives.config.errors import ConfigError, MissingKeyError
from tta_dev_primitives.config.models.catalogue import load_catalogue
from tta_dev_primitives.config.models.resolve import resolve_targets
from tta_dev_primitives.config.models.targets import Target
from tta_dev_primitives.config.reading.api_keys import find_api_key

_OTHER_DATABASE = ("PREFECT_SERVER_DATABASE_", "PREFECT_API_DATABASE_")


def refuse_without_key(config: OrchestrationConfig) -> None:
    """Stop when no model of the configuration can be called: no variable, no block, no server without keys."""
    targets = resolve_targets(config)
    asked = targets if config.enabled else {config.orchestrator.model: targets[config.orchestrator.model]}
    if any(_has_key(target) for target in asked.values()) or _may_hold_block(asked.values()):
        return
    refuse_untrusted(config)
    variables = tuple(dict.fromkeys(target.api_key_env for target in asked.values()))
    raise MissingKeyError(
        f"API key not found: no model can be called. Set {_one_of(variables)} in the environment or in .env.\n"
        "Without a key: `tta init` writes a configuration (also for a server of your own), "
        "`tta sandbox` serves all models on this machine, `tta demo` shows seven tasks.",
        variables=variables,
    )


def _one_of(names: Collection[str]) -> str:
    *first, last = names
    return f"one of {', '.join(first)} or {last}" if first else last


def _has_key(target: Target) -> bool:
    """Whether a variable holds something, or the model's server needs no key; a wrong key is the run's to report."""
    try:
        if find_api_key(target.api_key_env) is not None:
            return True
    except MissingKeyError:
        pass  # a placeholder
    except ConfigError:
        return True
    return load_catalogue().is_compatible(target.provider) and is_private_host(base_of(target).host)


def _may_hold_block(targets: Iterable[Target]) -> bool:
    """Whether Prefect may hold a key: a configured API has to be asked, the embedded server's file is read."""
    if configured_api() is not None or any(name.startswith(_OTHER_DATABASE) for name in os.environ):
        return True
    database = ServerHome.find().database
    if not database.is_file():
        return False
    try:
        with closing(sqlite3.connect(f"{database.absolute().as_uri()}?mode=ro", uri=True)) as opened:
            saved = {name for (name,) in opened.execute("SELECT name FROM block_document")}
    except sqlite3.Error:
        return True  # another version's tables: the server itself has to be asked
    return any(block_name(target) in saved for target in targets)
