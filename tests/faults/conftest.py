"""A canary key, the places where it must not turn up, and a database for all cells of a test."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from leaks import LogFile, Places, leaks, leaks_in_postgres

from tta_dev_primitives.blocks.prefect_server.manager import ServerInfo

if TYPE_CHECKING:
    from drive import Bench


_LIBRARIES = ("tta_dev_primitives", "httpx", "httpcore", "aiohttp", "asyncpg", "asyncio")


@pytest.fixture(scope="session")
def canary() -> str:
    """A key of no known pattern: only the exact net of the redaction can know it."""
    return f"Canary{secrets.token_hex(24)}"


@pytest.fixture(scope="session")
def places(
    tmp_path_factory: pytest.TempPathFactory, canary: str, prefect_server: ServerInfo
) -> Iterator[Places]:
    """Everything that this session's cells write; scanned when the last of them has ended."""
    from tta_dev_primitives.flows.calling.sync_loop import wait_for
    from tta_dev_primitives.flows.prefect_support.events import delivered, events_worker

    folder = tmp_path_factory.mktemp("faults")
    found = Places(folder, [prefect_server.home.root] if prefect_server.home else [])
    yield found
    # A worker of Prefect's that has failed never says that its queue is empty.
    wait_for(delivered(events_worker(), 60.0))
    assert leaks(canary, found) == []


@pytest.fixture(autouse=True)
def _everything_is_logged(request: pytest.FixtureRequest) -> Iterator[None]:
    """Each line of each library is among what is scanned, for the length of a test that is scanned."""
    if "places" not in request.fixturenames:
        yield
        return
    handler = LogFile(request.getfixturevalue("places").folder / "all.log")
    logging.getLogger().addHandler(handler)
    levels = {name: logging.getLogger(name).level for name in _LIBRARIES}
    for name in levels:
        logging.getLogger(name).setLevel(logging.DEBUG)
    yield
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)
    logging.getLogger().removeHandler(handler)
    handler.close()


@pytest.fixture
def keys(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, canary: str, places: Places) -> str:
    """The canary as the paid model's key, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FAULT_PAID_KEY", canary)
    monkeypatch.setenv("FAULT_FREE_KEY", f"{canary[::-1]}free")
    return canary


@pytest.fixture(params=["sqlite", "postgresql"])
def ledger_url(request: pytest.FixtureRequest, places: Places, canary: str) -> Iterator[str]:
    """The address of a ledger that many cells share, each in a scope of its own; what it then holds is scanned."""
    if request.param == "sqlite":
        yield places.sqlite_url()
        return
    url = str(request.getfixturevalue("postgres_url"))
    yield url
    # Here, since the schema ends with the test.
    assert asyncio.run(leaks_in_postgres(canary, url)) == []


@pytest.fixture
async def bench(keys: str, ledger_url: str, tmp_path: Path) -> AsyncIterator[Bench]:
    """Where cells run."""
    # Imported here: the flows bring Prefect along, which must not see the settings of whoever runs the tests.
    from drive import Bench, good_provider

    from tta_dev_primitives.blocks.ledger.database.protocol import database_for

    async with good_provider() as good:
        yield Bench(ledger_url, tmp_path, keys, good.url)
    await database_for(ledger_url).aclose()
