"""One event loop in the background for synchronous callers, so that their calls share clients and connections."""

from __future__ import annotations

import asyncio
import atexit
import logging
import os
import signal
import threading
from collections.abc import Coroutine, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any, TypeVar

_LOG = logging.getLogger("tta_dev_primitives.interrupted")
SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))


class Interrupted(KeyboardInterrupt, SystemExit):
    """A signal ended a run, whose calls are settled.

    A program that does not catch it ends with one line and exit code 128 plus the signal's number; it prints no
    traceback. Code that catches `KeyboardInterrupt` catches it.
    """

    def __init__(self, signum: int) -> None:
        name = signal.Signals(signum).name
        _LOG.warning("interrupted by %s; what was answered is stored", name)
        super().__init__(name)
        self.code = 128 + signum


T = TypeVar("T")
_CLOSING_S = 20.0
"""How long work that was interrupted may close its ledger entries and its flow run."""


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

    Raises:
        Interrupted: Ctrl-C, SIGTERM or SIGHUP came; the work was cancelled, and has closed its ledger entries.
    """
    ended = threading.Event()
    future: Future[T] = asyncio.run_coroutine_threadsafe(_until_ended(work, ended), _background().loop)
    try:
        with _signals_raise():
            return future.result()
    except _Signal as came:
        future.cancel()
        # A second signal does not wait.
        with _signals_raise():
            ended.wait(_CLOSING_S)
        raise Interrupted(came.args[0]) from None


class _Signal(BaseException):
    """Its argument is the signal's number."""


async def _until_ended(work: Coroutine[Any, Any, T], ended: threading.Event) -> T:
    try:
        return await work
    finally:
        ended.set()


@contextmanager
def _signals_raise() -> Iterator[None]:
    """Let the signals that end a program raise `_Signal` in the main thread; what the program handles itself stays."""
    before: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():
        for signum in SIGNALS:
            if signal.getsignal(signum) in (signal.SIG_DFL, signal.default_int_handler):
                before[signum] = signal.signal(signum, _raise_signal)
    try:
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)


def _raise_signal(signum: int, frame: Any) -> None:
    raise _Signal(signum)


def _background() -> _Background:
    with _lock:
        if not _made or _made[0].pid != os.getpid():
            # After a fork the thread of the parent is not there.
            _made[:] = [_Background()]
        return _made[0]
