"""The guard of the embedded server: which requests it serves, and when the server was last used."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tta_dev_primitives.blocks.prefect_server.asgi_guard import STATUS_PATH, Activity, Guard


class Served:
    """An app behind a guard, which answers when it may, and what reached it."""

    def __init__(self) -> None:
        self.now = 100.0
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        self.activity = Activity(clock=lambda: self.now)
        self.guard = Guard(
            self._app,
            activity=self.activity,
            hosts=["127.0.0.1", "localhost"],
            origins=["http://127.0.0.1:4242"],
            status=lambda: {"pid": 7},
        )

    async def _app(self, scope: Any, receive: Any, send: Any) -> None:
        await self.may_answer.wait()
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def ask(self, path: str = "/api/flows/", **headers: str) -> int:
        """The status of one request."""
        sent: list[dict[str, Any]] = []
        fields = {"host": "127.0.0.1:4242", **headers}
        raw = [(name.encode(), value.encode()) for name, value in fields.items()]

        async def send(message: Any) -> None:
            sent.append(message)

        async def receive() -> Any:
            return {"type": "http.request"}

        await self.guard({"type": "http", "method": "GET", "path": path, "headers": raw}, receive, send)
        return int(sent[0]["status"])


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"host": "LOCALHOST:4242"}, 200),
        ({"host": "attacker.example:4242"}, 403),
        ({"origin": "http://127.0.0.1:4242"}, 200),
        ({"origin": "https://attacker.example"}, 403),
        ({"origin": "http://127.0.0.1:9999"}, 403),
    ],
)
async def test_only_own_names_and_own_pages_are_served(headers: dict[str, str], status: int) -> None:
    """A name of another host is DNS rebinding; an origin of another page is a foreign web page."""
    assert await Served().ask(**headers) == status


async def test_idle_time_begins_when_the_last_request_has_ended() -> None:
    """A request in flight keeps the server up; a question for its status does not count as use."""
    served = Served()
    served.may_answer.clear()
    asked = asyncio.create_task(served.ask())
    await asyncio.sleep(0)
    served.now += 60
    assert served.activity.idle_s == 0
    served.may_answer.set()
    await asked
    served.now += 30
    assert await served.ask(STATUS_PATH) == 200
    assert served.activity.idle_s == 30
