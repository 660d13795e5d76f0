"""Shared by the ledger's tests: a clock, processes that spend, and the comparison of all books."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

from tta_dev_primitives.blocks.ledger.database.protocol import Database, Tx
from tta_dev_primitives.blocks.ledger.ledger import Ledger
from tta_dev_primitives.blocks.ledger.money import to_pico

_ENDINGS = ("reserve", "settle", "release", "presume")
_MOMENTS = ("begun", "after_call", "after_event", "after_month", "before_commit", "after_commit")
_OTHERS = ("record", "alert", "approve", "reconcile")

FAILPOINTS = (
    *(f"{ending}.{moment}" for ending in _ENDINGS for moment in _MOMENTS),
    *(f"{other}.{moment}" for other in _OTHERS for moment in ("before_commit", "after_commit")),
    "record.begun",
    "call.before_send",
    "call.after_send",
)
"""Every point, for the tests that kill at each."""
BATCH_FAILPOINTS = (
    "batch.before_commit",
    "batch.after_commit",
    "batch.uploaded",
    "batch.submitted",
    "batch.recorded",
    "batch.fetched",
    "batch.settled",
)
"""The points of a batch: holds, upload, submission, its record, results, their settlement."""

WORKER = Path(__file__).with_name("ledger_worker.py")

NOVEMBER = 1_794_000_000.0
"""2026-11-06 in UTC."""


class Clock:
    """Time that moves when told."""

    def __init__(self, now: float = NOVEMBER) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def start(mode: str, url: str, folder: Path, **options: object) -> subprocess.Popen[str]:
    arguments = [
        part for name, value in options.items() for part in (f"--{name.replace('_', '-')}", str(value))
    ]
    return subprocess.Popen(
        [sys.executable, str(WORKER), mode, "--url", url, "--folder", str(folder), *arguments],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def ended(process: subprocess.Popen[str]) -> list[dict[str, Any]]:
    """What a worker reports, once it ended well and without a word on stderr."""
    out, errors = process.communicate()
    assert (process.returncode, errors) == (0, ""), errors
    report: list[dict[str, Any]] = json.loads(out)
    return report


def lines(folder: Path, pattern: str) -> Iterator[tuple[str, int, str]]:
    """The provider's own books."""
    for file in sorted(folder.glob(pattern)):
        for line in file.read_text().splitlines():
            call_id, pico, step = line.split()
            yield call_id, int(pico), step


async def check_books(database: Database, scope: str, billed: dict[str, int], acked: dict[str, int]) -> None:
    """After the last lease: nothing is held, every bill is covered, every acknowledged entry stands."""
    later = Ledger(database, scope=scope, clock=lambda: time.time() + 10_000)
    await later.sweep()

    async def rows(tx: Tx) -> list[dict[str, Any]]:
        return await tx.fetch("SELECT id, state, charged FROM ledger_call WHERE scope = ?", scope)

    calls = {row["id"]: row for row in await database.read(rows)}
    assert await later.verify() == []
    balances = [await later.balance(month) for month in await later.months()]
    assert sum(balance.held for balance in balances) == 0
    assert {call_id for call_id in billed if calls[call_id]["charged"] < billed[call_id]} == set()
    assert {c for c in acked if (calls[c]["state"], calls[c]["charged"]) != ("settled", acked[c])} == set()
    spent = sum((balance.spent for balance in balances), Decimal(0))
    assert to_pico(spent) == sum(call["charged"] for call in calls.values()) >= sum(billed.values())
