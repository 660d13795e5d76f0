"""Whoever asks the embedded server for runs reads every state that was on its way when the question arrived."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tta_dev_primitives.blocks.prefect_server.asgi_guard import Activity, Guard

RUN = "/api/flow_runs/9388c844-cb23-407a-9181-8ffd88879a60"


class Served:
    """An app behind a guard, which sets states only when told to, and the order in which it was reached."""

    def __init__(self) -> None:
        self.reached: list[str] = []
        self.may_set = asyncio.Event()
        self.guard = Guard(self._app, activity=Activity())

    async def _app(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["path"].endswith("/set_state"):
            await self.may_set.wait()
        self.reached.append(f"{scope['method']} {scope['path']}")

    def ask(self, method: str, path: str) -> asyncio.Task[None]:
        """Begin one request."""
        scope = {"type": "http", "method": method, "path": path, "headers": []}

        async def unused(*_: Any) -> Any:
            raise AssertionError("the app neither reads nor answers")

        return asyncio.get_running_loop().create_task(self.guard(scope, unused, unused))


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", RUN),
        ("POST", "/api/flow_runs/filter"),
        ("POST", "/api/flow_runs/count"),
        ("POST", "/api/ui/flow_runs/count-task-runs"),
    ],
)
@pytest.mark.parametrize("first", ["the state", "the question"])
async def test_a_reader_waits_for_states_that_arrived_before_or_with_it(
    method: str, path: str, first: str
) -> None:
    """Two connections may be read in either order in one turn of the server's loop."""
    served = Served()
    requests = [("POST", f"{RUN}/set_state"), (method, path)]
    asked = [served.ask(*each) for each in (requests if first == "the state" else reversed(requests))]
    for _ in range(5):
        await asyncio.sleep(0)
    assert served.reached == []
    served.may_set.set()
    await asyncio.gather(*asked)
    assert served.reached == [f"POST {RUN}/set_state", f"{method} {path}"]


@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", "/api/artifacts/"), ("POST", "/api/flow_runs/"), ("PATCH", RUN), ("GET", "/runs")],
)
async def test_who_writes_or_wants_a_page_does_not_wait(method: str, path: str) -> None:
    """Only answers that could show an older state are worth a wait."""
    served = Served()
    asked = served.ask("POST", f"{RUN}/set_state")
    await served.ask(method, path)
    assert served.reached == [f"{method} {path}"]
    served.may_set.set()
    await asked


async def test_a_state_that_was_sent_first_may_be_read_later() -> None:
    """Its connection is new, the reader's is open: to accept one and read from it the loop turns four times."""
    served = Served()
    served.may_set.set()
    reader = served.ask("GET", RUN)
    for _ in range(4):
        await asyncio.sleep(0)
    await asyncio.gather(reader, served.ask("POST", f"{RUN}/set_state"))
    assert served.reached == [f"POST {RUN}/set_state", f"GET {RUN}"]


async def test_a_client_that_stops_within_its_request_delays_readers_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What is not set within the patience of one reader holds the next one up no longer."""
    monkeypatch.setattr("tta_dev_primitives.blocks.prefect_server.asgi_guard._PATIENCE_S", 0.05)
    served = Served()
    stopped = served.ask("POST", f"{RUN}/set_state")
    await served.ask("GET", RUN)
    assert served.guard._setting == set()
    stopped.cancel()


async def test_a_request_that_is_broken_off_holds_nobody_up() -> None:
    """Its client has gone: readers go on."""
    served = Served()
    asked, reader = served.ask("POST", f"{RUN}/set_state"), served.ask("GET", RUN)
    await asyncio.sleep(0)
    asked.cancel()
    await reader
    assert served.reached == [f"GET {RUN}"]
