"""Give the pages of deleted rows back to the file system. Only a SQLite file needs it."""

from __future__ import annotations

import fcntl
import os
import sqlite3
import time
from contextlib import closing
from pathlib import Path

from tta_dev_primitives.config.errors import LedgerError

_PAGES_AT_ONCE = 2_000
_PAUSE_S = 0.005
_WAIT_S = 30.0


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
