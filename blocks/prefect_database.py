"""What the embedded server's own database says, read without the server: it may be starting, and asks for 50 ms.

Only whether something is there at all. What it holds is asked of the API: block data is encrypted, limits change.
"""

from __future__ import annotations

import os
import sqlite3

from tta_dev_primitives.blocks.prefect_server.server_settings import EMBEDDED_MARK, ServerHome

__all__ = ["holds_limits", "lacks_block"]

_OTHER_DATABASE = ("PREFECT_SERVER_DATABASE_", "PREFECT_API_DATABASE_")


def holds_limits(home: ServerHome) -> bool:
    """Whether runs have to ask for a place before they start a task; True when that cannot be told."""
    queries = [f"SELECT count(*) FROM {table}" for table in ("concurrency_limit", "concurrency_limit_v2")]  # noqa: S608
    return any(_count(home, query) != 0 for query in queries)


def lacks_block(name: str, api: str) -> bool:
    """Whether `api` is the embedded server of this process and no block `name` is saved; False when unsure."""
    if api != os.environ.get(EMBEDDED_MARK):
        return False
    return _count(ServerHome.find(), "SELECT count(*) FROM block_document WHERE name = ?", name) == 0


def _count(home: ServerHome, query: str, *values: str) -> int | None:
    """The number that `query` finds; None when the file is another server's, or cannot be read."""
    if any(name.startswith(_OTHER_DATABASE) for name in os.environ):
        return None
    try:
        if not home.database.exists() or home.database.stat().st_size == 0:
            return 0  # it is being made
        connection = sqlite3.connect(f"file:{home.database}?mode=ro", uri=True, timeout=0.1)
        try:
            (found,) = connection.execute(query, values).fetchone()
        finally:
            connection.close()
    except (OSError, sqlite3.Error):
        return None
    return int(found)
