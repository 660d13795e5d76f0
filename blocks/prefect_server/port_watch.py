"""Nothing is sent to the embedded server's port once another process may own it.

The server holds a lock on a private file for as long as it holds the port. Before this process connects to the port,
whichever library does it, the lock is looked at.
"""

from __future__ import annotations

import sys
import threading
from typing import Any

from tta_dev_primitives.blocks.prefect_server.manager import holds_port
from tta_dev_primitives.blocks.prefect_server.server_settings import ServerHome, is_loopback

_lock = threading.Lock()
_watched: dict[int, ServerHome] = {}
_installed: list[bool] = []


def watch_port(home: ServerHome, port: int) -> None:
    """From now on connect to `port` of this machine only while the server of `home` holds it."""
    with _lock:
        _watched[port] = home
        if not _installed:
            _installed.append(True)
            sys.addaudithook(_before_connect)


def _before_connect(event: str, arguments: tuple[Any, ...]) -> None:
    if event != "socket.connect":
        return
    address = arguments[1]
    if not isinstance(address, tuple) or len(address) < 2 or not isinstance(address[0], str):
        return
    home = _watched.get(address[1])
    if home is not None and is_loopback(address[0]) and not holds_port(home, address[1]):
        raise ConnectionRefusedError(
            f"the embedded Prefect server no longer holds port {address[1]}: nothing is sent"
        )
