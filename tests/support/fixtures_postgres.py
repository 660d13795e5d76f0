"""One real PostgreSQL server for a whole test session, shared by all xdist workers."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from postgres_server import PostgresServer, postgres_binaries, stop_server

_MISSING = "PostgreSQL is not installed (Debian: apt-get install postgresql)"


@pytest.fixture(scope="session")
def postgres_binaries_or_skip() -> None:
    """Skip without PostgreSQL on a developer's machine; fail in CI."""
    if postgres_binaries() is None:
        if os.environ.get("CI"):
            pytest.fail(_MISSING)
        pytest.skip(_MISSING)


@pytest.fixture(scope="session")
def postgres_server_url(
    tmp_path_factory: pytest.TempPathFactory, postgres_binaries_or_skip: None
) -> Iterator[str]:
    """The address of a running server; the last process that uses it stops it."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base
    state = shared / "postgres.json"
    with _locked(state) as (known, save):
        if not known:
            server = PostgresServer()
            known = {"url": server.url, "folder": str(server.folder), "users": 0}
        save({**known, "users": known["users"] + 1})
        url: str = known["url"]
    yield url
    with _locked(state) as (known, save):
        users = known["users"] - 1
        save({**known, "users": users} if users else {})
        if not users:
            stop_server(Path(known["folder"]))


@pytest.fixture
def postgres_url(postgres_server_url: str) -> Iterator[str]:
    """An empty PostgreSQL schema of this test's own, as a ledger URL."""
    name = f"t_{uuid.uuid4().hex}"
    asyncio.run(_statement(postgres_server_url, f"CREATE SCHEMA {name}"))
    yield f"{postgres_server_url}?search_path={name}"
    asyncio.run(_statement(postgres_server_url, f"DROP SCHEMA {name} CASCADE"))


async def _statement(url: str, sql: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(sql)
    finally:
        await connection.close()


class _locked:
    """Read and write a small JSON file while no other process does."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> tuple[dict[str, Any], Any]:
        self._file = open(self._path, "a+", encoding="utf-8")
        fcntl.flock(self._file, fcntl.LOCK_EX)
        self._file.seek(0)
        return json.loads(self._file.read() or "{}"), self._save

    def _save(self, value: dict[str, Any]) -> None:
        self._file.seek(0)
        self._file.truncate()
        self._file.write(json.dumps(value))

    def __exit__(self, *_: object) -> None:
        self._file.close()
