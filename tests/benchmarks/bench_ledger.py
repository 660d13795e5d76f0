"""How fast a hold is, against a bare INSERT+COMMIT on the same database in the same run.

    python -m tests.benchmarks.bench_ledger [--json]

Targets: SQLite, one process: reserve+settle <= 3 bare pairs; 32 processes: no less than a third of that
rate, p99 <= 20 medians; PostgreSQL: reserve+settle <= 4 bare pairs. Exit 1 when one is missed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from decimal import Decimal
from pathlib import Path
from typing import Any

import asyncpg

from tta_dev_primitives.blocks.ledger.ledger import Ledger
from tta_dev_primitives.blocks.ledger.types import CallInfo

SUPPORT = Path(__file__).resolve().parents[1] / "support"
sys.path.insert(0, str(SUPPORT))
from postgres_server import PostgresServer  # noqa: E402 - found through the line above

WORKER = SUPPORT / "ledger_worker.py"
ROUNDS, PAIRS, ROW = 15, 60, "x" * 300


async def ledger_pairs(ledger: Ledger, pairs: int) -> float:
    """Seconds for some reserve+settle pairs, one after the other."""
    began = time.perf_counter()
    for _ in range(pairs):
        call = CallInfo(provider="p", model="m", role="execute", use_case="simple")
        await ledger.settle(await ledger.reserve(call, Decimal("0.01"), Decimal(100_000)), Decimal("0.005"))
    return time.perf_counter() - began


async def compare(ledger: Ledger, bare: Any) -> dict[str, float]:
    """Medians of alternating rounds, so that a busy moment of the machine hits both."""
    await ledger_pairs(ledger, PAIRS)
    await bare(PAIRS)
    mine, theirs = [], []
    for _ in range(ROUNDS):
        mine.append(await ledger_pairs(ledger, PAIRS) / PAIRS)
        theirs.append(await bare(PAIRS) / PAIRS)
    pair, bare_pair = statistics.median(mine), statistics.median(theirs)
    return {
        "pair_ms": pair * 1e3,
        "bare_pair_ms": bare_pair * 1e3,
        "ratio": pair / bare_pair,
        "per_s": 1 / pair,
    }


async def sqlite_alone(folder: Path) -> dict[str, float]:
    """One process, SQLite, WAL and synchronous=FULL on both sides."""
    connection = sqlite3.connect(folder / "bare.db", isolation_level=None)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute("CREATE TABLE bare (id INTEGER PRIMARY KEY, body TEXT)")

    async def bare(pairs: int) -> float:
        began = time.perf_counter()
        for _ in range(2 * pairs):
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("INSERT INTO bare (body) VALUES (?)", (ROW,))
            connection.execute("COMMIT")
        return time.perf_counter() - began

    ledger = Ledger.open(f"sqlite:///{folder}/ledger.db")
    found = await compare(ledger, bare)
    await ledger.database.aclose()
    connection.close()
    return found


async def postgresql_alone(url: str) -> dict[str, float]:
    """One process, PostgreSQL, synchronous_commit=on on both sides."""
    connection = await asyncpg.connect(url)
    await connection.execute("CREATE TABLE bare (id BIGSERIAL PRIMARY KEY, body TEXT)")

    async def bare(pairs: int) -> float:
        began = time.perf_counter()
        for _ in range(2 * pairs):
            async with connection.transaction():
                await connection.execute("INSERT INTO bare (body) VALUES ($1)", ROW)
        return time.perf_counter() - began

    ledger = Ledger.open(url)
    found = await compare(ledger, bare)
    await ledger.database.aclose()
    await connection.close()
    return found


def gather_all(url: str, folder: Path, calls: int) -> dict[str, float]:
    """32 processes, each one call after the other."""
    out = subprocess.run(
        [sys.executable, str(WORKER), "hammer", "--url", url, "--folder", str(folder), "--processes", "32",
         "--calls", str(calls), "--limit", "1000", "--waits"],
        check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip
    children = json.loads(out)
    waits = sorted(wait for child in children for wait in child["waits"])
    median, p99 = waits[len(waits) // 2], waits[int(len(waits) * 0.99)]
    return {
        "per_s": len(waits) / max(child["seconds"] for child in children),
        "median_ms": median * 1e3,
        "p99_ms": p99 * 1e3,
        "p99_in_medians": p99 / median,
    }


def main() -> int:
    """Measure, print, and say whether the targets are met."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument("--calls", type=int, default=100, help="calls of each of the 32 processes")
    options = parser.parse_args()
    figures: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        figures["sqlite, 1 process"] = asyncio.run(sqlite_alone(folder))
        figures["sqlite, 32 processes"] = gather_all(
            f"sqlite:///{folder}/many/ledger.db", folder, options.calls
        )
        server = PostgresServer(durable=True)
        try:
            figures["postgresql, 1 process"] = asyncio.run(postgresql_alone(server.url))
            figures["postgresql, 32 processes"] = gather_all(server.url, folder, max(1, options.calls // 2))
        finally:
            server.stop()
    alone, many, pg = (
        figures[k] for k in ("sqlite, 1 process", "sqlite, 32 processes", "postgresql, 1 process")
    )
    targets = {
        "SQLite pair <= 3 bare pairs": alone["ratio"] <= 3,
        "SQLite rate of 32 processes >= 1/3 of one": many["per_s"] >= alone["per_s"] / 3,
        "SQLite p99 of 32 processes <= 20 medians": many["p99_in_medians"] <= 20,
        "PostgreSQL pair <= 4 bare pairs": pg["ratio"] <= 4,
    }
    if options.json:
        print(json.dumps({"figures": figures, "targets": targets}))
    else:
        for part, values in figures.items():
            print(f"{part:26}", "  ".join(f"{key} {value:.2f}" for key, value in values.items()))
        for target, met in targets.items():
            print("met   " if met else "MISSED", target)
    return 0 if all(targets.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
