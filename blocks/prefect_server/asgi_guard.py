"""The ASGI layer in front of the embedded Prefect server: when was it last used, and by whom may it be.

Prefect answers any web page by default, and without an auth string any page that reaches the port can read
the secrets of saved blocks. So on loopback only this machine's own names and origins are served. Prefect itself asks
each request for the password; the guard proves to clients that it knows it, and gives it to a browser for a token.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any
from urllib.parse import parse_qs

from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response

from tta_dev_primitives.blocks.prefect_server.access import OPEN_PATH, Tokens, open_page, proof_of

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

_EVENTS_IN = "/events/in"
_HEADERS = {"cache-control": "no-store", "referrer-policy": "no-referrer"}
_MOST_WAITING = 4_000
_PAUSE_S, _LONGEST_PAUSE_S = 0.02, 0.5
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
        hosts: Host header names that are served (`Host` without port); empty serves all.
        origins: Values of `Origin` that are served; requests without the header (no browser) always are.
    """

    def __init__(
        self,
        app: App,
        *,
        activity: Activity,
        hosts: Iterable[str] = (),
        origins: Iterable[str] = (),
        status: Callable[[], dict[str, Any]] = dict,
        secret: str = "",
        backlog: Callable[[], int] = int,
    ) -> None:
        self._app = app
        self._activity = activity
        self._hosts = frozenset(hosts)
        self._origins = frozenset(origins)
        self._status = status
        self._secret = secret
        self._backlog = backlog
        self._tokens = Tokens(secret)

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
            await JSONResponse(self._about(scope), headers=_HEADERS)(scope, receive, send)
        elif scope["path"].startswith(OPEN_PATH):
            await self._open(scope)(scope, receive, send)
        else:
            await self._request(scope, receive, send)

    def _about(self, scope: Scope) -> dict[str, Any]:
        nonce = parse_qs(scope.get("query_string", b"").decode("latin-1")).get("nonce", [""])[0]
        proof = {"proof": proof_of(self._secret, nonce)} if nonce and self._secret else {}
        return {**self._status(), "idle_s": round(self._activity.idle_s, 1), **proof}

    def _open(self, scope: Scope) -> Response:
        token, _, path = scope["path"].removeprefix(OPEN_PATH).partition("/")
        if scope["method"] == "GET" and self._secret and self._tokens.take(token, time.time()):
            self._activity.touch()
            return HTMLResponse(open_page(self._secret, f"/{path}"), headers=_HEADERS)
        return PlainTextResponse(
            "This link was used or is too old. A new one: tta server open\n", 403, _HEADERS
        )

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
            if scope["path"].endswith(_EVENTS_IN) and message["type"] == "websocket.receive":
                await self._slow_down()
            return message

        await self._app(scope, heard, send)

    async def _slow_down(self) -> None:
        """Take events no faster than they are handled; never so slowly that a client gives its connection up."""
        until = time.monotonic() + _LONGEST_PAUSE_S
        while self._backlog() > _MOST_WAITING and time.monotonic() < until:  # noqa: ASYNC110 - a length
            await asyncio.sleep(_PAUSE_S)


async def _refuse(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.close", "code": 1008})
        return
    detail = "This server answers only its own pages and programs on this machine."
    await JSONResponse({"exception_message": detail}, 403, _HEADERS)(scope, receive, send)
