"""The ASGI layer in front of the embedded Prefect server: when was it last used, and by whom may it be.

Prefect answers any web page by default, and without an auth string any page that reaches the port can read
the secrets of saved blocks. So on loopback only this machine's own names and origins are served.
"""

from __future__ import annotations

import json
import time
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any

__all__ = ["STATUS_PATH", "Activity", "Guard"]

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

STATUS_PATH = "/tta/status"
"""Answers process id, versions and idle seconds, without counting as use."""


class Activity:
    """Time of the last request or websocket message, and how many requests are in flight."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._last = clock()
        self.in_flight = 0

    def touch(self) -> None:
        """Something used the server just now."""
        self._last = self._clock()

    @property
    def idle_s(self) -> float:
        """Seconds since the last use; 0 while a request is in flight."""
        return 0.0 if self.in_flight else self._clock() - self._last


class Guard:
    """Wraps the Prefect app.

    Args:
        app: The app to protect.
        activity: Where use is recorded.
        hosts: Host header names that are served (`Host` without port); empty serves all.
        origins: Values of `Origin` that are served; requests without the header (no browser) always are.
        status: Called for `GET /tta/status`; its dict is the JSON answer.
    """

    def __init__(
        self,
        app: App,
        *,
        activity: Activity,
        hosts: Iterable[str] = (),
        origins: Iterable[str] = (),
        status: Callable[[], dict[str, Any]] = dict,
    ) -> None:
        self._app = app
        self._activity = activity
        self._hosts = frozenset(hosts)
        self._origins = frozenset(origins)
        self._status = status

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve, refuse or answer one request or websocket."""
        if scope["type"] not in {"http", "websocket"}:
            await self._app(scope, receive, send)
            return
        if not self._welcome(scope):
            await _refuse(scope, receive, send)
        elif scope["type"] == "websocket":
            await self._websocket(scope, receive, send)
        elif scope["path"] == STATUS_PATH:
            await _answer(send, 200, {**self._status(), "idle_s": round(self._activity.idle_s, 1)})
        else:
            await self._request(scope, receive, send)

    def _welcome(self, scope: Scope) -> bool:
        headers = {k: v.decode("latin-1") for k, v in scope["headers"] if k in {b"host", b"origin"}}
        host = headers.get(b"host", "").rsplit(":", 1)[0].lower()
        origin = headers.get(b"origin")
        if self._hosts and host not in self._hosts:
            return False
        return origin is None or not self._origins or origin.lower() in self._origins

    async def _request(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._activity.in_flight += 1
        try:
            await self._app(scope, receive, send)
        finally:
            self._activity.in_flight -= 1
            self._activity.touch()

    async def _websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        # Messages count, an open connection does not: a notebook keeps one open for days.
        async def heard() -> Message:
            message = await receive()
            self._activity.touch()
            return message

        await self._app(scope, heard, send)


async def _refuse(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.close", "code": 1008})
        return
    detail = "This server answers only its own pages and programs on this machine."
    await _answer(send, 403, {"exception_message": detail})


async def _answer(send: Send, status: int, body: dict[str, Any]) -> None:
    data = json.dumps(body).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(data)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": data})
