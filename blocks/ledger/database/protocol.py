"""The database under the ledger, quotas and risk tables: SQLite by default, PostgreSQL by URL, one small API.

    db = database_for(default_ledger_url())

    async def work(tx: Tx) -> int:
        await tx.execute("UPDATE t SET n = n + ? WHERE id = ?", 1, "a")
        rows = await tx.fetch("SELECT n FROM t WHERE id = ?", "a")
        return rows[0]["n"]

    n = await db.transact(work)

A work function awaits nothing but its `Tx`, has no side effect of its own (it may run again after a
rollback) and returns plain values. It runs on the database's own thread, not on the caller's loop.
"""

from __future__ import annotations

import atexit
import os
import re
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from functools import wraps
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

from tta_dev_primitives.blocks.ledger.database.dialect import Dialect
from tta_dev_primitives.config.errors import LedgerConfigError
from tta_dev_primitives.config.hidden_url import HiddenUrl
from tta_dev_primitives.config.home import tta_home
from tta_dev_primitives.config.reading.dotenv import find_variable

T = TypeVar("T")
S = TypeVar("S", bound="Stored")
P = ParamSpec("P")


class Tx(Protocol):
    """One open transaction. SQL is written for both databases, with `?` for each argument."""

    async def execute(self, sql: str, *args: Any) -> int:
        """Run a statement; returns the number of rows it inserted, updated or deleted."""
        ...

    async def fetch(self, sql: str, *args: Any) -> list[dict[str, Any]]:
        """Run a query (or `... RETURNING`); returns its rows as dictionaries."""
        ...

    def now(self) -> float:
        """The database's clock: seconds since 1970 (SQLite: this host's; PostgreSQL: the server's)."""
        ...


Work = Callable[[Tx], Awaitable[T]]


class Database(ABC):
    """One ledger database, usable from any event loop and thread, and after a fork."""

    dialect: Dialect
    place: str
    """Where it is, for messages; without a password."""

    @abstractmethod
    async def transact(self, work: Work[T], *, idempotent: bool = False, label: str = "tx") -> T:
        """Run `work` in one durable transaction and return its result once that is on disk.

        An exception of `work` rolls back its own statements and reaches the caller unchanged. A cancelled
        caller may still see its work committed.

        Args:
            idempotent: `work` may run again after it was committed (a COMMIT whose reply was lost is then
                repeated instead of reported).

        Raises:
            LedgerError: The database cannot be used, or was busy for 30 seconds; the message says which.
        """

    @abstractmethod
    async def read(self, work: Work[T]) -> T:
        """Run `work`, which only reads, on one consistent snapshot. Raises as `transact` does."""

    async def fetch(self, sql: str, *args: Any) -> list[dict[str, Any]]:
        """The rows of one query. Raises as `transact` does."""
        return await self.read(lambda tx: tx.fetch(sql, *args))

    async def now(self) -> float:
        """The database's clock, as `Tx.now`, outside of a transaction."""
        return time.time()

    @abstractmethod
    async def compact(self) -> None:
        """Give the space of deleted rows back to the file system; PostgreSQL does so by itself (autovacuum)."""

    @abstractmethod
    async def aclose(self) -> None:
        """Close files, threads and connections of this process; the next use opens them again."""

    @abstractmethod
    def close_at_exit(self) -> None:
        """At the end of the process: let what has begun come to its end, for two seconds at most."""

    @abstractmethod
    def after_fork(self) -> None:
        """In a forked child: leave the parent's connections alone and start afresh."""


class Stored(Protocol):
    """What keeps its rows in a database."""

    database: Database


def writes(
    label: str, *, idempotent: bool = False
) -> Callable[
    [Callable[Concatenate[S, Tx, P], Awaitable[T]]], Callable[Concatenate[S, P], Coroutine[Any, Any, T]]
]:
    """A method that runs in one transaction, which it gets as its first argument: see `Database.transact`."""

    def of(
        work: Callable[Concatenate[S, Tx, P], Awaitable[T]],
    ) -> Callable[Concatenate[S, P], Coroutine[Any, Any, T]]:
        @wraps(work)
        async def method(self: S, /, *args: P.args, **named: P.kwargs) -> T:
            run = self.database.transact
            return await run(lambda tx: work(self, tx, *args, **named), idempotent=idempotent, label=label)

        return method

    return of


def reads(
    work: Callable[Concatenate[S, Tx, P], Awaitable[T]],
) -> Callable[Concatenate[S, P], Coroutine[Any, Any, T]]:
    """A method that only reads, from one snapshot, which it gets as its first argument: see `Database.read`."""

    @wraps(work)
    async def method(self: S, /, *args: P.args, **named: P.kwargs) -> T:
        return await self.database.read(lambda tx: work(self, tx, *args, **named))

    return method


def in_parts(values: Sequence[T], most: int = 200) -> Iterator[tuple[str, Sequence[T]]]:
    """Parts of `values` that fit into one statement, each with its `?` marks."""
    for start in range(0, len(values), most):
        part = values[start : start + most]
        yield ", ".join("?" for _ in part), part


def default_ledger_url(configured: str | None = None) -> HiddenUrl:
    """Where the ledger is: `TTA_LEDGER_URL` (environment, then `.env`), else `configured`, else in `TTA_HOME`."""
    found = find_variable("TTA_LEDGER_URL")
    if found is not None:
        return HiddenUrl(found.text.strip())
    return HiddenUrl(configured or f"sqlite:///{tta_home() / 'ledger.db'}")


_OPTIONS = re.compile(r"\.(db|sqlite3?)\?\w+=[^/]*$", re.IGNORECASE)
_open: dict[tuple[int, str], Database] = {}
_open_locks: dict[int, threading.Lock] = {}
"""By process: another thread may have held the lock when this process was forked."""


def database_for(url: str) -> Database:
    """The database at `url`: one object for each database and process, opened at its first use.

    Args:
        url: `sqlite:///relative.db`, `sqlite:////absolute.db` or `postgresql://user:password@host/name`.

    Raises:
        LedgerConfigError: The URL is not one of these.
    """
    from tta_dev_primitives.blocks.ledger.database.postgresql import PostgresDatabase
    from tta_dev_primitives.blocks.ledger.database.sqlite import SqliteDatabase

    url = HiddenUrl(url)
    scheme = url.partition("://")[0]
    make: Callable[[], Database]
    path = sqlite_path(url)
    if path is not None:
        identity, make = str(path), lambda: SqliteDatabase(path)
    elif scheme != url and scheme in ("postgresql", "postgres", "postgresql+asyncpg"):
        dsn = HiddenUrl(f"postgresql://{url.partition('://')[2]}")
        identity, make = dsn, lambda: PostgresDatabase(dsn)
    else:
        raise LedgerConfigError(_unknown_url(scheme))
    with _open_locks.setdefault(os.getpid(), threading.Lock()):
        if not _open:
            atexit.register(lambda: [database.close_at_exit() for database in _open.values()])
            os.register_at_fork(after_in_child=lambda: [database.after_fork() for database in _open.values()])
        key = (os.getpid(), identity)
        if key not in _open:
            _open[key] = make()
        return _open[key]


def sqlite_path(url: str) -> Path | None:
    """The file of a `sqlite://` URL, taken as written: `?`, `#` and `%` are parts of a name like any other."""
    scheme, separator, name = url.partition("://")
    if scheme != "sqlite" or not separator:
        return None
    if not name.startswith("/") or len(name) < 2 or ":memory:" in name or "\0" in name:
        raise LedgerConfigError(
            "Ledger URL: a SQLite ledger needs a file: sqlite:///relative.db or sqlite:////absolute.db"
        )
    if _OPTIONS.search(name):
        raise LedgerConfigError(
            "Ledger URL: a SQLite ledger takes no options; write sqlite:////absolute.db without `?name=value`"
        )
    return Path(name[1:]).expanduser().absolute().resolve()


def _unknown_url(scheme: str) -> str:
    # Only the scheme is shown: the rest may hold a password.
    shown = scheme if scheme.replace("+", "").isalnum() and len(scheme) < 24 else "?"
    return (
        f"Ledger URL: '{shown}' is not a database this program knows; TTA_LEDGER_URL and "
        f"cost_tracking.ledger_url take sqlite:///path or postgresql://user:password@host/name"
    )
