"""Lets the embedded server's write transactions wait for each other instead of failing.

Prefect begins them DEFERRED on SQLite. One that reads before it writes (creating a flow run does) then fails
at once with SQLITE_BUSY_SNAPSHOT when another has written in between; no timeout helps. The API answers 503 and
the client sleeps 2 s: one run in forty. BEGIN IMMEDIATE takes its turn at the start and waits there.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from contextvars import ContextVar
from typing import Any

_open: ContextVar[bool] = ContextVar("tta_sqlite_transaction_open", default=False)


def queue_write_transactions() -> None:
    """Change Prefect's SQLite configuration in this process; other databases are not touched.

    A Prefect whose configuration has another shape keeps its own transactions.
    """
    from prefect.server.database import configurations

    sqlite: Any = getattr(configurations, "AioSqliteConfiguration", None)
    begin = getattr(sqlite, "begin_transaction", None)
    if begin is None:
        return

    @asynccontextmanager
    async def begin_in_turn(
        self: Any, session: Any, with_for_update: bool = False
    ) -> AsyncGenerator[Any, None]:
        # A transaction inside another of the same task must not wait for it: it begins as Prefect wrote it.
        outermost = not _open.get()
        token = _open.set(True)
        try:
            async with begin(self, session, with_for_update=with_for_update or outermost) as transaction:
                yield transaction
        finally:
            _open.reset(token)

    sqlite.begin_transaction = begin_in_turn
