"""The ledger's database in PostgreSQL, shared by several machines.

One thread a process runs a private event loop with the connection pool, so that the ledger works the same
from every event loop and thread of the caller, and a cancelled caller never cuts a commit in two.
"""

from __future__ import annotations

import asyncio
import threading
from typing import Any, TypeVar, cast
from urllib.parse import unquote, urlsplit

from typing_extensions import override

from tta_dev_primitives.blocks.ledger.database.dialect import Dialect
from tta_dev_primitives.blocks.ledger.database.postgresql_pool import Server
from tta_dev_primitives.blocks.ledger.database.protocol import Database, Work
from tta_dev_primitives.blocks.redaction import register_secret
from tta_dev_primitives.config.errors import LedgerConfigError
from tta_dev_primitives.config.hidden_url import HiddenUrl

T = TypeVar("T")


class PostgresDatabase(Database):
    """A ledger in a PostgreSQL database. See the module's page."""

    dialect: Dialect = "postgresql"

    def __init__(self, dsn: HiddenUrl) -> None:
        place = _place_of(dsn)
        if place is None:
            raise LedgerConfigError(
                "Ledger URL: host or port cannot be read; write postgresql://user:password@host:5432/name"
            )
        self.place = place
        self._dsn = dsn
        self._forget()

    def _forget(self) -> None:
        self._lock = threading.Lock()
        self._server: Server | None = None

    @override
    async def transact(self, work: Work[T], *, idempotent: bool = False, label: str = "tx") -> T:
        return cast(T, await self._submit(lambda server: server.transact(work, idempotent, label)))

    @override
    async def read(self, work: Work[T]) -> T:
        return cast(T, await self._submit(lambda server: server.read(work)))

    @override
    async def now(self) -> float:
        """The server's clock, seconds since 1970."""
        server = self._started()
        return server.now() if server.clock_is_fresh() else cast(float, await self._submit(Server.read_now))

    def _started(self) -> Server:
        with self._lock:
            if self._server is None:
                self._server = Server(self._dsn, self.place)
            return self._server

    async def _submit(self, call: Any) -> Any:
        server = self._started()
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Any] = loop.create_future()
        server.start(call(server), loop, answer)
        return await answer

    @override
    async def compact(self) -> None:
        """Autovacuum does it."""

    @override
    async def aclose(self) -> None:
        with self._lock:
            server, self._server = self._server, None
        if server is not None:
            await asyncio.to_thread(server.stop, 5.0)

    @override
    def close_at_exit(self) -> None:
        if self._server is not None:
            self._server.stop(2.0)

    @override
    def after_fork(self) -> None:
        _leaked.append(self._server)
        self._forget()


def _place_of(dsn: HiddenUrl) -> str | None:
    """Host, port and name, while the password is registered for the logs; None: they cannot be read."""
    try:
        parts = urlsplit(dsn)
        port = parts.port or 5432
    except ValueError:
        return None
    for password in (parts.password or "", unquote(parts.password or "")):
        register_secret(password)
    return f"postgresql://{parts.hostname or 'localhost'}:{port}{parts.path}"


_leaked: list[Any] = []
