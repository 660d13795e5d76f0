"""Point this process at a Prefect API: the configured one, or the embedded server. Does not import Prefect."""

from __future__ import annotations

import os
import sys
import threading
import time
from typing import Any
from urllib.parse import urlsplit

from tta_dev_primitives.blocks.prefect_server import manager
from tta_dev_primitives.blocks.prefect_server.manager import (
    ServerInfo,
    ensure_server,
    holds_port,
    is_serving,
    server_environment,
    start_server,
)
from tta_dev_primitives.blocks.prefect_server.server_settings import (
    ServerHome,
    apply_environment,
    is_loopback,
)
from tta_dev_primitives.config.errors import PrefectServerError

_watch_lock = threading.Lock()
_watched: dict[int, ServerHome] = {}
_installed: list[bool] = []


def watch_port(home: ServerHome, port: int) -> None:
    """From now on connect to `port` of this machine only while the server of `home` holds it."""
    with _watch_lock:
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
        # No error of the system's: Prefect would try again for a minute, and a new server has a new secret.
        raise PrefectServerError(
            f"The embedded Prefect server on port {address[1]} ended. To fix: run the command again; what was "
            "answered is stored."
        )


_BELIEVED_S = 10.0
"""How long an API of the user's that has answered is taken to be there: asking opens a connection."""
_lock = threading.Lock()
_ours: list[ServerInfo] = []
_answered: list[tuple[float, str | None, ServerInfo]] = []
"""The API that answered last, when, and what PREFECT_API_URL was then."""


def inside_a_run() -> bool:
    """Whether this code is part of a flow run or task run, whose API is then the one to use."""
    context = sys.modules.get("prefect.context")
    if context is None:
        return False
    return context.FlowRunContext.get() is not None or context.TaskRunContext.get() is not None


def still_there() -> bool:
    """Whether runs can go on with the API that answered last; it is not asked."""
    if not _answered:
        return False
    at, address, info = _answered[0]
    if os.environ.get("PREFECT_API_URL") != address:
        return False
    return is_serving(info) if info.embedded else time.monotonic() - at < _BELIEVED_S


def wait_until_ready(info: ServerInfo) -> ServerInfo:
    """Wait until a server that is coming up answers.

    Raises:
        PrefectServerError: It ended, or did not answer in time; the message holds what its log says.
    """
    ready = manager.wait_until_ready(info)
    _answered[:] = [(time.monotonic(), os.environ.get("PREFECT_API_URL"), ready)]
    return ready


def address_server() -> ServerInfo:
    """Make runs of this process go to a Prefect API, started when there is none; it may still be coming up.

    Raises:
        PrefectServerError: The configured API cannot be used, or the embedded one cannot be started.
        UntrustedConfigError: Settings of Prefect came with the working folder and are not trusted.
    """
    with _lock:
        last = _ours[-1] if _ours else None
        # The address that we set ourselves is no configuration of the user's: that server may have ended since.
        own = last is not None and last.embedded and os.environ.get("PREFECT_API_URL") == last.url
        info = start_server(wait=False) if own else ensure_server(wait=False)
        if last is None or (last.url, last.pid) != (info.url, info.pid):
            if info.home is not None:
                watch_port(info.home, urlsplit(info.url).port or 0)
            apply_environment(server_environment(info))
        _ours[:] = [info]
        return info


def use_server() -> ServerInfo:
    """As `address_server`, and wait until the API answers."""
    return wait_until_ready(address_server())
