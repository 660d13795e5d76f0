"""Rows 35 to 37: the ledger's database is locked, down, or crashes."""

from __future__ import annotations

import asyncio
import fcntl
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from decimal import Decimal
from functools import partial
from pathlib import Path

import fault_replies as f
import pytest
from drive import TEXTS, Bench, drive, good_provider, honest, ledger_rows
from matrix import DATABASES, SITES
from postgres_server import PostgresServer

from tta_dev_primitives.blocks.ledger.database import postgresql_pool, sqlite
from tta_dev_primitives.blocks.ledger.database.protocol import database_for
from tta_dev_primitives.blocks.ledger.ledger import Ledger
from tta_dev_primitives.config.errors import LedgerError


class Breakable:
    """A ledger database of this test's own that can be taken away and given back."""

    def __init__(self, folder: Path, server: PostgresServer | None) -> None:
        self.url = server.url if server is not None else f"sqlite:///{folder / 'own' / 'ledger.db'}"
        self._queue = folder / "own" / "ledger.db.queue"
        self._server = server
        self._lock = -1

    async def take_away(self) -> None:
        """Another process sits on the lock; or the server is gone."""
        if self._server is not None:
            await asyncio.to_thread(self._server.halt)
            return
        self._lock = os.open(self._queue, os.O_RDONLY)
        await asyncio.to_thread(fcntl.flock, self._lock, fcntl.LOCK_EX)

    async def give_back(self) -> None:
        if self._server is not None:
            await asyncio.to_thread(self._server.start)
            return
        os.close(self._lock)


@pytest.fixture
def own_server(postgres_binaries_or_skip: None) -> PostgresServer:
    return PostgresServer()


@asynccontextmanager
async def breakable(
    database: str, folder: Path, keys: str, request: pytest.FixtureRequest
) -> AsyncIterator[tuple[Bench, Breakable]]:
    server = request.getfixturevalue("own_server") if database == "postgresql" else None
    broken = Breakable(folder, server)
    try:
        async with good_provider() as good:
            await Ledger.open(broken.url).balance()
            yield Bench(broken.url, folder, keys, good.url), broken
        await database_for(broken.url).aclose()
    finally:
        if server is not None:
            server.stop()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """The 30 s of waiting for a database, in tenths of a second."""
    monkeypatch.setattr(sqlite, "_WAIT_S", 0.3)
    monkeypatch.setattr(postgresql_pool, "_RETRY_S", 0.3)
    monkeypatch.setattr(postgresql_pool, "_FIRST_CONNECT_S", 0.3)


@pytest.mark.parametrize("database", DATABASES)
async def test_no_ledger_no_paid_call(
    database: str, tmp_path: Path, keys: str, impatient: None, request: pytest.FixtureRequest
) -> None:
    """At every call site: without the ledger nothing is sent, the run ends with what is wrong; later it works."""
    async with breakable(database, tmp_path, keys, request) as (bench, broken), AsyncExitStack() as stack:
        cells = {site: await stack.enter_async_context(honest(bench, site)) for site in SITES}
        await broken.take_away()
        outcomes = await asyncio.gather(*(drive(runtime, site) for site, (runtime, _) in cells.items()))
        for outcome in outcomes:
            assert outcome.action == "stop", outcome.site
            assert isinstance(outcome.error, LedgerError), outcome.site
            assert ("another process holds its lock" if database == "sqlite" else "Ledger") in str(
                outcome.error
            )
        assert [server.connections for _, server in cells.values()] == [0] * len(SITES)
        await broken.give_back()
        for site, (runtime, _) in cells.items():
            assert await ledger_rows(runtime) == []
            assert (await drive(runtime, site)).action == "keep"


def _answers_after(step: Callable[[], Awaitable[None]], text: str) -> f.Behaviour:
    """The provider answers once `step` is done, whatever that is."""

    async def behave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            asked = f.parse(await f.read_request(reader))
            await step()
            assert asked.key
            # With limits in its headers the reply gives the quota something to write, too.
            limits = {"limit": "1000", "remaining": "999", "reset": "2026-12-31T00:00:00Z"}
            headers = {f"anthropic_ratelimit_requests_{name}": value for name, value in limits.items()}
            writer.write(f.ok(f.message(text), **headers))
            await writer.drain()

    return behave


class _Once:
    """The first caller does it; the others wait until it is done."""

    def __init__(self, callers: int, work: Callable[[], Awaitable[None]]) -> None:
        self._barrier = asyncio.Barrier(callers)
        self._work = work
        self._done: asyncio.Task[None] | None = None

    async def __call__(self) -> None:
        await self._barrier.wait()
        if self._done is None:
            self._done = asyncio.ensure_future(self._work())
        await self._done


@pytest.mark.parametrize("database", DATABASES)
async def test_an_answer_outlives_the_ledger_that_goes_down(
    database: str, tmp_path: Path, keys: str, impatient: None, request: pytest.FixtureRequest
) -> None:
    """Down between a call and its settlement: the answer is used, and the sweep charges the bound afterwards."""
    async with breakable(database, tmp_path, keys, request) as (bench, broken), AsyncExitStack() as stack:
        down = _Once(len(SITES) + 2, broken.take_away)  # a bulk lane sends three
        cells = {
            site: await stack.enter_async_context(
                honest(bench, site, serve=_answers_after(down, TEXTS[site]), timeout_s=30.0)
            )
            for site in SITES
        }
        outcomes = await asyncio.gather(*(drive(runtime, site) for site, (runtime, _) in cells.items()))
        for outcome in outcomes:
            # After planning the next step needs the ledger; a run that has its answer needs it no more.
            wanted = "stop" if outcome.site == "plan" else "keep"
            assert outcome.action == wanted, f"{outcome.site}: {outcome.error}"
        await broken.give_back()
        for site, (runtime, _) in cells.items():
            rows = await ledger_rows(runtime)
            assert {row["state"] for row in rows} == {"held"}, site
            later = partial(max, rows[0]["lease_until"] + 1, 0)
            late = Ledger(runtime.ledger.database, scope=runtime.ledger.scope, clock=later)
            assert await late.sweep() == len(rows)
            balance = await late.balance()
            assert (balance.held, balance.spent > 0, await late.verify()) == (Decimal(0), True, [])
            assert balance.spent == balance.presumed


async def test_a_crash_of_the_database_loses_no_entry(
    tmp_path: Path, keys: str, own_server: PostgresServer, request: pytest.FixtureRequest
) -> None:
    """PostgreSQL dies while calls of every site are under way, and comes back: entries are written once."""
    try:
        async with good_provider() as good, AsyncExitStack() as stack:
            bench = Bench(own_server.url, tmp_path, keys, good.url)

            async def crash() -> None:
                await asyncio.to_thread(own_server.crash)

            crashed = _Once(len(SITES) + 2, crash)
            cells = {
                site: await stack.enter_async_context(
                    honest(bench, site, serve=_answers_after(crashed, TEXTS[site]), timeout_s=30.0)
                )
                for site in SITES
            }
            outcomes = await asyncio.gather(*(drive(runtime, site) for site, (runtime, _) in cells.items()))
            for outcome, (runtime, _) in zip(outcomes, cells.values(), strict=True):
                assert outcome.action == "keep", f"{outcome.site}: {outcome.error}"
                rows = await ledger_rows(runtime)
                assert {row["state"] for row in rows} == {"settled"}
                assert await runtime.ledger.verify() == []
                assert (await runtime.ledger.balance()).held == 0
            await database_for(own_server.url).aclose()
    finally:
        own_server.stop()
