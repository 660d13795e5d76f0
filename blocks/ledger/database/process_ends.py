"""Open databases at the ends of a process: closed when it exits, started afresh in a child that was forked.

The hooks are set when the first database of a process is made, not at import.
"""

from __future__ import annotations

import atexit
import os
import weakref
from typing import Protocol


class Closable(Protocol):
    """An open database."""

    def close_at_exit(self) -> None:
        """Close what is open, within two seconds."""

    def after_fork(self) -> None:
        """In a forked child: leave the parent's connections alone and start afresh."""


_open: weakref.WeakSet[Closable] = weakref.WeakSet()
_hooked: list[bool] = []


def close_at_process_end(database: Closable) -> None:
    """Close `database` when the process exits; after a fork the child's copy starts afresh."""
    if not _hooked:
        _hooked.append(True)
        atexit.register(_close_all)
        os.register_at_fork(after_in_child=_start_afresh)
    _open.add(database)


def _close_all() -> None:
    for database in list(_open):
        database.close_at_exit()


def _start_afresh() -> None:
    for database in list(_open):
        database.after_fork()
