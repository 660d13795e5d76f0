"""A small shared document per scope, changed by one process at a time: where trust in evidence is kept.

    documents = DocumentStore(database)
    result = await documents.change("scope", lambda text: (new_text, result))

The document lives beside the spend ledger, in the same database. The whole decide-and-record step runs inside one
transaction that first takes the scope's row, so concurrent runs, processes and machines see each other's decisions.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from tta_dev_primitives.blocks.ledger.database.migrations import register_schema
from tta_dev_primitives.blocks.ledger.database.protocol import Database, Tx, in_parts, reads, writes
from tta_dev_primitives.blocks.ledger.months import month_of

T = TypeVar("T")

register_schema(
    "strata",
    1,
    [
        "CREATE TABLE risk_scope (scope TEXT PRIMARY KEY, version INTEGER NOT NULL, body TEXT, "
        "changed_at REAL NOT NULL) STRICT /* hot */"
    ],
)
register_schema(
    "strata",
    2,
    [
        "CREATE TABLE risk_task (scope TEXT NOT NULL, task TEXT NOT NULL, body TEXT NOT NULL, at REAL NOT NULL, "
        "PRIMARY KEY (scope, task)) STRICT"
    ],
)

_SECRET = "coins"  # noqa: S105 - the name of a scope
_AT_ONCE = 500


@dataclass(slots=True)
class Book:
    """The document of a scope with the rows of some of its tasks, inside a transaction; what is assigned is kept."""

    body: str | None
    tasks: dict[str, str]
    """Content key of a task -> its row, for those that have one."""
    secret: str
    month: str


class DocumentStore:
    """The documents of one database."""

    def __init__(self, database: Database) -> None:
        self.database = database

    @writes("strata.change")
    async def change(self, tx: Tx, scope: str, work: Callable[[str | None], tuple[str, T]]) -> T:
        """Replace the document of `scope` by what `work` makes of it, and return the rest of what it returns.

        Args:
            work: Takes the text (None at first), returns the new text and a result. Pure: it may run again
                when the transaction is repeated, and it runs on the database's thread.
        """
        body, result = work(await _locked(tx, scope))
        await tx.execute("UPDATE risk_scope SET body = ? WHERE scope = ?", body, scope)
        return result

    @writes("strata.change_tasks")
    async def change_tasks(
        self,
        tx: Tx,
        scope: str,
        tasks: Sequence[str],
        work: Callable[[Book], T],
        *,
        before: str | None = None,
    ) -> tuple[T, bool]:
        """Change the document of `scope` and the rows of `tasks` together.

        Args:
            work: Changes the book and returns a result. Pure, as for `change`.
            before: A scope that this one replaces: its document is deleted.

        Returns:
            The result, and whether a document of `before` was deleted.
        """
        book = Book(await _locked(tx, scope), {}, await _secret(tx), month_of(tx.now()))
        anew = book.body is None and before is not None
        gone = bool(anew and await tx.execute("DELETE FROM risk_scope WHERE scope = ?", before))
        for marks, some in in_parts(list(dict.fromkeys(tasks))):
            found = await tx.fetch(
                f"SELECT task, body FROM risk_task WHERE scope = ? AND task IN ({marks})",  # noqa: S608
                *(scope, *some),
            )
            book.tasks.update((row["task"], row["body"]) for row in found)
        old = dict(book.tasks)
        result = work(book)
        await tx.execute("UPDATE risk_scope SET body = ? WHERE scope = ?", book.body, scope)
        changed = [(scope, *row, tx.now()) for row in book.tasks.items() if old.get(row[0]) != row[1]]
        for at in range(0, len(changed), _AT_ONCE):
            rows = changed[at : at + _AT_ONCE]
            await tx.execute(
                "INSERT INTO risk_task (scope, task, body, at) VALUES "  # noqa: S608
                + ", ".join(["(?, ?, ?, ?)"] * len(rows))
                + " ON CONFLICT (scope, task) DO UPDATE SET body = excluded.body, at = excluded.at",
                *(value for row in rows for value in row),
            )
        return result, gone

    @writes("strata.secret")
    async def secret(self, tx: Tx, first: str | None = None) -> str:
        """The secret of this ledger, made at its first use; `first`: by a replay, whose coins are those of its seed."""
        return await _secret(tx, first)

    @writes("strata.prune")
    async def prune(self, tx: Tx, before: float) -> int:
        """Delete the rows of tasks that were last seen before a moment (epoch seconds); returns how many."""
        return await tx.execute("DELETE FROM risk_task WHERE at < ?", before)

    @reads
    async def read(self, tx: Tx, scope: str) -> str | None:
        """The document of `scope` as it stands, None when there is none yet."""
        rows = await tx.fetch("SELECT body FROM risk_scope WHERE scope = ?", scope)
        return None if not rows or rows[0]["body"] is None else str(rows[0]["body"])


async def _locked(tx: Tx, scope: str) -> str | None:
    """The document of a scope, its row locked to the end of the transaction."""
    rows = await tx.fetch(
        "INSERT INTO risk_scope (scope, version, body, changed_at) VALUES (?, 1, NULL, ?) ON CONFLICT (scope) "
        "DO UPDATE SET version = risk_scope.version + 1, changed_at = excluded.changed_at RETURNING body",
        *(scope, tx.now()),
    )
    return None if rows[0]["body"] is None else str(rows[0]["body"])


async def _secret(tx: Tx, first: str | None = None) -> str:
    await tx.execute(
        "INSERT INTO risk_scope (scope, version, body, changed_at) VALUES (?, 0, ?, ?) "
        "ON CONFLICT (scope) DO NOTHING",
        *(_SECRET, first or secrets.token_hex(32), tx.now()),
    )
    rows = await tx.fetch("SELECT body FROM risk_scope WHERE scope = ?", _SECRET)
    return str(rows[0]["body"])
