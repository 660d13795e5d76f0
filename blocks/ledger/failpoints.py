"""Named points at which a test can kill this process, to prove what survives a crash there.

`TTA_FAILPOINT=reserve.before_commit` kills at the first pass, `TTA_FAILPOINT=reserve.before_commit:3` at the
third. Without the variable (read once, at import) a point costs one comparison.
"""

from __future__ import annotations

import os
import signal

_ENDINGS = ("reserve", "settle", "release", "presume")
_MOMENTS = ("begun", "after_call", "after_event", "after_month", "before_commit", "after_commit")
_OTHERS = ("record", "alert", "approve", "reconcile")

FAILPOINTS = (
    *(f"{ending}.{moment}" for ending in _ENDINGS for moment in _MOMENTS),
    *(f"{other}.{moment}" for other in _OTHERS for moment in ("before_commit", "after_commit")),
    "record.begun",
    "call.before_send",
    "call.after_send",
)
"""Every point, for the tests that kill at each."""
BATCH_FAILPOINTS = (
    "batch.before_commit",
    "batch.after_commit",
    "batch.uploaded",
    "batch.submitted",
    "batch.recorded",
    "batch.fetched",
    "batch.settled",
)
"""The points of a batch: holds, upload, submission, its record, results, their settlement."""

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
