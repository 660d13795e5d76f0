"""Spend, kill, crash and compare, for as long as it takes. `make soak`, or

    python -m tests.benchmarks.soak_ledger [--sqlite N] [--postgresql N] [--kills N] [--crashes N]

Processes reserve and settle at random; they are killed at random moments and at every named crash point, and
PostgreSQL is crashed under them. Each round's limit lies a little above what is spent, so that the budget
is fought for. At the end the ledger is compared with the books of the provider's side. Exit 1 on any fault.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path

from ledger_tools import FAILPOINTS

from tta_dev_primitives.blocks.ledger.ledger import Ledger

SUPPORT = Path(__file__).resolve().parents[1] / "support"
sys.path.insert(0, str(SUPPORT))
from ledger_tools import check_books, ended, lines, start  # noqa: E402 - found through the line above
from postgres_server import PostgresServer  # noqa: E402

PROCESSES = 8
ROOM = Decimal("0.1")


@dataclass
class Soak:
    """One database under load, and what was done to it."""

    name: str
    url: str
    folder: Path
    concurrency: int
    server: PostgresServer | None = None
    rounds: int = 0
    kills: int = 0
    crashes: int = 0
    overspent: list[str] = field(default_factory=list)

    async def round(self, *, calls: int, kill_ms: int = 0, crash: bool = False) -> None:
        """Let processes spend; kill all of them, or crash the server, or let them end."""
        ledger = Ledger.open(self.url)
        balance = await ledger.balance()
        limit = balance.spent + balance.held + ROOM
        self.rounds += 1
        process = start(
            "hammer", self.url, self.folder, processes=PROCESSES, calls=calls, concurrency=self.concurrency,
            limit=limit, kill_ms=kill_ms, seed=self.rounds,
        )  # fmt: skip
        if crash and self.server is not None:
            await asyncio.sleep(1.5)
            await asyncio.to_thread(self.server.crash if self.rounds % 2 else self.server.kill_backend)
            self.crashes += 1
        statuses = [child["status"] for child in await asyncio.to_thread(ended, process)]
        self.kills += statuses.count(-9)
        if set(statuses) != {-9 if kill_ms else 0}:
            raise RuntimeError(f"{self.name}: processes ended with {statuses}")
        balance = await ledger.balance()
        if balance.spent + balance.held > limit:
            self.overspent.append(f"round {self.rounds}: {balance.spent} + {balance.held} of {limit}")

    async def points(self) -> None:
        """Kill one process at each named crash point."""
        points = [f"!{point}" for point in FAILPOINTS]
        children = await asyncio.to_thread(
            ended, start("job", self.url, self.folder, points=",".join(points), limit="0.02")
        )
        self.kills += sum(child["status"] == -9 for child in children)
        for point in points:
            billed = {c: pico for c, pico, step in lines(self.folder, f"billed-{point}") if step != "alert"}
            acked = {c: pico for c, pico, _ in lines(self.folder, f"acked-{point}")}
            await check_books(Ledger.open(self.url).database, point, billed, acked)

    def reservations(self) -> int:
        """Reservations that reached the provider's books so far."""
        return sum(1 for _ in lines(self.folder, "billed-[0-9]*"))

    async def run(self, target: int, kills: int, crashes: int) -> None:
        """Spend until every target is reached, then compare all books and print the figures."""
        began = time.monotonic()
        await self.points()
        while self.kills < kills:
            await self.round(calls=10**6, kill_ms=2500)
        while self.crashes < crashes:
            await self.round(calls=600, crash=True)
        while self.reservations() < target:
            await self.round(calls=4000)
        billed = {call_id: pico for call_id, pico, _ in lines(self.folder, "billed-[0-9]*")}
        acked = {call_id: pico for call_id, pico, _ in lines(self.folder, "acked-[0-9]*")}
        ledger = Ledger.open(self.url)
        await check_books(ledger.database, "default", billed, acked)
        balance = await ledger.balance()
        await ledger.database.aclose()
        print(
            f"{self.name}: {len(billed)} billed calls, {len(acked)} acknowledged, {self.kills} SIGKILLs, "
            f"{self.crashes} server crashes, {self.rounds} rounds, {time.monotonic() - began:.0f} s; "
            f"spent {balance.spent} USD, of it {balance.presumed} presumed; overspent rounds {len(self.overspent)}, "
            f"lost acknowledged entries 0, held after the lease 0, journal and calls agree"
        )
        if self.overspent:
            raise RuntimeError(f"{self.name}: overspent: {self.overspent}")


async def main() -> None:
    """Soak both databases."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sqlite", type=int, default=1_000_000, help="reservations on SQLite")
    parser.add_argument("--postgresql", type=int, default=100_000, help="reservations on PostgreSQL")
    parser.add_argument("--kills", type=int, default=300, help="SIGKILLs on each database")
    parser.add_argument("--crashes", type=int, default=20, help="crashes of PostgreSQL")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folders = Path(name) / "s", Path(name) / "p"
        for folder in folders:
            folder.mkdir()
        soak = Soak("SQLite", f"sqlite:///{name}/home/ledger.db", folders[0], concurrency=16)
        await soak.run(options.sqlite, options.kills, 0)
        server = PostgresServer(durable=True)
        try:
            soak = Soak("PostgreSQL", server.url, folders[1], concurrency=2, server=server)
            await soak.run(options.postgresql, options.kills, options.crashes)
        finally:
            server.stop()


if __name__ == "__main__":
    asyncio.run(main())
