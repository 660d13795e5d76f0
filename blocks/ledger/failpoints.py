"""Named points at which a test can kill this process, to prove what survives a crash there.

`TTA_FAILPOINT=reserve.before_commit` kills at the first pass, `TTA_FAILPOINT=reserve.before_commit:3` at the
third. Without the variable (read once, at import) a point costs one comparison.
"""

from __future__ import annotations

import os
import signal

_name = ""
_passes_left = 0


def arm(point: str) -> None:
    """Kill this process at `name` or `name:pass`; an empty point kills nowhere."""
    global _name, _passes_left
    _name, _, count = point.partition(":")
    _passes_left = int(count or 1)


def failpoint(name: str) -> None:
    """Kill this process here when the tests' variable names this point."""
    global _passes_left
    if not _name or name != _name:
        return
    _passes_left -= 1
    if _passes_left <= 0:
        os.kill(os.getpid(), signal.SIGKILL)


arm(os.environ.get("TTA_FAILPOINT", ""))
