"""Rows 33 and 34: the machine's clock jumps, its disk fills up."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from decimal import Decimal
from email.utils import formatdate
from functools import partial
from pathlib import Path

import fault_replies as f
import pytest
from drive import TEXTS, Bench, Outcome, drive, good_provider, honest, ledger_rows, using
from matrix import SITES
from test_money import other_call

from tta_dev_primitives.blocks.ledger.database.protocol import database_for
from tta_dev_primitives.blocks.ledger.ledger import Ledger
from tta_dev_primitives.config.errors import LedgerError
from tta_dev_primitives.flows.calling.runtime import Runtime

DECEMBER = 1_796_500_000.0
"""2026-12-05 in UTC."""
MONTH = 31 * 86_400.0


@pytest.mark.parametrize("site", SITES)
async def test_a_clock_that_jumps_frees_no_money(site: str, bench: Bench) -> None:
    """Set back, spending stays in the latest month; set forward, a call in flight is charged, not given back."""
    now = DECEMBER - 2 * MONTH

    def clock() -> float:
        return now

    async with honest(bench, site) as (runtime, _):
        database, scope = runtime.ledger.database, runtime.ledger.scope
        ledger = Ledger(database, scope=scope, clock=clock)
        runtime = using(runtime, ledger=ledger)
        await ledger.release(
            await ledger.reserve(other_call(), Decimal(1), Decimal(50)), "so that October has a row"
        )
        now = DECEMBER
        assert (await drive(runtime, site)).action == "keep"
        now = DECEMBER - 2 * MONTH
        # Another process, which has not seen December.
        hold = await Ledger(database, scope=scope, clock=clock).reserve(other_call(), Decimal(1), Decimal(50))
        assert hold.month == "2026-12"
        now = DECEMBER + 2 * MONTH
        assert await ledger.sweep() == 1
        december = await ledger.balance("2026-12")
        assert (december.held, december.presumed) == (0, 1)
        assert {row["month"] for row in await ledger_rows(runtime)} == {"2026-12"}
        assert await ledger.verify() == []


@pytest.mark.parametrize("site", SITES)
@pytest.mark.parametrize(
    ("ahead_s", "said"), [(-86_400.0, "24 hours behind"), (3_600.0, "60 minutes ahead of")]
)
async def test_a_clock_that_providers_contradict_stops_paid_calls_until_it_is_set(
    site: str, ahead_s: float, said: str, bench: Bench
) -> None:
    """While the provider's time is another, nothing is sent to the paid model; free models go on."""
    skew = 0.0

    def dated(text: str, _: f.Asked) -> bytes:
        return f.ok(f.message(text), date=formatdate(time.time() + skew, usegmt=True))

    async with honest(bench, site, serve=f.answering(dated, TEXTS[site])) as (runtime, server):
        database, scope = runtime.ledger.database, runtime.ledger.scope
        runtime = using(runtime, ledger=Ledger(database, scope=scope, clock=lambda: time.time() + skew))
        # The loopback server's own `Date` says nothing: it agrees with the wrong clock below.
        runtime.ledger.clocks.hear("anthropic", formatdate(usegmt=True), 0.1)
        assert (await drive(runtime, site)).action == "keep"
        before = len(server.requests)

        skew = ahead_s
        refused = await _ask_something_new(runtime, site)
        assert refused.action == "next"
        assert len(server.requests) == before
        assert {a.outcome for a in refused.attempts} == {"budget"}
        assert all(f"clock is {said} that of anthropic" in (a.reason or "") for a in refused.attempts)

        skew = 200.0
        assert (await _ask_something_new(runtime, site)).action == "keep"
        assert len(server.requests) > before
        assert await runtime.ledger.verify() == []


async def _ask_something_new(runtime: Runtime, site: str) -> Outcome:
    """What was answered is in the store and would be taken from there: a ledger of its own has none of it."""
    heard, clock = runtime.ledger.clocks, runtime.ledger._clock
    ledger = Ledger(runtime.ledger.database, scope=f"{runtime.ledger.scope}+", clock=clock)
    ledger.clocks = heard
    return await drive(using(runtime, ledger=ledger), site)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of two megabytes."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = shutil.which("mount")
    done = mount and subprocess.run([mount, "-t", "tmpfs", "-o", "size=2m", "tmpfs", folder], check=False)
    if not done or done.returncode:
        pytest.skip("needs the right to mount a tmpfs")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def _fill(folder: Path) -> None:
    """Take all the room that is left."""
    with suppress(OSError), open(folder / "filler", "ab", buffering=0) as file:
        while True:
            file.write(bytes(4096))


def _long(text: str) -> str:
    """The same answer with so much space in it that keeping it needs room on the disk."""
    return text.replace("{", "{" + " " * 90_000, 1) if "{" in text else text + " More." * 15_000


def _behaviour(disk: Path, text: str) -> f.Behaviour:
    """The disk is full by the time the provider answers."""

    async def behave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            asked = f.parse(await f.read_request(reader))
            await asyncio.to_thread(_fill, disk)
            writer.write(f.good(_long(text), asked))
            await writer.drain()

    return behave


async def _last_room(ledger: Ledger) -> LedgerError:
    """Reserve until the log of the database has no room either."""
    for _ in range(5000):
        try:
            await ledger.reserve(other_call(), Decimal("0.0001"), Decimal(50))
        except LedgerError as full:
            return full
    raise AssertionError("the disk does not get full")


async def test_a_full_disk_stops_new_calls_and_ends_running_ones(
    small_disk: Path, tmp_path: Path, keys: str
) -> None:
    """Full when a call ends: its answer is used, it stays held until the sweep. Full before: nothing is sent."""
    url = f"sqlite:///{small_disk / 'home' / 'ledger.db'}"
    async with good_provider() as good:
        bench = Bench(url, tmp_path, keys, good.url)
        for site in SITES:
            async with honest(bench, site, serve=_behaviour(small_disk, TEXTS[site])) as (runtime, server):
                outcome = await drive(runtime, site)
                # A plan's routing and a lane's further tasks need the ledger again; one answer does not.
                stopped = site in ("plan", "bulk") and isinstance(outcome.error, LedgerError)
                assert outcome.action == "keep" or stopped, f"{site}: {outcome.error}"
                full = await _last_room(runtime.ledger)
                assert "full" in str(full)
                assert "Free some disk space" in str(full)
                before = server.connections
                assert (await drive(runtime, site)).action == "stop"
                assert server.connections == before, "something was sent without a hold"
            (small_disk / "filler").unlink()
            rows = await ledger_rows(runtime)
            assert "held" in {row["state"] for row in rows}, site
            lapsed = max(row["lease_until"] for row in rows) + 100
            late = Ledger(runtime.ledger.database, scope=runtime.ledger.scope, clock=partial(max, lapsed, 0))
            assert await late.sweep() > 0
            balance = await late.balance()
            assert (balance.held, balance.spent > 0, await late.verify()) == (0, True, [])
    await database_for(url).aclose()
