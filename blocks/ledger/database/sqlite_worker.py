"""The thread that owns the SQLite connection of this process and commits what has queued up together."""

from __future__ import annotations

import asyncio
import fcntl
import os
import queue
import sqlite3
import threading
import time
from collections.abc import Coroutine, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, TypeVar, cast

from tta_dev_primitives.blocks.ledger.database.files import (
    make_private_file,
    refuse_hard_links,
    refuse_mounts,
)
from tta_dev_primitives.blocks.ledger.database.migrations import migrate, schema_generation
from tta_dev_primitives.blocks.ledger.database.protocol import Work
from tta_dev_primitives.blocks.ledger.failpoints import failpoint
from tta_dev_primitives.config.errors import LedgerConfigError, LedgerError

T = TypeVar("T")
_WAIT_S = 30.0
_MOST_AT_ONCE = 256
_APPLICATION_ID = 0x54544131
_OLDEST_SQLITE = (3, 37, 0)
_IN_USE = b"ledger\n"


class _SqliteTx:
    """`Tx` on the worker's connection; its methods never suspend."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    async def execute(self, sql: str, *args: Any) -> int:
        return max(self._connection.execute(sql, args).rowcount, 0)

    async def fetch(self, sql: str, *args: Any) -> list[dict[str, Any]]:
        cursor = self._connection.execute(sql, args)
        names = [column[0] for column in cursor.description or ()]
        return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]

    def now(self) -> float:
        return time.time()


class Job:
    """One queued work: either abandoned by its caller, or begun by the worker, never both."""

    __slots__ = ("_begun", "error", "finished", "future", "label", "loop", "read_only", "result", "work")

    def __init__(self, work: Work[Any], *, read_only: bool, label: str) -> None:
        self.work = work
        self.read_only = read_only
        self.label = label
        self.loop = asyncio.get_running_loop()
        self.future: asyncio.Future[Any] = self.loop.create_future()
        self.result: Any = None
        self.error: BaseException | None = None
        self.finished = False
        self._begun = threading.Lock()

    def take(self) -> bool:
        """True for the first who asks: the worker that begins it, or the caller who gives up."""
        return self._begun.acquire(blocking=False)

    def give_up(self, message: str) -> None:
        """Answer with an error if the work has not begun; called on the caller's loop."""
        if not self.future.done() and self.take():
            self.future.set_exception(LedgerError(message))


class Worker:
    """The thread with the connection."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self.connection: sqlite3.Connection | None = None
        self._queue_fd = -1
        self._inode = (0, 0)
        self._generation = -1
        self.thread = threading.Thread(target=self._run, name="tta-ledger", daemon=True)
        self.thread.start()

    def _run(self) -> None:
        last = False
        while not last:
            jobs: list[Job] = []
            job = self.jobs.get()
            while job is not None:
                jobs.append(job)
                if len(jobs) == _MOST_AT_ONCE:
                    break
                try:
                    job = self.jobs.get_nowait()
                except queue.Empty:
                    break
            last = job is None
            self._serve(jobs)
        self._close()

    def _serve(self, jobs: list[Job]) -> None:
        reads = [job for job in jobs if job.read_only]
        writes = [job for job in jobs if not job.read_only]
        if reads:
            self._guarded(reads, self._read)
        if writes:
            self._guarded(writes, self._write)

    def _guarded(self, jobs: list[Job], run: Any) -> None:
        """Run and answer; a fault of the database becomes the answer of every job still without one."""
        try:
            run(jobs)
        except BaseException as fault:
            error = self._explain(fault)
            for job in jobs:
                if not job.finished:
                    job.error = error
        _answer(jobs)

    def _read(self, jobs: list[Job]) -> None:
        connection = self._opened()
        for job in jobs:
            if job.take():
                connection.execute("BEGIN")
                try:
                    self._step(connection, job)
                finally:
                    if connection.in_transaction:
                        connection.execute("ROLLBACK")
            job.finished = True

    def _write(self, jobs: list[Job]) -> None:
        connection = self._opened()
        with locked(self._queue_fd):
            begun = [job for job in jobs if job.take()]
            if begun and not self._commit(connection, begun):
                # One work spoilt the common transaction (a full disk, say): give each its own.
                for job in begun:
                    job.result = job.error = None
                    self._commit(connection, [job])
                    job.finished = True

    def _commit(self, connection: sqlite3.Connection, jobs: list[Job]) -> bool:
        """Run `jobs` in one transaction. False: it was lost, and they are more than one."""
        alone = len(jobs) == 1
        try:
            connection.execute("BEGIN IMMEDIATE")
            for job in jobs:
                if not alone:
                    connection.execute("SAVEPOINT work")
                self._step(connection, job)
                if not connection.in_transaction:
                    raise job.error or sqlite3.OperationalError("transaction lost")
                if job.error is not None:
                    connection.execute("ROLLBACK" if alone else "ROLLBACK TO work")
                if not alone:
                    connection.execute("RELEASE work")
            if connection.in_transaction:
                _failpoints(jobs, "before_commit")
                connection.execute("COMMIT")
                _failpoints(jobs, "after_commit")
        except (sqlite3.Error, LedgerError) as fault:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            if not alone:
                return False
            jobs[0].error = self._explain(fault)
        return True

    def _step(self, connection: sqlite3.Connection, job: Job) -> None:
        try:
            job.result = _run(job.work, connection)
        except BaseException as error:
            job.error = self._explain(error)

    def _explain(self, error: BaseException) -> BaseException:
        if not isinstance(error, (sqlite3.Error, OSError)):
            return error
        text, unknown = str(error), "No paid call is made until it is fixed"
        fix = next((fix for words, fix in _FIXES if words in text.lower()), unknown)
        kind = LedgerConfigError if "not a database" in text else LedgerError
        explained = kind(f"Ledger {self.path}: {text}. {fix}.")
        explained.__cause__ = error
        return explained

    def _opened(self) -> sqlite3.Connection:
        if self.connection is None:
            try:
                self.connection = self._open()
            except BaseException:
                self._close()
                raise
        if _identity(self.path) != self._inode:
            raise LedgerError(
                f"Ledger {self.path}: the file was replaced or deleted while in use; what was spent "
                f"stands in the old one. Put it back and restart."
            )
        refuse_hard_links(self.path)
        if self._generation != schema_generation():
            self._migrate(self.connection)
        return self.connection

    def _open(self) -> sqlite3.Connection:
        if sqlite3.sqlite_version_info < _OLDEST_SQLITE:
            raise LedgerError(f"Ledger: SQLite {sqlite3.sqlite_version} is too old; 3.37 or newer is needed")
        refuse_mounts(self.path)
        refuse_hard_links(self.path)
        queue_file = self.path.with_name(self.path.name + ".queue")
        if not queue_file.exists():
            self._look_before_touching()
        elif queue_file.stat().st_size and not (self.path.exists() and self.path.stat().st_size):
            raise LedgerConfigError(
                f"Ledger {self.path}: it is gone or empty, and with it what this month has cost. Put it back; "
                f"or delete {queue_file} too, to begin with an empty one."
            )
        make_private_file(self.path)
        make_private_file(queue_file)
        self._queue_fd = os.open(queue_file, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        self._inode = _identity(self.path)
        connection = sqlite3.connect(
            self.path, timeout=_WAIT_S, isolation_level=None, check_same_thread=False, cached_statements=256
        )
        self.connection = connection
        # Two processes that turn a new file to WAL at once get "locked" without the busy wait: queue up.
        with locked(self._queue_fd):
            self._refuse_foreign(connection)
            # Of a new file only: what is deleted later can be given back in short steps.
            connection.execute("PRAGMA auto_vacuum=INCREMENTAL")
            mode = connection.execute("PRAGMA journal_mode=WAL").fetchone()[0]
            if mode != "wal":
                raise LedgerError(
                    f"Ledger {self.path}: this file system does not allow SQLite's WAL; move the ledger"
                )
            connection.execute("PRAGMA synchronous=FULL")
            connection.execute("PRAGMA foreign_keys=ON")
            connection.execute(f"PRAGMA application_id={_APPLICATION_ID}")
        return connection

    def _look_before_touching(self) -> None:
        """Nothing of ours stands beside the file: leave its mode and its folder alone until it is known to be a ledger.

        `immutable` reads without locks and without files beside it.
        """
        if not self.path.is_file() or not self.path.stat().st_size:
            return
        with closing(sqlite3.connect(f"{self.path.as_uri()}?mode=ro&immutable=1", uri=True)) as connection:
            self._refuse_foreign(connection)

    def _refuse_foreign(self, connection: sqlite3.Connection) -> None:
        """A file of another program is left alone."""
        mark = connection.execute("PRAGMA application_id").fetchone()[0]
        tables = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
        if mark not in (0, _APPLICATION_ID) or (mark == 0 and tables):
            raise LedgerConfigError(
                f"Ledger {self.path}: this SQLite file belongs to another program; give the ledger "
                f"a file of its own"
            )

    def _migrate(self, connection: sqlite3.Connection) -> None:
        generation = schema_generation()
        with locked(self._queue_fd):
            connection.execute("BEGIN IMMEDIATE")
            try:
                _run(lambda tx: migrate(tx, "sqlite"), connection)
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise
            # The lock file knows from now on that a ledger stands beside it: see `_open`.
            if not os.fstat(self._queue_fd).st_size:
                os.write(self._queue_fd, _IN_USE)
        self._generation = generation

    def close_queue_file(self) -> None:
        """Close the lock file of this process."""
        if self._queue_fd >= 0:
            os.close(self._queue_fd)
            self._queue_fd = -1

    def _close(self) -> None:
        if self.connection is not None:
            self.connection.close()
            self.connection = None
        self.close_queue_file()


def _run(work: Work[Any], connection: sqlite3.Connection) -> Any:
    """Run one work to its end: on SQLite nothing in it suspends, so one `send` is enough."""
    running = cast(Coroutine[Any, Any, Any], work(_SqliteTx(connection)))
    try:
        running.send(None)
    except StopIteration as done:
        return done.value
    running.close()
    raise LedgerError("Ledger: a work function may await nothing but its transaction")


@contextmanager
def locked(queue_fd: int) -> Iterator[None]:
    """Hold the lock file, in front of which the processes queue up."""
    fcntl.flock(queue_fd, fcntl.LOCK_EX)
    try:
        yield
    finally:
        fcntl.flock(queue_fd, fcntl.LOCK_UN)


_FIXES = (
    ("not a database", "The file is not a ledger: move it away, or correct TTA_LEDGER_URL"),
    ("malformed", "The file is damaged: restore it, then run `tta ledger verify`"),
    ("readonly", "Make the file and its folder writable for this user"),
    ("read-only", "Make the file and its folder writable for this user"),
    ("permission denied", "Make the file and its folder writable for this user"),
    ("unable to open", "Make the folder exist and be writable for this user"),
    ("full", "Free some disk space; nothing was lost"),
    ("no space", "Free some disk space; nothing was lost"),
    ("locked", "Another program keeps it locked; close that, then try again"),
)


def _identity(path: Path) -> tuple[int, int]:
    """What distinguishes a file from another of its name; zeros when there is none."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return 0, 0
    return found.st_dev, found.st_ino


def _failpoints(jobs: list[Job], moment: str) -> None:
    for job in jobs:
        failpoint(f"{job.label}.{moment}")


def _answer(jobs: list[Job]) -> None:
    """Hand the results over, with one wake-up for each waiting event loop."""
    loops: dict[asyncio.AbstractEventLoop, list[Job]] = {}
    for job in jobs:
        loops.setdefault(job.loop, []).append(job)
    for loop, theirs in loops.items():
        try:
            loop.call_soon_threadsafe(_set_results, theirs)
        except RuntimeError:
            # The caller's loop is closed: no caller waits for the answer, and the work itself is done.
            continue


def _set_results(jobs: list[Job]) -> None:
    for job in jobs:
        if job.future.done():
            continue
        if job.error is not None:
            job.future.set_exception(job.error)
        else:
            job.future.set_result(job.result)
