"""Point this process at a Prefect API: the configured one, or the embedded server. Does not import Prefect."""

from __future__ import annotations

import os
import threading

from tta_dev_primitives.blocks.prefect_server import (
    ServerInfo,
    ensure_server,
    server_environment,
    start_server,
    wait_until_ready,
)
from tta_dev_primitives.blocks.prefect_settings import apply_environment

__all__ = ["address_server", "use_server", "wait_until_ready"]

_lock = threading.Lock()
_ours: list[ServerInfo] = []


def address_server() -> ServerInfo:
    """Make runs of this process go to a Prefect API, started when there is none; it may still be coming up.

    Raises:
        PrefectServerError: The configured API cannot be used, or the embedded one cannot be started.
    """
    with _lock:
        last = _ours[-1] if _ours else None
        # The address that we set ourselves is no configuration of the user's: that server may have ended since.
        own = last is not None and last.embedded and os.environ.get("PREFECT_API_URL") == last.url
        info = start_server(wait=False) if own else ensure_server(wait=False)
        if last is None or last.url != info.url:
            apply_environment(server_environment(info))
        _ours[:] = [info]
        return info


def use_server() -> ServerInfo:
    """As `address_server`, and wait until the API answers."""
    return wait_until_ready(address_server())
