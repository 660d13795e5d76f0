"""One event loop in the background for synchronous callers, so that their calls share clients and connections."""

from __future__ import annotations

import asyncio
import atexit
import os
import threading
from collections.abc import Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

__all__ = ["close_background", "wait_for"]

T = TypeVar("T")


class _Background:
    """A loop in a daemon thread; it ends with the process, after closing what runs on it."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, name="tta-loop", daemon=True)
        self.thread.start()
        atexit.register(self.close)

    def close(self) -> None:
        if self.pid != os.getpid() or self.loop.is_closed():
            return
        asyncio.run_coroutine_threadsafe(self.loop.shutdown_asyncgens(), self.loop).result(10)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(10)
        self.loop.close()


_lock = threading.Lock()
_made: list[_Background] = []


def wait_for(work: Coroutine[Any, Any, T]) -> T:
    """Run `work` on the background loop and wait for it; works inside a running loop too (a notebook).

    Ctrl-C cancels the work, lets it close its ledger entries, and is raised again.
    """
    future: Future[T] = asyncio.run_coroutine_threadsafe(work, _background().loop)
    try:
        return future.result()
    except KeyboardInterrupt:
        future.cancel()
        raise


def close_background() -> None:
    """End the background loop and what is open on it; the next call starts a new one."""
    with _lock:
        while _made:
            _made.pop().close()


def _background() -> _Background:
    with _lock:
        if not _made or _made[0].pid != os.getpid():
            # After a fork the thread of the parent is not there.
            _made[:] = [_Background()]
        return _made[0]
