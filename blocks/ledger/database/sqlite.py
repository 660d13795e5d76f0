"""The ledger's database in one SQLite file, shared by any number of processes of one machine.

One worker thread a process owns the only connection. It takes what has queued up, runs each work in a
savepoint of one `BEGIN IMMEDIATE ... COMMIT`, and answers all of them after the commit: one sync to disk
serves many calls. A lock file in front of the database makes waiting processes queue up fairly.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import threading
import time
from contextlib import closing
from pathlib import Path
from typing import Any, TypeVar, cast

from typing_extensions import override

from tta_dev_primitives.blocks.ledger.database.dialect import Dialect
from tta_dev_primitives.blocks.ledger.database.protocol import Database, Work
from tta_dev_primitives.blocks.ledger.database.sqlite_worker import Job, Worker, locked
from tta_dev_primitives.config.errors import LedgerError

T = TypeVar("T")
_WAIT_S = 30.0


class SqliteDatabase(Database):
    """A ledger in one file. See the module's page."""

    dialect: Dialect = "sqlite"

    def __init__(self, path: Path) -> None:
        self.path = path
        self.place = str(path)
        self._busy = f"Ledger {path}: busy for {_WAIT_S:.0f} s; another process holds its lock. Try again."
        self._forget()

    def _forget(self) -> None:
        self._lock = threading.Lock()
        self._worker: Worker | None = None

    @override
    async def transact(self, work: Work[T], *, idempotent: bool = False, label: str = "tx") -> T:
        return cast(T, await self._submit(Job(work, read_only=False, label=label)))

    @override
    async def read(self, work: Work[T]) -> T:
        return cast(T, await self._submit(Job(work, read_only=True, label="read")))

    async def _submit(self, job: Job) -> Any:
        with self._lock:
            if self._worker is None:
                self._worker = Worker(self.path)
            self._worker.jobs.put(job)
        timer = job.loop.call_later(_WAIT_S, job.give_up, self._busy)
        try:
            return await job.future
        except asyncio.CancelledError:
            job.take()
            raise
        finally:
            timer.cancel()

    @override
    async def compact(self) -> None:
        await asyncio.to_thread(compact_file, self.path)

    @override
    async def aclose(self) -> None:
        with self._lock:
            worker, self._worker = self._worker, None
        if worker is not None:
            worker.jobs.put(None)
            await asyncio.to_thread(worker.thread.join, _WAIT_S)

    @override
    def close_at_exit(self) -> None:
        worker = self._worker
        if worker is not None:
            worker.jobs.put(None)
            worker.thread.join(2.0)

    @override
    def after_fork(self) -> None:
        # A SQLite connection must not be used or closed in a child, so it is kept unreachable; the copy of
        # the lock file is closed, since it would hold the parent's lock beyond the parent's death.
        worker = self._worker
        if worker is not None:
            _leaked.append(worker.connection)
            worker.close_queue_file()
        self._forget()


_leaked: list[Any] = []


_PAGES_AT_ONCE = 2_000
_PAUSE_S = 0.005


def compact_file(path: Path) -> None:
    """Shrink a ledger by its free pages, in short steps between which other processes go on.

    A ledger from before this was possible is written anew once; other processes wait meanwhile.
    """
    queue_fd = os.open(path.with_name(f"{path.name}.queue"), os.O_RDWR | os.O_CLOEXEC)
    try:
        with closing(sqlite3.connect(path, timeout=_WAIT_S, isolation_level=None)) as connection:
            while _step(connection, queue_fd):
                time.sleep(_PAUSE_S)
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    except sqlite3.Error as fault:
        raise LedgerError(
            f"Ledger {path}: its free space cannot be given back ({fault}). Nothing was lost; free some disk space "
            "or wait for the other program, then try again."
        ) from fault
    finally:
        os.close(queue_fd)


def _step(connection: sqlite3.Connection, queue_fd: int) -> bool:
    """Free some pages; False when none is left."""
    with locked(queue_fd):
        if not connection.execute("PRAGMA freelist_count").fetchone()[0]:
            return False
        if connection.execute("PRAGMA auto_vacuum").fetchone()[0]:
            # `execute` would free one page: only a script runs this statement to its end.
            connection.executescript(f"PRAGMA incremental_vacuum({_PAGES_AT_ONCE})")
        else:
            connection.execute("PRAGMA auto_vacuum=INCREMENTAL")
            connection.execute("VACUUM")
        return True
