"""Makes the empty, migrated Prefect database that the package ships, with the installed Prefect's migrations."""

from __future__ import annotations

import gzip
import os
import sqlite3
import subprocess
import sys
import tempfile
from contextlib import closing
from importlib.metadata import version
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[2] / "blocks" / "prefect_server"


def make_template() -> Path:
    """Run Prefect's migrations on an empty database and keep the result as the shipped template."""
    goal = FOLDER / f"prefect-{version('prefect')}.sqlite.gz"
    with tempfile.TemporaryDirectory() as scratch:
        database, copy = Path(scratch) / "prefect.db", Path(scratch) / "copy.db"
        env = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT_")}
        env |= {
            "PREFECT_HOME": scratch,
            "PREFECT_SERVER_DATABASE_CONNECTION_URL": f"sqlite+aiosqlite:///{database}",
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "DO_NOT_TRACK": "1",
        }
        # Another process: Prefect reads its settings when it is imported.
        subprocess.run([sys.executable, "-c", _MIGRATE], env=env, cwd=scratch, check=True)
        with closing(sqlite3.connect(database)) as connection:
            connection.execute("VACUUM INTO ?", (str(copy),))
        # mtime=0: the same database gives the same bytes.
        goal.write_bytes(gzip.compress(copy.read_bytes(), 9, mtime=0))
    return goal


_MIGRATE = """
import asyncio
from prefect.server.database import provide_database_interface

asyncio.run(provide_database_interface().create_db())
"""

if __name__ == "__main__":
    print(make_template().name)
