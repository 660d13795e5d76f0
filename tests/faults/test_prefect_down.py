"""Row 38: Prefect's API goes away in the middle of a run; ledger and answers do not depend on it."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from decimal import Decimal
from pathlib import Path
from urllib.parse import urlsplit
from uuid import UUID

import fault_replies as f
import pytest
from drive import PAID, PAID_KEY, TEXTS, Bench, config_of, good_provider, runtime_at, using
from fixtures_prefect import temporary_environment
from prefect.client.orchestration import get_client
from prefect.events.worker import EventsWorker
from test_flows import running

from tta_dev_primitives.blocks.ledger.ledger import Ledger
from tta_dev_primitives.blocks.ledger.types import Alert, CallInfo
from tta_dev_primitives.blocks.prefect_server.manager import ServerInfo
from tta_dev_primitives.flows import orchestrate
from tta_dev_primitives.flows.budget import send_alerts
from tta_dev_primitives.flows.calling.sync_loop import wait_for
from tta_dev_primitives.flows.prefect_support.events import delivered, emit, events_worker, listening
from tta_dev_primitives.flows.prefect_support.loop_connection import background_done
from tta_dev_primitives.orchestration import MultiModelWorkflow, OrchestrationResult, PrefectServerError


class Line:
    """The way to the Prefect API; it can be cut and fixed."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._to = (parts.hostname or "", parts.port or 0)
        self._path = parts.path
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self.port = 0
        self._is_cut = False

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}{self._path}"

    async def open(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def cut(self) -> None:
        """Every connection is reset, now and until it is fixed.

        The port stays ours: on loopback a client that tries it again and again would connect to itself.
        """
        self._is_cut = True
        for writer in list(self._writers):
            writer.transport.abort()

    async def fix(self) -> None:
        self._is_cut = False

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._is_cut:
            writer.transport.abort()
            return
        there, back = await asyncio.open_connection(*self._to)
        self._writers |= {writer, back}
        await asyncio.gather(self._copy(reader, back), self._copy(there, writer))
        self._writers -= {writer, back}

    async def _copy(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            while data := await source.read(65536):
                sink.write(data)
                await sink.drain()
        sink.close()


@pytest.fixture(scope="session")
def line(prefect_server: ServerInfo) -> Line:
    """One for the session, open to its end: Prefect keeps clients of the first address that it has met."""
    made = Line(prefect_server.url)
    wait_for(made.open())
    return made


@pytest.mark.parametrize(
    ("database", "comes_back"), [("sqlite", True), ("sqlite", False), ("postgresql", False)]
)
def test_a_run_outlives_the_api(
    database: str,
    comes_back: bool,
    keys: str,
    tmp_path: Path,
    line: Line,
    request: pytest.FixtureRequest,
) -> None:
    """Down for a moment, the run ends well. Down for good, it may fail, but everything paid for is kept: a second
    run sends nothing and costs nothing.
    """
    url = f"sqlite:///{tmp_path / 'ledger.db'}"
    if database == "postgresql":
        url = request.getfixturevalue("postgres_url")
    asked: list[str] = []
    patience = {} if comes_back else {"PREFECT_CLIENT_MAX_RETRIES": "0"}
    provider = f.rude_server(_cutting(line, asked, comes_back=comes_back))
    with running(good_provider()) as good, running(provider) as paid:
        path = config_of(tmp_path, "down", paid.url, good.url, url, validation={"mode": "never"})
        workflow = MultiModelWorkflow(path, use_env_overrides=False)
        with temporary_environment({"PREFECT_API_URL": line.url, PAID_KEY: keys, **patience}):
            first = _run(workflow)
        with temporary_environment({"PREFECT_API_URL": line.url, PAID_KEY: keys}):
            if comes_back:
                assert first is not None
                assert first.model == PAID
            wait_for(line.fix())
            sent = len(asked)
            assert sent == 1
            again = _run(workflow)
            assert again is not None
            assert [(a.model, a.reused, a.cost_usd) for a in again.attempts] == [(PAID, True, 0)]
            assert len(asked) == sent
            assert keys not in f"{first!r}{again!r}"
        assert wait_for(_states(url)) == (["settled"], [])


def test_an_api_that_answers_with_an_error_is_one_line(prefect_server: ServerInfo) -> None:
    """Its disk is full, say: a person reads what to do, not Prefect's traceback."""
    broken = f.answering(f.error("500 Internal Server Error", "api_error", "disk full"), "")
    with (
        running(f.rude_server(broken)) as api,
        temporary_environment({"PREFECT_API_URL": f"{api.url}/api"}),
        pytest.raises(PrefectServerError, match=r"Prefect's API answered 500; .* run the same again"),
    ):
        wait_for(orchestrate("Describe how a kettle works.", use_case="moderate"))


def test_events_of_a_worker_that_could_not_connect_are_not_delivered(prefect_server: ServerInfo) -> None:
    """It ends, and the next one has an empty queue: that says nothing of the events that it had."""
    wait_for(background_done())
    with temporary_environment({"PREFECT_API_URL": "http://127.0.0.1:9/api"}):
        EventsWorker.instance().drain()
        worker = events_worker()
        emit("tta.fallback", {}, resource="tta.model.any")
        while EventsWorker.instance() is worker:
            time.sleep(0.05)
        assert not wait_for(delivered(worker, 0.1))


def test_an_alert_is_due_until_prefect_has_it(
    keys: str, tmp_path: Path, line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Down when the budget line is crossed: a later check sends the alert again, and Prefect keeps it once."""
    monkeypatch.setattr("tta_dev_primitives.flows.budget._DELIVERY_S", 0.5)
    bench = Bench(f"sqlite:///{tmp_path / 'ledger.db'}", tmp_path, keys, "http://127.0.0.1:9")
    now = [1_794_000_000.0]
    sent: list[str] = []
    runtime = wait_for(runtime_at(bench, "http://127.0.0.1:9"))
    clocked = Ledger(runtime.ledger.database, scope=runtime.ledger.scope, clock=lambda: now[0])
    runtime = using(runtime, ledger=clocked)
    wait_for(_spend(runtime.ledger))
    # What earlier runs left to do emits events too: a worker that it began would go to the server, not by the line.
    wait_for(background_done())
    with temporary_environment({"PREFECT_API_URL": line.url}), listening(lambda name, _: sent.append(name)):
        EventsWorker.instance().drain()
        wait_for(line.cut())
        wait_for(send_alerts(runtime))
        assert sent == ["tta.budget.alert"]
        wait_for(line.fix())
        monkeypatch.setattr("tta_dev_primitives.flows.budget._DELIVERY_S", 60.0)
        for _ in range(2):
            now[0] += 61
            wait_for(send_alerts(runtime))
        assert sent == ["tta.budget.alert"] * 2
        EventsWorker.instance().drain()
        event_id = Alert(runtime.ledger.scope, "2026-11", 8000, Decimal(0), Decimal(1)).event_id
        assert wait_for(_kept(event_id)) == 1


async def _spend(ledger: Ledger) -> None:
    hold = await ledger.reserve(CallInfo(provider="p", model="m", role="execute"), Decimal(1), Decimal(1))
    await ledger.settle(hold, Decimal("0.9"))


async def _kept(event_id: UUID) -> int:
    """How often Prefect holds an event, once it holds it."""
    wanted = {"filter": {"id": {"id": [str(event_id)]}, "event": {"name": ["tta.budget.alert"]}}}
    async with get_client() as client:
        for _ in range(1100):
            found = (await client.request("POST", "/events/filter", json=wanted)).json()["events"]
            if found:
                return len(found)
            await asyncio.sleep(0.1)
    return 0


def _cutting(line: Line, asked: list[str], *, comes_back: bool) -> f.Behaviour:
    """The provider answers the first request after the line to Prefect has been cut."""

    async def behave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            request = f.parse(await f.read_request(reader))
            asked.append(str(request.body))
            await line.cut()
            if comes_back:
                asyncio.get_running_loop().call_later(1.0, lambda: asyncio.ensure_future(line.fix()))
            writer.write(f.good(TEXTS["execute"], request))
            await writer.drain()

    return behave


def _run(workflow: MultiModelWorkflow) -> OrchestrationResult | None:
    # What Prefect raises for an API that is gone depends on where it notices.
    with suppress(Exception):
        return workflow.run("Describe how a kettle works.", use_case="moderate")
    return None


async def _states(url: str) -> tuple[list[str], list[str]]:
    ledger = Ledger.open(url)
    rows = await ledger.database.read(
        lambda tx: tx.fetch("SELECT state FROM ledger_call WHERE model = ?", PAID)
    )
    problems = await ledger.verify()
    await ledger.database.aclose()
    return [row["state"] for row in rows], problems
