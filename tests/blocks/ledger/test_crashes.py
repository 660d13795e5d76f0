"""Whatever dies, and wherever: no acknowledged entry is lost, no bill is missing, no money stays held."""

from __future__ import annotations

import asyncio
import subprocess
import time
from collections import Counter
from decimal import Decimal
from pathlib import Path

import pytest
from ledger_tools import FAILPOINTS, check_books, ended, lines, start
from postgres_server import PostgresServer

from tta_dev_primitives.blocks.ledger.database.protocol import Database
from tta_dev_primitives.blocks.ledger.ledger import Ledger
from tta_dev_primitives.blocks.ledger.money import to_pico

pytestmark = pytest.mark.proof
LIMIT = Decimal("0.02")
IN_FLIGHT = {"call.after_send", *(f"settle.{m}" for m in ("begun", "after_call", "after_event", "after_month")),
             "settle.before_commit"}  # fmt: skip


def wait_for_calls(process: subprocess.Popen[str], folder: Path, more: int) -> None:
    """Until the running process has settled some more calls."""
    seen = sum(1 for _ in lines(folder, "acked-*"))
    while sum(1 for _ in lines(folder, "acked-*")) < seen + more:
        assert process.poll() is None
        time.sleep(0.02)


async def test_a_process_may_be_killed_at_any_point(
    database: Database, ledger_url: str, tmp_path: Path
) -> None:
    """Killed at each named point, then run again: only a call in flight is paid twice, and it is counted twice."""
    points = list(FAILPOINTS)
    children = ended(start("job", ledger_url, tmp_path, points=",".join(points), limit=LIMIT))
    assert [(c["point"], c["status"]) for c in children] == [(p, s) for p in points for s in (-9, 0)]
    for point in points:
        found = list(lines(tmp_path, f"billed-{point}"))
        billed = {call_id: pico for call_id, pico, step in found if step != "alert"}
        acked = {call_id: pico for call_id, pico, _ in lines(tmp_path, f"acked-{point}")}
        await check_books(database, point, billed, acked)
        times = Counter(step for _, _, step in found)
        assert (times["one"], times["two"]) == (2 if point in IN_FLIGHT else 1, 1), point
        assert len({call_id for call_id, _, step in found if step == "alert"}) == 1, point


async def test_processes_may_be_killed_at_any_moment(
    database: Database, ledger_url: str, tmp_path: Path
) -> None:
    """32 random SIGKILLs of processes with several calls in flight each."""
    for seed in range(4):
        children = ended(
            start("hammer", ledger_url, tmp_path, processes=8, calls=10**6, concurrency=4, limit=1000, kill_ms=500,
                  seed=seed)
        )  # fmt: skip
        assert [child["status"] for child in children] == [-9] * 8
    billed = {call_id: pico for call_id, pico, _ in lines(tmp_path, "billed-*")}
    acked = {call_id: pico for call_id, pico, _ in lines(tmp_path, "acked-*")}
    assert acked, "nobody got as far as a settled call"
    await check_books(database, "default", billed, acked)


async def test_postgresql_may_crash(tmp_path: Path, postgres_binaries_or_skip: None) -> None:
    """The server dies twice under load and one of its processes is killed: callers go on, the books are exact."""
    server = PostgresServer()
    try:
        process = start("hammer", server.url, tmp_path, processes=4, calls=400, concurrency=2, limit=1000)
        for disaster in (server.crash, server.kill_backend, server.crash):
            await asyncio.to_thread(wait_for_calls, process, tmp_path, 100)
            disaster()
            server.wait()
        children = ended(process)
        assert sum(child["settled"] + child["released"] for child in children) == 1600
        billed = {call_id: pico for call_id, pico, _ in lines(tmp_path, "billed-*")}
        ledger = Ledger.open(server.url)
        await check_books(ledger.database, "default", billed, billed)
        assert to_pico((await ledger.balance()).spent) == sum(billed.values())
        await ledger.database.aclose()
    finally:
        server.stop()
