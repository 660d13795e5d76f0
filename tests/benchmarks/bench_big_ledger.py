"""How long a ledger of two million calls takes: report, check, sweep, verify, prune.

    python -m tests.benchmarks.bench_big_ledger [--calls 2000000] [--postgresql] [--json]

A few thousand real calls of two months are multiplied by SQL. The first line reads every row, as a ledger does that
was never summed. `--postgresql` starts a throw-away server from the machine's own binaries. Target: report, check and
sweep below 2 s each afterwards. Exit 1 when one is missed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sqlite3
import sys
import tempfile
import time
import uuid
from collections.abc import Awaitable, Callable
from contextlib import ExitStack, closing
from decimal import Decimal
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from postgres_server import PostgresServer

from tta_dev_primitives.blocks.ledger.database.protocol import Tx
from tta_dev_primitives.blocks.ledger.ledger import Ledger
from tta_dev_primitives.blocks.ledger.task_records import TaskRecord, record_results
from tta_dev_primitives.blocks.ledger.types import CallInfo, Outcome
from tta_dev_primitives.config import load_orchestration_config
from tta_dev_primitives.flows.reporting.spend import gather

LIMIT, DAY_S, TARGET_S, BASE = Decimal(900_000), 86_400, 2.0, 2_000
COPIED = {"ledger_call": "id", "ledger_event": "seq", "task_result": "item_id", "ledger_answer": "step_key"}
UNIQUE = ("id", "item_id", "step_key")


async def real_calls(url: str, at: float, count: int) -> None:
    """Calls as a bulk job makes them: three of four free, one of ten failed, one stored answer for each two."""
    ledger = Ledger.open(url, clock=lambda: at)
    month = (await ledger.balance()).month
    for number in range(count):
        key = uuid.uuid4().hex
        model, use_case = f"m{number % 7}", f"case{number % 4}"
        call = CallInfo(provider="p", model=model, role="execute", use_case=use_case, step_key=key)
        failed = number % 10 == 9
        answer = None if failed or number % 2 else (key, b"x" * 400)
        outcome = Outcome(outcome="overloaded" if failed else "ok")
        if number % 4:
            await ledger.record_free(call, outcome, answer=answer)
        else:
            hold = await ledger.reserve(call, Decimal("0.0004"), LIMIT)
            if failed:
                await ledger.release(hold, "refused", outcome="overloaded")
            else:
                await ledger.settle(hold, Decimal("0.0001"), outcome=outcome, answer=answer)
    tasks = [
        TaskRecord(flow_run_id="run", item_id=uuid.uuid4().hex, use_case=f"case{n % 4}", model="m1",
                   cost=Decimal("0.00005"), baseline=Decimal("0.0003"), accepted=True, quality=0.9)
        for n in range(count // 3)
    ]  # fmt: skip
    await record_results(ledger, month, tasks)
    await ledger.database.aclose()


def multiply(path: Path, times: int, old: float) -> None:
    """Copy every row `times` - 1 times under new ids; the months grow with them."""
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA synchronous=OFF")
        db.execute("PRAGMA cache_size=-600000")
        for table, own in COPIED.items():
            names = [row[1] for row in db.execute(f"PRAGMA table_info({table})") if row[1] != "seq"]
            # In the order of the new keys: random ones are inserted many times slower.
            shown = ", ".join(
                f"printf('%06d-', value) || {name}" if name in UNIQUE else name for name in names
            )
            db.execute(
                f"WITH RECURSIVE n(value) AS (SELECT 1 UNION ALL SELECT value + 1 FROM n WHERE value < {times - 1}) "
                f"INSERT INTO {table} ({', '.join(names)}) SELECT {shown} FROM n CROSS JOIN "
                f"(SELECT * FROM {table} ORDER BY {own}) AS base"
            )
        # Old records carry the age of their month's calls.
        db.execute(
            "UPDATE task_result SET created_at = ? WHERE month < (SELECT max(month) FROM ledger_month)",
            (old,),
        )
        db.execute("UPDATE ledger_month SET spent = spent * ?, held = held * ?", (times, times))
        db.execute("UPDATE ledger_savings SET extra = extra * ?, held = held * ?", (times, times))
        db.commit()


async def multiply_postgresql(ledger: Ledger, times: int, old: float) -> None:
    """The same on PostgreSQL, in statements below the ledger's time limit."""

    async def do(statement: str, *args: object) -> None:
        async def work(tx: Tx) -> None:
            await tx.execute(statement, *args)

        await ledger.database.transact(work, label="multiply")

    async def columns(tx: Tx) -> list[dict[str, Any]]:
        return await tx.fetch("SELECT table_name, column_name FROM information_schema.columns")

    found = await ledger.database.read(columns)
    for table, own in COPIED.items():
        names = [c["column_name"] for c in found if c["table_name"] == table and c["column_name"] != "seq"]
        shown = ", ".join(f"lpad(value::text, 6, '0') || '-' || {n}" if n in UNIQUE else n for n in names)
        await do(f"CREATE TABLE base_rows AS SELECT * FROM {table} ORDER BY {own}")
        for start in range(1, times, 25):
            values = f"generate_series({start}, {min(times - 1, start + 24)}) AS value"
            await do(
                f"INSERT INTO {table} ({', '.join(names)}) SELECT {shown} FROM {values} CROSS JOIN base_rows"
            )
        await do("DROP TABLE base_rows")
        await do(f"ANALYZE {table}")
    await do("UPDATE task_result SET created_at = ? WHERE month < (SELECT max(month) FROM ledger_month)", old)
    await do(f"UPDATE ledger_month SET spent = spent * {times}, held = held * {times}")
    await do(f"UPDATE ledger_savings SET extra = extra * {times}, held = held * {times}")


async def timed(what: Callable[[], Awaitable[Any]]) -> tuple[float, Any]:
    began = time.perf_counter()
    found = await what()
    return round(time.perf_counter() - began, 2), found


async def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=2_000_000)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--postgresql", action="store_true")
    options = parser.parse_args()
    figures: dict[str, Any] = {}
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        path = Path(folder) / "ledger.db"
        os.environ.setdefault("TTA_HOME", folder)
        url, now = f"sqlite:///{path}", time.time()
        if options.postgresql:
            server = PostgresServer(durable=True)
            stack.callback(server.stop)
            url, path = server.url, server.folder / "data"
        old = now - 120 * DAY_S
        await real_calls(url, old, BASE // 2)
        await real_calls(url, now, BASE // 2)
        ledger = Ledger.open(url)
        if options.postgresql:
            await multiply_postgresql(ledger, options.calls // BASE, old)
        else:
            multiply(path, options.calls // BASE, old)
        config, month = load_orchestration_config(None), (await ledger.balance()).month

        async def report() -> Any:
            return await gather(config, ledger, month, limit=LIMIT)

        async def check() -> list[str]:
            await ledger.sum_up()
            return await ledger.verify()

        async def sweep() -> int:
            await ledger.sum_up()
            return await ledger.sweep() + len(await ledger.verify())

        def size() -> int:
            files = path.rglob("*") if path.is_dir() else [path]
            return sum(file.stat().st_size for file in files if file.is_file()) // 2**20

        figures["calls"], figures["mib"] = options.calls, size()
        figures["unsummed_verify_s"], problems = await timed(ledger.verify)
        figures["sum_up_s"], _ = await timed(ledger.sum_up)
        figures["report_s"], found = await timed(report)
        figures["check_s"], again = await timed(check)
        figures["sweep_s"], swept = await timed(sweep)
        figures["full_verify_s"], whole = await timed(lambda: ledger.verify(full=True))
        before = (found.money.total, found.saved)
        figures["answers_deleted_s"], _ = await timed(lambda: ledger.forget_answers(now - 90 * DAY_S))
        figures["prune_s"], pruned = await timed(lambda: ledger.prune(now - 90 * DAY_S))
        figures["compact_s"], _ = await timed(ledger.database.compact)
        figures["mib_after"], figures["pruned_calls"] = size(), pruned["calls"]
        figures["full_verify_after_s"], left = await timed(lambda: ledger.verify(full=True))
        later = await report()
        figures["problems"] = [*problems, *again, *whole, *left]
        figures["same_report"] = before == (later.money.total, later.saved) and not swept
        await ledger.database.aclose()
    slow = [name for name in ("report_s", "check_s", "sweep_s") if figures[name] > TARGET_S]
    if options.json:
        json.dump(figures, sys.stdout, indent=1)
    else:
        for name, value in figures.items():
            sys.stdout.write(f"{name:22} {value}\n")
        sys.stdout.write(f"missed: {', '.join(slow)}\n" if slow else "target met\n")
    return 1 if slow or figures["problems"] or not figures["same_report"] else 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
