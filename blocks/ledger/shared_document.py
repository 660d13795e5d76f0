"""A small shared document per scope, changed by one process at a time: where trust in evidence is kept.

    strata = Strata(database)
    result = await strata.change("scope", lambda text: (new_text, result))

The document lives beside the spend ledger, in the same database. The whole decide-and-record step runs inside one
transaction that first takes the scope's row, so concurrent runs, processes and machines see each other's decisions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from tta_dev_primitives.blocks.ledger.database.protocol import Database, Tx, register_schema

__all__ = ["Strata"]

T = TypeVar("T")

register_schema(
    "strata",
    1,
    [
        "CREATE TABLE risk_scope (scope TEXT PRIMARY KEY, version INTEGER NOT NULL, body TEXT, "
        "changed_at REAL NOT NULL) STRICT /* hot */"
    ],
)


class Strata:
    """The documents of one database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def change(self, scope: str, work: Callable[[str | None], tuple[str, T]]) -> T:
        """Replace the document of `scope` by what `work` makes of it, and return the rest of what it returns.

        Args:
            scope: A digest of what the document's content depends on.
            work: Takes the text (None at first), returns the new text and a result. Pure: it may run again
                when the transaction is repeated, and it runs on the database's thread.

        Raises:
            LedgerError: The database cannot be used.
        """

        async def transaction(tx: Tx) -> T:
            now = tx.now()
            await tx.execute(
                "INSERT INTO risk_scope (scope, version, body, changed_at) VALUES (?, 0, NULL, ?) "
                "ON CONFLICT (scope) DO NOTHING",
                scope,
                now,
            )
            # The update comes first: it takes the row's lock, so the text read after it is the latest.
            await tx.execute(
                "UPDATE risk_scope SET version = version + 1, changed_at = ? WHERE scope = ?", now, scope
            )
            rows = await tx.fetch("SELECT body FROM risk_scope WHERE scope = ?", scope)
            body, result = work(rows[0]["body"])
            await tx.execute("UPDATE risk_scope SET body = ? WHERE scope = ?", body, scope)
            return result

        return await self._database.transact(transaction, label="strata.change")

    async def read(self, scope: str) -> str | None:
        """The document of `scope` as it stands, None when there is none yet."""

        async def query(tx: Tx) -> str | None:
            rows = await tx.fetch("SELECT body FROM risk_scope WHERE scope = ?", scope)
            return None if not rows or rows[0]["body"] is None else str(rows[0]["body"])

        return await self._database.read(query)
