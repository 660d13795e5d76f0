"""Tables by module and version: every part that keeps rows in the ledger's database declares them here.

Statements are written once, in SQLite's words; `translate` says them in PostgreSQL's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tta_dev_primitives.blocks.ledger.database.dialect import Dialect, translate
from tta_dev_primitives.config.errors import LedgerError

if TYPE_CHECKING:
    from tta_dev_primitives.blocks.ledger.database.protocol import Tx

_registered: dict[str, dict[int, tuple[str, ...]]] = {}
_generation = 0

_META = "CREATE TABLE IF NOT EXISTS ledger_meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT"


def register_schema(name: str, version: int, statements: Sequence[str]) -> None:
    """Declare what brings the tables of `name` from `version - 1` to `version`.

    Call it at import, once a version, from 1 upward; databases apply what they lack at their next use.

    Args:
        version: 1 for the first tables, then one more for each change. A released version never changes.
        statements: DDL or DML without arguments, in SQLite's words: types INTEGER, REAL, TEXT, BLOB, and
            `INTEGER PRIMARY KEY /* counted */` for numbers that the database gives; end a table with `STRICT`,
            or with `STRICT /* hot */` when its rows are updated all the time.
    """
    global _generation
    versions = _registered.setdefault(name, {})
    given = tuple(statements)
    if versions.get(version) == given:
        return
    if version != len(versions) + 1:
        raise ValueError(f"schema {name}: version {version} does not follow {len(versions)}")
    versions[version] = given
    _generation += 1


def schema_generation() -> int:
    """A number that grows with each declaration, so that an open database notices a late one."""
    return _generation


async def migrate(tx: Tx, dialect: Dialect) -> None:
    """Bring every declared schema to its newest version, inside the caller's transaction.

    Raises:
        LedgerError: The database was written by a newer version of this program.
    """
    await tx.execute(translate(_META, dialect))
    rows = await tx.fetch("SELECT key, value FROM ledger_meta WHERE key LIKE 'schema.%'")
    found = {row["key"].removeprefix("schema."): int(row["value"]) for row in rows}
    for name, versions in _registered.items():
        have, newest = found.get(name, 0), max(versions)
        if have > newest:
            raise LedgerError(
                f"Ledger: the tables of '{name}' are of version {have}, this program knows up to {newest}: "
                f"a newer version wrote this ledger. Upgrade tta-dev-primitives on this machine.",
            )
        for version in range(have + 1, newest + 1):
            for statement in versions[version]:
                await tx.execute(translate(statement, dialect))
        if have < newest:
            await tx.execute(
                "INSERT INTO ledger_meta (key, value) VALUES (?, ?) "
                "ON CONFLICT (key) DO UPDATE SET value = excluded.value",
                f"schema.{name}",
                str(newest),
            )
