"""Work that a cancelled caller still waits for: the end of a call must be written, whatever becomes of its task."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Coroutine
from typing import Any, TypeVar

from anyio import CancelScope

T = TypeVar("T")
_log = logging.getLogger("tta_dev_primitives.ledger")


async def uninterrupted(work: Coroutine[Any, Any, T]) -> T:
    """Await `work` to its end however often the caller is cancelled; the cancellation is raised afterwards."""
    task = asyncio.ensure_future(work)
    # When it ends, `asyncio.run` cancels every task that it knows; the caller waits for this one.
    asyncio.tasks._unregister_task(task)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        # anyio (Prefect's time limits) repeats its cancellation at every await: shield from it as well.
        with CancelScope(shield=True):
            while not task.done():
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.wait([task])
        if not task.cancelled() and (failed := task.exception()) is not None:
            _log.warning("Ledger: cancelled, and the last entry failed: %s", failed)
        raise
