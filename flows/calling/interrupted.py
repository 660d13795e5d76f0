"""How a signal ends a program that waits for a run."""

from __future__ import annotations

import logging
import signal

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
