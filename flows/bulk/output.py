"""The output of a job: one JSON line an answered task, appended whole as it comes, readable at any moment.

The output is the job's memory of what is done. One process writes it at a time; a line that a killed run left half
written is cut off; a task that failed is tried again, and once the run ends each id stands in it once.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Self

from tta_dev_primitives.config.errors import ConfigError, OrchestrationError
from tta_dev_primitives.flows.bulk.reader import Record
from tta_dev_primitives.flows.tasks.result import OrchestrationResult

_BEGINS = b'{"id": '
_BLOCK = 1024 * 1024


class OutputError(OrchestrationError):
    """The output cannot be written. What was answered is in the answer store: running the job again costs nothing."""


class JobBusyError(OrchestrationError):
    """Another process runs this job."""


class Output:
    """The output file of one job, locked for this process. Use it as a context manager.

    Args:
        path: Where; made when it is not there.

    Raises:
        ConfigError: It cannot be made, or it holds something else than a job's results.
        JobBusyError: Another process writes it.
    """

    def __init__(self, path: Path) -> None:
        if not path.name or path.is_dir():
            raise ConfigError(f"{path}: is a folder. Give --out the name of a file in it.")
        self.path = path
        self._lock_path = path.with_name(path.name + ".lock")
        self._lock_fd = _lock(self._lock_path, path)
        self._fd = -1
        self._made = not path.exists()
        # A temporary database that spills to disk: a job's ids need not fit into memory.
        self._index = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        try:
            self._fd = self._open()
            self._index.execute(
                "CREATE TABLE line (id TEXT PRIMARY KEY, at INTEGER, size INTEGER, failed INTEGER, digest TEXT)"
            )
            self._index.execute("CREATE TABLE item (id TEXT PRIMARY KEY, place INTEGER, digest TEXT)")
            self._index.execute("BEGIN")
            self._end = 0
            self._superseded = 0
            self._read()
        except BaseException:
            self.__exit__(None, None, None)
            raise

    def done(self, record: Record) -> str:
        """What stands for the task: `todo`, `failed`, `done`, or `changed` (answered from another text)."""
        row = self._index.execute("SELECT failed, digest FROM line WHERE id = ?", (record.id,)).fetchone()
        if row is None:
            return "todo"
        if row[0]:
            return "failed"
        return "done" if row[1] in ("", record.digest) else "changed"

    def is_new(self, record: Record) -> bool:
        """Remember that the input holds this task; False when an earlier line has the same id."""
        added = self._index.execute(
            "INSERT INTO item (id, place, digest) VALUES (?, ?, ?) ON CONFLICT (id) DO NOTHING",
            (record.id, record.number, record.digest),
        )
        return bool(added.rowcount)

    def is_first(self, record: Record) -> bool:
        """Whether this line is the one that counts for its id; `is_new` must have seen it."""
        row = self._index.execute("SELECT place FROM item WHERE id = ?", (record.id,)).fetchone()
        return row is not None and row[0] == record.number

    @property
    def copies(self) -> int:
        """How many tasks of the input are the same as an earlier one, under another id."""
        row = self._index.execute("SELECT count(*) - count(DISTINCT digest) FROM item").fetchone()
        return int(row[0])

    @property
    def answered(self) -> int:
        """How many tasks of the output have an answer."""
        return int(self._index.execute("SELECT count(*) FROM line WHERE NOT failed").fetchone()[0])

    def write(self, record: Record, result: OrchestrationResult, error: dict[str, Any] | None) -> None:
        """Append one task's line, whole or not at all.

        Raises:
            OutputError: The disk is full or the file cannot be written.
        """
        own = {"id": record.id, "error": error, "digest": record.digest, **record.extra}
        head = json.dumps(own, ensure_ascii=False)
        data = f"{head[:-1]}, {result.model_dump_json(exclude={'id'})[1:]}\n".encode()
        self._append(data)
        self._note(record.id, self._end - len(data), len(data), error is not None, record.digest)

    def renew(self) -> None:
        """Show on the lock file that this process still works: other machines see its time."""
        os.utime(self._lock_fd)

    def finish(self, *, ordered: bool = False) -> None:
        """Leave each id once in the file: in the input's order when asked, else in the order of answering.

        Raises:
            OutputError: The disk is full; the file stays as it was.
        """
        self._refuse_other_file()
        os.fsync(self._fd)
        if not ordered and not self._superseded:
            return
        order = "ORDER BY item.place IS NULL, item.place, line.at" if ordered else "ORDER BY line.at"
        lines = self._index.execute(
            f"SELECT line.at, line.size FROM line LEFT JOIN item USING (id) {order}"  # noqa: S608 - fixed text
        )
        self._replace(lines)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._index.close()
        self._unlock()

    def _open(self) -> int:
        try:
            fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise ConfigError(
                f"{self.path}: cannot be written: {error.strerror}. Choose another --out."
            ) from None
        if not os.path.isfile(self.path):
            os.close(fd)
            raise ConfigError(f"{self.path}: not a regular file. Choose another --out.")
        return fd

    def _read(self) -> None:
        """Index what is there, and cut off a line that was not written to its end."""
        number = 0
        with open(self.path, "rb") as file:
            for line in file:
                number += 1
                if not line.endswith(b"\n"):
                    if not _is_torn(line):
                        _read_line(line, self.path, number)
                    break
                name, failed, digest = _read_line(line, self.path, number)
                self._note(name, self._end, len(line), failed, digest)
                self._end += len(line)
        os.ftruncate(self._fd, self._end)

    def _note(self, name: str, at: int, size: int, failed: bool, digest: str) -> None:
        known = self._index.execute("SELECT failed FROM line WHERE id = ?", (name,)).fetchone()
        self._superseded += known is not None
        if known is not None and not known[0] and failed:
            return  # an answer outlives a later failure
        self._index.execute(
            "INSERT INTO line VALUES (?, ?, ?, ?, ?) ON CONFLICT (id) DO UPDATE SET at = excluded.at, "
            "size = excluded.size, failed = excluded.failed, digest = excluded.digest",
            (name, at, size, failed, digest),
        )

    def _append(self, data: bytes) -> None:
        self._refuse_other_file()
        written = 0
        try:
            while written < len(data):
                written += os.write(self._fd, data[written:])
        except OSError as error:
            os.ftruncate(self._fd, self._end)
            raise _not_written(self.path, error) from error
        self._end += len(data)

    def _refuse_other_file(self) -> None:
        """Stop when the file is not as this job left it: lines that count as done would not be in it.

        Raises:
            OutputError: It was removed, replaced, cut or written to by another program.
        """
        ours = os.fstat(self._fd)
        try:
            same = os.path.samestat(ours, os.stat(self.path))
            what = None if same else "replaced by another file"
        except OSError:
            what = "removed"
        if what is None and ours.st_size != self._end:
            what = "cut" if ours.st_size < self._end else "written to by another program"
        if what is not None:
            raise OutputError(
                f"{self.path}: was {what} while the job ran; {self.answered:,} answers stood in it. Run the same "
                "command again: what is missing is written from the answer store and not paid twice."
            )

    def _replace(self, lines: Iterator[tuple[int, int]]) -> None:
        try:
            with open(self.path, "rb") as old, replacing(self.path) as new:
                os.fchmod(new.fileno(), os.fstat(old.fileno()).st_mode & 0o777)
                for at, size in lines:
                    old.seek(at)
                    new.write(old.read(size))
        except OSError as error:
            raise _not_written(self.path, error) from error

    def discard(self) -> None:
        """Let it go before the job has begun: a file that was made just now does not stay behind."""
        if self._made and self._end == 0:
            self.path.unlink(missing_ok=True)
        self.__exit__(None, None, None)

    def _unlock(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        # Removed while it is locked: who opens it later makes a new one, who waits for it sees that it is gone.
        self._lock_path.unlink(missing_ok=True)
        os.close(self._lock_fd)


def open_new(path: Path) -> int:
    """A file that was not there before, for writing: a link that came with the folder is removed, not followed."""
    path.unlink(missing_ok=True)
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)


@contextmanager
def replacing(path: Path, mode: str = "wb", **options: Any) -> Iterator[IO[Any]]:
    """A file that takes the place of `path` when the block ends well, whole and on the disk; else nothing changes."""
    fresh = path.with_name(path.name + ".tmp")
    try:
        with open(open_new(fresh), mode, buffering=_BLOCK, **options) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(fresh, path)
    finally:
        fresh.unlink(missing_ok=True)


def _lock(path: Path, output: Path) -> int:
    while True:
        try:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
        except OSError as error:
            raise ConfigError(
                f"{output}: cannot be written: {path.name}: {error.strerror}. Remove it, or choose another --out."
            ) from None
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(fd, 32).decode("ascii", "replace").strip()
            os.close(fd)
            who = f"process {holder}" if holder.isdigit() else "another process"
            raise JobBusyError(
                f"{output}: {who} is running this job. Wait for it, or give another --out."
            ) from None
        try:
            same = os.path.samestat(os.fstat(fd), os.stat(path))
        except FileNotFoundError:
            same = False
        if same:
            os.ftruncate(fd, 0)
            os.write(fd, f"{os.getpid()}\n".encode())
            return fd
        os.close(fd)


def _is_torn(line: bytes) -> bool:
    """Whether the end of a file is a result that was not written whole; zeros are what a power failure leaves."""
    return line[: len(_BEGINS)] == _BEGINS[: len(line)] or not line.strip(b"\0")


def _read_line(line: bytes, path: Path, number: int) -> tuple[str, bool, str]:
    try:
        found = json.loads(line)
        return str(found["id"]), found["error"] is not None, str(found.get("digest", ""))
    except (ValueError, KeyError, TypeError, RecursionError):
        raise ConfigError(
            f"{path}: line {number} is not a result of this job, and the file is left as it is. Choose another --out."
        ) from None


def _not_written(path: Path, error: OSError) -> OutputError:
    fix = "Free some disk space" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "Fix that"
    return OutputError(
        f"{path}: {error.strerror}. {fix} and run the job again: what was answered is kept and not paid twice."
    )
