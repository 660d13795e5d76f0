"""An empty, already migrated Prefect database: the first start copies it instead of running ~100 migrations.

One is shipped for the oldest and one for the newest Prefect that is allowed. The newest that is not newer than the
installed Prefect is taken, and Prefect's own migrations do the rest, if there is any.
`python -m tta_dev_primitives.blocks.prefect_server.database_template` makes the one of the installed version.
"""

from __future__ import annotations

import gzip
import os
import re
import sqlite3
import subprocess
import sys
import tempfile
from contextlib import closing
from importlib.metadata import version
from pathlib import Path

_FOLDER = Path(__file__).resolve().parent
_NAMES = "prefect-*.sqlite.gz"


def shipped_template() -> Path | None:
    """The packaged template that the installed Prefect can take; None when all are newer."""
    installed = _numbers(version("prefect"))
    found = {_numbers(path.name[len("prefect-") : -len(".sqlite.gz")]): path for path in _FOLDER.glob(_NAMES)}
    fitting = [made_by for made_by in found if made_by <= installed]
    return found[max(fitting)] if fitting else None


def _numbers(release: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", release)[:3])


def install_template(database: Path) -> bool:
    """Create `database` from the template, mode 0600; False when it exists or no template fits.

    The file appears whole or not at all, so a crash in between is followed by an ordinary first start.
    """
    source = shipped_template()
    if source is None or database.exists():
        return False
    try:
        data = gzip.decompress(source.read_bytes())
    except (OSError, EOFError):
        return False
    part = database.with_suffix(".part")
    part.unlink(missing_ok=True)
    descriptor = os.open(part, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
    part.rename(database)
    return True


def make_template() -> Path:
    """Run Prefect's migrations on an empty database and keep the result as the shipped template."""
    goal = _FOLDER / f"prefect-{version('prefect')}.sqlite.gz"
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
        subprocess.run([sys.executable, "-c", _MIGRATE], env=env, cwd=scratch, check=True)  # noqa: S603
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
    made = make_template()
    print(f"{made.name}: {made.stat().st_size} bytes")
