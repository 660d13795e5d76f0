"""Whether a new month may begin: never on the word of one process's clock.

On PostgreSQL the server's clock decides. On SQLite a process's clock must agree with a provider's `Date`, or with
this machine: its kernel's clock, and an anchor of this boot, which says what the time was at a known uptime.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tta_dev_primitives.blocks.ledger.clocks import LARGEST_SKEW_S, skew_text
from tta_dev_primitives.blocks.ledger.database.migrations import register_schema
from tta_dev_primitives.blocks.ledger.database.protocol import Tx

register_schema(
    "ledger_clock",
    1,
    [
        # What the time was at an uptime of a boot, and who said so ('' is this machine, else a provider).
        """CREATE TABLE ledger_clock (
            boot TEXT PRIMARY KEY, uptime REAL NOT NULL, wall REAL NOT NULL, said_by TEXT NOT NULL) STRICT"""
    ],
)

_DRIFT = 1e-4
"""How far a clock that is not set may run away from the uptime, in seconds a second."""
_PROC = Path("/proc")


@dataclass(frozen=True, slots=True)
class Machine:
    """The kernel's clock: no library or variable of a process changes it."""

    boot: str
    """This boot, as this container sees it."""
    uptime: float
    """Seconds since then, with those of a sleeping machine."""
    wall: float
    """Seconds since 1970."""


MachineClock = Callable[[], Machine | None]


@dataclass(frozen=True, slots=True)
class Anchor:
    """What the time was at an uptime of this boot."""

    uptime: float
    wall: float

    def skew(self, machine: Machine, now: float) -> float:
        """How far `now` lies outside of what the anchor allows: ahead is positive."""
        passed = machine.uptime - self.uptime
        off = now - (self.wall + passed)
        room = abs(passed) * _DRIFT
        return max(0.0, off - room) if off > 0 else min(0.0, off + room)


def machine_now() -> Machine | None:
    """The kernel's clock; None where there is no `/proc`."""
    try:
        uptime = float((_PROC / "uptime").read_text().split()[0])
        lines = (_PROC / "stat").read_text().splitlines()
        boot = (_PROC / "sys/kernel/random/boot_id").read_text().strip()
        space = os.readlink(_PROC / "self/ns/pid")
        began = next(int(line.split()[1]) for line in lines if line.startswith("btime "))
    except (OSError, ValueError, IndexError, StopIteration):
        return None
    return Machine(f"{boot} {space}", uptime, began + uptime) if began else None


def new_month_refusal(
    *, now: float, latest: str, month: str, machine: Machine | None, anchor: Anchor | None, shared_clock: bool
) -> str | None:
    """Why `month` may not follow `latest`, when no provider has said that `now` is right; None: it may.

    Args:
        now: Seconds since 1970, as the clock has it that would decide the month.
        shared_clock: `now` is the database server's, not this process's.
    """
    what = f"month {month} does not follow {latest}"
    if machine is not None and abs(now - machine.wall) > LARGEST_SKEW_S:
        whose = "the database server's clock" if shared_clock else "this process's clock"
        if not shared_clock or months_between(latest, month) > 1:
            return f"{what}: {whose} is {skew_text(now - machine.wall)} this machine's"
    if shared_clock:
        return None
    if machine is not None and anchor is not None:
        skew = anchor.skew(machine, now)
        if abs(skew) > LARGEST_SKEW_S:
            return f"{what}: the clock is {skew_text(skew)} what it was set to at the ledger's last entries"
        return None
    if machine is None and months_between(latest, month) > 1:
        return f"{what}: nothing but this process's clock says so"
    return None


def months_between(earlier: str, later: str) -> int:
    """How many months `later` comes after `earlier`, both `YYYY-MM`."""
    (y1, m1), (y2, m2) = (map(int, text.split("-")) for text in (earlier, later))
    return 12 * (y2 - y1) + m2 - m1


async def read_anchor(tx: Tx, machine: Machine | None) -> Anchor | None:
    """This boot's anchor."""
    if machine is None:
        return None
    rows = await tx.fetch("SELECT uptime, wall FROM ledger_clock WHERE boot = ?", machine.boot)
    return Anchor(**rows[0]) if rows else None


async def keep_anchor(tx: Tx, machine: Machine | None, wall: float, said_by: str = "") -> None:
    """Keep what the time is. This machine's word counts until a provider's is there; the last provider's counts."""
    if machine is None or (not said_by and abs(wall - machine.wall) > LARGEST_SKEW_S):
        return
    await tx.execute(
        "INSERT INTO ledger_clock (boot, uptime, wall, said_by) VALUES (?, ?, ?, ?) ON CONFLICT (boot) DO UPDATE "
        "SET uptime = excluded.uptime, wall = excluded.wall, said_by = excluded.said_by WHERE excluded.said_by <> ''",
        *(machine.boot, machine.uptime, wall, said_by),
    )


async def forget_anchors(tx: Tx) -> None:
    """A person has said which month it is: what was known of the time may have been wrong."""
    await tx.execute("DELETE FROM ledger_clock")
