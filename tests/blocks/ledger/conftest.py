"""A ledger on each of the two databases, with a clock and a provider that the test holds in its hand."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from ledger_tools import Clock

from tta_dev_primitives.blocks.ledger.database.protocol import Database, database_for
from tta_dev_primitives.blocks.ledger.ledger import Ledger
from tta_dev_primitives.blocks.ledger.types import CallInfo


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(params=["sqlite", "postgresql"])
def ledger_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The address of an empty ledger: each test runs on both databases."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'home' / 'ledger.db'}"
    url: str = request.getfixturevalue("postgres_url")
    return url


@pytest.fixture
async def database(ledger_url: str) -> AsyncIterator[Database]:
    opened = database_for(ledger_url)
    yield opened
    await opened.aclose()


@pytest.fixture
async def ledger(database: Database, clock: Clock) -> Ledger:
    return Ledger(database, clock=clock)


@pytest.fixture
def new_call() -> Callable[..., CallInfo]:
    def make(**fields: object) -> CallInfo:
        base = {"provider": "p", "model": "m", "role": "execute", "use_case": "simple", "deadline_s": 30.0}
        return CallInfo(**{"model_key": "p||m", "provider_key": "p|", **base, **fields})  # type: ignore[arg-type]

    return make
