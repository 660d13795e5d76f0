"""The thread with a private event loop and the PostgreSQL connections of this process."""

from __future__ import annotations

import asyncio
import contextlib
import random
import threading
import time
from collections.abc import Coroutine
from typing import Any, TypeVar

import asyncpg

from tta_dev_primitives.blocks.ledger.database.dialect import numbered
from tta_dev_primitives.blocks.ledger.database.migrations import migrate, schema_generation
from tta_dev_primitives.blocks.ledger.database.protocol import Work
from tta_dev_primitives.blocks.ledger.failpoints import failpoint
from tta_dev_primitives.blocks.redaction import redact
from tta_dev_primitives.config.errors import LedgerConfigError, LedgerError
from tta_dev_primitives.config.hidden_url import HiddenUrl

T = TypeVar("T")
_RETRY_S = 30.0
_FIRST_CONNECT_S = 5.0
_CLOCK_S = 30.0
_CONNECTIONS = 3
"""A process: the month's row lets one commit at a time anyway, and servers allow about 100 in all."""
_MIGRATION_LOCK = 0x5454413100000001
_SERVER_SETTINGS = {
    "application_name": "tta-ledger",
    "synchronous_commit": "on",
    "statement_timeout": "30000",
    "lock_timeout": "30000",
    # A frozen client may not keep the month's row from everybody else.
    "idle_in_transaction_session_timeout": "30000",
}
_ROLLED_BACK = (asyncpg.DeadlockDetectedError, asyncpg.SerializationError)
_DOWN = (
    asyncpg.PostgresConnectionError,
    asyncpg.CannotConnectNowError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.TooManyConnectionsError,
    OSError,
)
_WRONG = (asyncpg.InvalidAuthorizationSpecificationError, asyncpg.InvalidCatalogNameError)
"""User, password or database of the address."""
_clock = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


class _PostgresTx:
    """`Tx` on one connection of the pool."""

    def __init__(self, connection: Any, offset: float) -> None:
        self._connection = connection
        self._offset = offset

    async def execute(self, sql: str, *args: Any) -> int:
        status = str(await self._connection.execute(numbered(sql), *args))
        count = status.rpartition(" ")[2]
        return int(count) if count.isdigit() else 0

    async def fetch(self, sql: str, *args: Any) -> list[dict[str, Any]]:
        return [dict(row) for row in await self._connection.fetch(numbered(sql), *args)]

    def now(self) -> float:
        return time.clock_gettime(_clock) + self._offset


class _CommitLostError(Exception):
    """The connection broke while COMMIT was under way: it may or may not have happened."""


class Server:
    """The thread with the event loop and the pool."""

    def __init__(self, dsn: HiddenUrl, place: str) -> None:
        self._dsn = dsn
        self._place = place
        self._pool: Any = None
        self._generation = -1
        self._offset = 0.0
        self._clock_read = -1e9
        self._connected_once = False
        self.loop = asyncio.new_event_loop()
        self._setup = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()
        self.thread = threading.Thread(target=self._run, name="tta-ledger", daemon=True)
        self.thread.start()

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        try:
            self.loop.run_forever()
        finally:
            self.loop.close()

    def start(
        self,
        coroutine: Coroutine[Any, Any, Any],
        loop: asyncio.AbstractEventLoop,
        answer: asyncio.Future[Any],
    ) -> None:
        """Run `coroutine` on the private loop and put its outcome into `answer` on the caller's `loop`."""

        async def run() -> None:
            result: Any = None
            error: BaseException | None = None
            try:
                result = await coroutine
            except asyncio.CancelledError:
                error = LedgerError(f"Ledger {self._place}: it was closed while this was under way")
            except BaseException as fault:
                error = fault
            # A closed loop: the caller is gone, and the work itself is done.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(_set, answer, result, error)

        def begin() -> None:
            task = self.loop.create_task(run())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

        self.loop.call_soon_threadsafe(begin)

    def stop(self, seconds: float) -> None:
        """Let what is under way end, for a third of the time; then close pool, loop and thread."""

        async def close() -> None:
            if self._tasks:
                _, late = await asyncio.wait(list(self._tasks), timeout=seconds / 3)
                for task in late:
                    task.cancel()
            if self._pool is not None:
                try:
                    await asyncio.wait_for(self._pool.close(), seconds / 3)
                except (TimeoutError, *_DOWN):
                    self._pool.terminate()
            self.loop.stop()

        if self.thread.is_alive():
            asyncio.run_coroutine_threadsafe(close(), self.loop)
            self.thread.join(seconds)

    async def transact(self, work: Work[Any], idempotent: bool, label: str) -> Any:
        """See `Database.transact`."""
        return await self._persist(lambda: self._once(work, label), idempotent)

    async def read(self, work: Work[Any]) -> Any:
        """See `Database.read`."""
        return await self._persist(lambda: self._snapshot(work), True)

    def clock_is_fresh(self) -> bool:
        """True when the server's clock was read a short while ago."""
        return time.clock_gettime(_clock) - self._clock_read < _CLOCK_S

    def now(self) -> float:
        """The server's clock, carried on by this machine's."""
        return time.clock_gettime(_clock) + self._offset

    async def read_now(self) -> float:
        """Ask the server for its clock again; seconds since 1970."""
        await self._persist(self._opened, True)
        return self.now()

    async def _persist(self, attempt: Any, idempotent: bool) -> Any:
        """Try until the database answers: 30 seconds, or 5 if it was never reached."""
        window = _RETRY_S if self._connected_once else _FIRST_CONNECT_S
        began, pause = time.monotonic(), 0.02
        while True:
            final = False
            try:
                return await attempt()
            except _CommitLostError as fault:
                error, final = self._explain(fault.__cause__ or fault), not idempotent
            except asyncpg.TooManyConnectionsError as fault:
                error, window = self._explain(fault), _RETRY_S
            except (*_ROLLED_BACK, *_DOWN) as fault:
                error = self._explain(fault)
            except (asyncpg.PostgresError, asyncpg.InterfaceError, TimeoutError) as fault:
                error = self._explain(fault)
                # The server went down under a statement that was not committed: it may be tried again.
                final = not (isinstance(fault, asyncpg.InterfaceError) and "closed" in str(fault))
            # Raised out here: the driver's frames hold the password, and would hang on as its context.
            if final or time.monotonic() >= began + window:
                raise error
            await asyncio.sleep(pause * (0.5 + random.random()))  # noqa: S311 - jitter, not a secret
            pause = min(pause * 2, 1.0)

    def _explain(self, fault: BaseException) -> LedgerError:
        text = redact(str(fault)) or type(fault).__name__
        if isinstance(fault, (asyncpg.LockNotAvailableError, asyncpg.QueryCanceledError, TimeoutError)):
            fix = "It was busy for too long; try again"
        elif isinstance(fault, _DOWN):
            fix = "Start it or correct TTA_LEDGER_URL; no paid call is made until it answers"
        else:
            fix = "Correct it or TTA_LEDGER_URL; no paid call is made until then"
        kind = LedgerConfigError if isinstance(fault, _WRONG) else LedgerError
        return kind(f"Ledger {self._place}: {text}. {fix}.")

    async def _once(self, work: Work[Any], label: str) -> Any:
        pool = await self._opened()
        async with pool.acquire() as connection:
            transaction = connection.transaction()
            await transaction.start()
            try:
                result = await work(_PostgresTx(connection, self._offset))
                failpoint(f"{label}.before_commit")
            except BaseException as fault:
                if not connection.is_closed():
                    await transaction.rollback()
                elif isinstance(fault, asyncpg.InterfaceError):
                    raise ConnectionError("the connection was lost") from fault
                raise
            try:
                await transaction.commit()
            except (*_DOWN, asyncpg.InterfaceError) as fault:
                raise _CommitLostError from fault
            failpoint(f"{label}.after_commit")
            return result

    async def _snapshot(self, work: Work[Any]) -> Any:
        pool = await self._opened()
        async with pool.acquire() as connection:
            try:
                async with connection.transaction(isolation="repeatable_read", readonly=True):
                    return await work(_PostgresTx(connection, self._offset))
            except asyncpg.InterfaceError as fault:
                if connection.is_closed():
                    raise ConnectionError("the connection was lost") from fault
                raise

    async def _opened(self) -> Any:
        """The pool, with schema and clock up to date."""
        clock_age = time.clock_gettime(_clock) - self._clock_read
        if self._pool is not None and self._generation == schema_generation() and clock_age < _CLOCK_S:
            return self._pool
        async with self._setup:
            if self._pool is None:
                self._pool = await asyncpg.create_pool(
                    str(self._dsn),
                    min_size=0,
                    max_size=_CONNECTIONS,
                    timeout=10,
                    command_timeout=30,
                    max_inactive_connection_lifetime=60,
                    server_settings=_SERVER_SETTINGS,
                    # Nothing is set on a connection that would need the reset query after each use.
                    reset=_keep,
                )
            async with self._pool.acquire() as connection:
                self._connected_once = True
                await self._read_clock(connection)
                if self._generation != schema_generation():
                    await self._migrate(connection)
        return self._pool

    async def _read_clock(self, connection: Any) -> None:
        before = time.clock_gettime(_clock)
        epoch = float(await connection.fetchval("SELECT extract(epoch FROM clock_timestamp())"))
        after = time.clock_gettime(_clock)
        self._offset = epoch - (before + after) / 2
        self._clock_read = after

    async def _migrate(self, connection: Any) -> None:
        generation = schema_generation()
        async with connection.transaction():
            await connection.execute("SELECT pg_advisory_xact_lock($1)", _MIGRATION_LOCK)
            await migrate(_PostgresTx(connection, self._offset), "postgresql")
        self._generation = generation


async def _keep(_: Any) -> None:
    return None


def _set(answer: asyncio.Future[Any], result: Any, error: BaseException | None) -> None:
    if answer.done():
        return
    if error is not None:
        answer.set_exception(error)
    else:
        answer.set_result(result)
