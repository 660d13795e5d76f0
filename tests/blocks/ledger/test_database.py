"""The small API over both databases: any loop, any thread, after a fork, at exit; all or nothing."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from typing import Any

import pytest

from tta_dev_primitives.blocks.ledger.database.migrations import register_schema
from tta_dev_primitives.blocks.ledger.database.protocol import Database, Tx, database_for
from tta_dev_primitives.config.errors import LedgerError

register_schema(
    "test_counter",
    1,
    ["CREATE TABLE counter (id TEXT PRIMARY KEY, n INTEGER NOT NULL CHECK (n < 1000)) STRICT"],
)

_ADD = "INSERT INTO counter (id, n) VALUES (?, ?) ON CONFLICT (id) DO UPDATE SET n = counter.n + excluded.n"


async def add_one(tx: Tx) -> None:
    await tx.execute(_ADD, "a", 1)


async def total(tx: Tx) -> int:
    return sum(row["n"] for row in await tx.fetch("SELECT n FROM counter"))


async def test_a_work_that_raises_undoes_only_itself(database: Database) -> None:
    """Works that are committed together stay independent: the error reaches its own caller, unchanged."""

    async def add_and_raise(tx: Tx) -> None:
        await tx.execute(_ADD, "a", 100)
        raise KeyError("mine")

    async def break_the_rule(tx: Tx) -> None:
        await tx.execute(_ADD, "a", 5)
        await tx.execute(_ADD, "b", 5000)

    async def wrong_sql(tx: Tx) -> None:
        await tx.execute("SELEKT 1")

    works: list[Any] = [add_one, add_and_raise, add_one, break_the_rule, wrong_sql, add_one]
    done = await asyncio.gather(*(database.transact(work) for work in works), return_exceptions=True)
    assert [type(one) for one in done] == [
        type(None),
        KeyError,
        type(None),
        LedgerError,
        LedgerError,
        type(None),
    ]
    assert await database.read(total) == 3


async def test_a_commit_is_on_disk_before_it_is_told(database: Database) -> None:
    """No test can cut the power: this one asks the databases how they commit."""

    async def settings(tx: Tx) -> list[object]:
        if database.dialect == "sqlite":
            asked = ("PRAGMA synchronous", "PRAGMA journal_mode", "PRAGMA busy_timeout")
        else:
            asked = ("SHOW synchronous_commit", "SHOW lock_timeout")
        return [value for sql in asked for row in await tx.fetch(sql) for value in row.values()]

    full = 2
    assert await database.read(settings) == (
        [full, "wal", 30_000] if database.dialect == "sqlite" else ["on", "30s"]
    )


async def test_rows_changed_are_counted(database: Database) -> None:
    """`execute` returns how many rows a statement touched; `fetch` returns what RETURNING gives."""

    async def work(tx: Tx) -> list[Any]:
        return [
            await tx.execute(_ADD, "a", 1),
            await tx.execute("UPDATE counter SET n = 7 WHERE id = ?", "none"),
            await tx.fetch("UPDATE counter SET n = n + ? RETURNING id, n", 4),
            await tx.execute("DELETE FROM counter"),
        ]

    assert await database.transact(work) == [1, 0, [{"id": "a", "n": 5}], 1]


async def test_the_clock_is_the_databases(database: Database) -> None:
    """`now` is seconds since 1970 and moves on."""

    async def now(tx: Tx) -> float:
        return tx.now()

    first, second = await database.read(now), await database.transact(now)
    assert 1.7e9 < first <= second < first + 60


async def test_every_loop_and_thread_may_use_it(database: Database, ledger_url: str) -> None:
    """Prefect runs flows and tasks on several event loops and threads of one process."""

    def elsewhere() -> None:
        asyncio.run(database_for(ledger_url).transact(add_one))

    threads = [threading.Thread(target=elsewhere) for _ in range(8)]
    for thread in threads:
        thread.start()
    await asyncio.gather(*(database.transact(add_one) for _ in range(8)))
    for thread in threads:
        await asyncio.to_thread(thread.join)
    assert await database.read(total) == 16


async def test_it_opens_again_after_it_was_closed(database: Database) -> None:
    """Closing is not the end: the next use opens it again."""
    for _ in range(2):
        await database.transact(add_one)
        await database.aclose()
    assert await database.read(total) == 2


@pytest.mark.server
def test_a_forked_child_and_a_forgotten_close_do_no_harm(ledger_url: str) -> None:
    """A child of a process with an open ledger opens its own; no exit hangs, warns or prints."""
    script = f"""
import asyncio, os, sys
from tta_dev_primitives.blocks.ledger.ledger import Ledger
from tta_dev_primitives.blocks.ledger.database.protocol import database_for
assert not any(name == "prefect" for name in sys.modules)
ledger = Ledger.open({ledger_url!r})
async def reserve(n):
    from decimal import Decimal
    from tta_dev_primitives.blocks.ledger.types import CallInfo
    call = CallInfo(provider="p", model="m", role="execute")
    await ledger.settle(await ledger.reserve(call, Decimal(n), Decimal(10)), Decimal(n))
asyncio.run(reserve(1))
if os.fork() == 0:
    asyncio.run(reserve(2))
    sys.exit(0)
assert os.wait()[1] == 0
asyncio.run(reserve(3))
print(asyncio.run(ledger.balance()).spent)
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script],
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "6\n", "")


async def test_a_work_function_that_waits_for_something_else_is_refused(tmp_path: Any) -> None:
    """On SQLite it would hold everybody's lock: an error, and nothing is written."""
    database = database_for(f"sqlite:///{tmp_path}/ledger.db")
    never: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def waits(tx: Tx) -> None:
        await tx.execute(_ADD, "a", 1)
        await never

    with pytest.raises(LedgerError, match="nothing but its transaction"):
        await database.transact(waits)
    assert await database.read(total) == 0
    await database.aclose()
