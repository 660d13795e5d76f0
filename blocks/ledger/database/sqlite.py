"""The ledger's database in one SQLite file, shared by any number of processes of one machine.

One worker thread a process owns the only connection. It takes what has queued up, runs each work in a
savepoint of one `BEGIN IMMEDIATE ... COMMIT`, and answers all of them after the commit: one sync to disk
serves many calls. A lock file in front of the database makes waiting processes queue up fairly.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import sqlite3
import threading
import time
from contextlib import closing
from pathlib import Path
from typing import Any, TypeVar, cast

from typing_extensions import override

from tta_dev_primitives.blocks.ledger.database.dialect import Dialect
from tta_dev_primitives.blocks.ledger.database.process_ends import close_at_process_end
from tta_dev_primitives.blocks.ledger.database.protocol import Database, Work
from tta_dev_primitives.blocks.ledger.database.sqlite_worker import Job, Worker
from tta_dev_primitives.blocks.ledger.shielded import to_its_end
from tta_dev_primitives.config.errors import LedgerError

T = TypeVar("T")
_WAIT_S = 30.0


class _Turn:
    """What one turn of an event loop submits: handed over together."""

    __slots__ = ("handed_over", "jobs", "loop", "open", "timer")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.jobs: list[Job] = []
        self.open = 0
        """How many of its callers still wait."""
        self.handed_over = False
        self.timer: asyncio.TimerHandle | None = None


class SqliteDatabase(Database):
    """A ledger in one file. See the module's page."""

    dialect: Dialect = "sqlite"

    def __init__(self, path: Path) -> None:
        self.path = path
        self.place = str(path)
        self._forget()
        close_at_process_end(self)

    def _forget(self) -> None:
        self._lock = threading.Lock()
        self._worker: Worker | None = None
        self._turn: _Turn | None = None

    @override
    async def transact(
        self, work: Work[T], *, idempotent: bool = False, label: str = "tx", ending: bool = False
    ) -> T:
        return cast(T, await self._submit(Job(work, read_only=False, label=label), ending=ending))

    @override
    async def read(self, work: Work[T]) -> T:
        return cast(T, await self._submit(Job(work, read_only=True, label="read")))

    async def _submit(self, job: Job, *, ending: bool = False) -> Any:
        turn = self._turn
        if turn is None or turn.loop is not job.loop:
            turn = self._turn = _Turn(job.loop)
            job.loop.call_soon(self._hand_over, turn)
        turn.jobs.append(job)
        turn.open += 1
        try:
            return await (_ended(job) if ending else job.future)
        except asyncio.CancelledError:
            job.take()
            raise
        finally:
            turn.open -= 1
            if not turn.open and turn.timer is not None:
                turn.timer.cancel()

    def _hand_over(self, turn: _Turn) -> None:
        """Give the worker what one turn of a loop has brought: one wake-up and one timer for all of it."""
        if turn.handed_over:
            return
        turn.handed_over = True
        if self._turn is turn:
            self._turn = None
        with self._lock:
            if self._worker is None:
                self._worker = Worker(self.path)
            for job in turn.jobs:
                self._worker.jobs.put(job)
        if turn.open:
            turn.timer = turn.loop.call_later(_WAIT_S, self._give_up, turn)

    def _give_up(self, turn: _Turn) -> None:
        message = f"Ledger {self.place}: busy for {_WAIT_S:.0f} s; another process holds its lock. Try again."
        for job in turn.jobs:
            job.give_up(message)

    @override
    async def compact(self) -> None:
        await asyncio.to_thread(compact_file, self.path)

    @override
    async def aclose(self) -> None:
        turn = self._turn
        if turn is not None and turn.loop is asyncio.get_running_loop():
            self._hand_over(turn)
        with self._lock:
            worker, self._worker = self._worker, None
        if worker is not None:
            worker.jobs.put(None)
            await asyncio.to_thread(worker.thread.join, _WAIT_S)

    def close_at_exit(self) -> None:
        """Let the worker finish what it has begun, for two seconds at most."""
        worker = self._worker
        if worker is not None:
            worker.jobs.put(None)
            worker.thread.join(2.0)

    def after_fork(self) -> None:
        """In a forked child: leave the parent's connection alone and start afresh.

        A SQLite connection must not be used or closed in a child, so it is kept unreachable; the copy of
        the lock file is closed, since it would hold the parent's lock beyond the parent's death.
        """
        worker = self._worker
        if worker is not None:
            _leaked.append(worker.connection)
            worker.close_queue_file()
        self._forget()


async def _ended(job: Job) -> Any:
    try:
        # To shield a future costs a fraction of a task around all of its work.
        return await asyncio.shield(job.future)
    except asyncio.CancelledError:
        await to_its_end(job.future)
        raise


_leaked: list[Any] = []


_PAGES_AT_ONCE = 2_000
_PAUSE_S = 0.005


def compact_file(path: Path) -> None:
    """Shrink a ledger by its free pages, in short steps between which other processes go on.

    A ledger from before this was possible is written anew once; other processes wait meanwhile.

    Raises:
        LedgerError: The disk is full, or another program keeps the file locked.
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
    fcntl.flock(queue_fd, fcntl.LOCK_EX)
    try:
        if not connection.execute("PRAGMA freelist_count").fetchone()[0]:
            return False
        if connection.execute("PRAGMA auto_vacuum").fetchone()[0]:
            # `execute` would free one page: only a script runs this statement to its end.
            connection.executescript(f"PRAGMA incremental_vacuum({_PAGES_AT_ONCE})")
        else:
            connection.execute("PRAGMA auto_vacuum=INCREMENTAL")
            connection.execute("VACUUM")
        return True
    finally:
        fcntl.flock(queue_fd, fcntl.LOCK_UN)
