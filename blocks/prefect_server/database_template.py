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
from importlib.metadata import version
from pathlib import Path

_FOLDER = Path(__file__).resolve().parent
_NAMES = "prefect-*.sqlite.gz"
# The one table with a row: at which migration the schema is. Each server registers block types itself.
_KEPT = frozenset({"alembic_version"})


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


def save_template(database: Path, target: Path) -> None:
    """Write a compressed copy of `database` without anything that belongs to this installation.

    Raises:
        ValueError: The database already holds work; a template is taken from a fresh one only.
    """
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        copy = Path(scratch) / "copy.db"
        source = sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True)
        try:
            source.execute("VACUUM INTO ?", (str(copy),))
        finally:
            source.close()
        _check_empty(copy)
        packed = copy.with_suffix(".gz")
        # mtime=0: the same database gives the same bytes.
        packed.write_bytes(gzip.compress(copy.read_bytes(), 9, mtime=0))
        packed.replace(target)


def _check_empty(database: Path) -> None:
    connection = sqlite3.connect(database)
    try:
        tables = {row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        for table in sorted(tables - _KEPT):
            (rows,) = connection.execute(f'SELECT count(*) FROM "{table}"').fetchone()  # noqa: S608 - its own name
            if rows:
                raise ValueError(f"{database.name}: table {table} holds {rows} rows; not a fresh database")
    finally:
        connection.close()


def make_template(target: Path | None = None) -> Path:
    """Run Prefect's migrations on an empty database and keep the result as the shipped template."""
    goal = target or _FOLDER / f"prefect-{version('prefect')}.sqlite.gz"
    with tempfile.TemporaryDirectory() as scratch:
        database = Path(scratch) / "prefect.db"
        env = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT_")}
        env |= {
            "PREFECT_HOME": scratch,
            "PREFECT_SERVER_DATABASE_CONNECTION_URL": f"sqlite+aiosqlite:///{database}",
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "DO_NOT_TRACK": "1",
        }
        # Another process: Prefect reads its settings when it is imported.
        subprocess.run([sys.executable, "-c", _MIGRATE], env=env, cwd=scratch, check=True)  # noqa: S603
        save_template(database, goal)
    return goal


_MIGRATE = """
import asyncio
from prefect.server.database import provide_database_interface

asyncio.run(provide_database_interface().create_db())
"""

if __name__ == "__main__":
    made = make_template()
    print(f"{made.name}: {made.stat().st_size} bytes")
