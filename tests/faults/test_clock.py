"""A wrong clock frees no money: a month begins only when more than one process's clock says so."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from decimal import Decimal
from email.utils import formatdate
from pathlib import Path

import pytest
from rude_server import answers, response, rude_server

from tta_dev_primitives.blocks.ledger.database.protocol import Database, database_for
from tta_dev_primitives.blocks.ledger.guarded_call import guarded_send
from tta_dev_primitives.blocks.ledger.ledger import Ledger
from tta_dev_primitives.blocks.ledger.month_evidence import Machine, machine_now, months_between
from tta_dev_primitives.blocks.ledger.months import month_of
from tta_dev_primitives.blocks.ledger.types import CallInfo
from tta_dev_primitives.blocks.providers.client import ProviderClient
from tta_dev_primitives.blocks.wire.types import ChatReply, ChatRequest, Message
from tta_dev_primitives.config.errors import BudgetExceededError, LedgerConfigError, WrongClockError
from tta_dev_primitives.config.models.targets import Price, Target, Usage

NOVEMBER = 1_795_737_600.0
"""2026-11-27 in UTC."""
DAY = 86_400.0
LIMIT = Decimal(1)


@dataclass
class World:
    """The true time, the machine's clock and the process's, each its own."""

    true: float = NOVEMBER
    machine_off: float = 0.0
    process_off: float = 0.0
    boot: str = "first"
    booted: float = NOVEMBER - 3 * DAY

    def clock(self) -> float:
        return self.true + self.machine_off + self.process_off

    def machine(self) -> Machine:
        return Machine(self.boot, self.true - self.booted, self.true + self.machine_off)

    def reboot(self) -> None:
        self.boot, self.booted = f"{self.boot}+", self.true

    def ledger(self, database: Database) -> Ledger:
        """As a process that has just begun: it has heard no provider."""
        return Ledger(database, clock=self.clock, machine=self.machine)

    def date(self) -> Callable[[], object]:
        async def ask() -> tuple[str, str | None, float]:
            return "provider", formatdate(self.true, usegmt=True), 0.1

        return ask


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    opened = database_for(f"sqlite:///{tmp_path / 'ledger.db'}")
    yield opened
    await opened.aclose()


def call() -> CallInfo:
    return CallInfo(provider="p", model="m", role="execute")


async def spend(ledger: Ledger, amount: str, **options: object) -> str:
    """Reserve and settle; returns the month that was charged."""
    hold = await ledger.reserve(call(), Decimal(amount), LIMIT, **options)  # type: ignore[arg-type]
    await ledger.settle(hold, Decimal(amount))
    return hold.month


@pytest.mark.parametrize("days", [5, 40, 400])
async def test_a_process_with_a_wrong_clock_begins_no_month(database: Database, days: int) -> None:
    """The machine's clock contradicts it. The month's spending stays, and so do the others' months."""
    world = World()
    assert await spend(world.ledger(database), "0.9") == "2026-11"
    world.process_off = days * DAY
    wrong = world.ledger(database)
    with pytest.raises(
        WrongClockError, match=r"does not follow 2026-11.*this process's clock is .* ahead of"
    ):
        await spend(wrong, "0.9")
    assert (await wrong.balance()).month == "2026-11"
    assert any("ahead of" in problem for problem in await wrong.verify())
    world.process_off = 0
    with pytest.raises(BudgetExceededError):
        await spend(world.ledger(database), "0.9")
    assert await world.ledger(database).verify() == []


async def test_a_wrong_clock_ends_no_lease(database: Database) -> None:
    """Calls in flight of other processes stay held."""
    world = World()
    hold = await world.ledger(database).reserve(call(), Decimal("0.5"), LIMIT)
    world.process_off = 40 * DAY
    assert await world.ledger(database).sweep() == 0
    world.process_off = 0
    await world.ledger(database).settle(hold, Decimal("0.1"))
    assert (await world.ledger(database).balance()).spent == Decimal("0.1")


@pytest.mark.parametrize("days", [5, 40])
async def test_a_machine_whose_clock_is_set_forward_begins_no_month(database: Database, days: int) -> None:
    """The uptime says how long ago the last entries were; a provider's word would count more."""
    world = World()
    await spend(world.ledger(database), "0.9")
    world.true += DAY
    world.machine_off = days * DAY
    with pytest.raises(WrongClockError, match="ahead of what it was set to at the ledger's last entries"):
        await spend(world.ledger(database), "0.9")
    with pytest.raises(WrongClockError, match="ahead of that of provider"):
        await spend(world.ledger(database), "0.9", ask_date=world.date())


async def test_after_a_restart_a_provider_is_asked_for_the_time(database: Database) -> None:
    """A dead battery: machine and process agree on a wrong month. The provider's date contradicts both."""
    world = World()
    await spend(world.ledger(database), "0.9")
    world.reboot()
    world.machine_off = 40 * DAY
    with pytest.raises(WrongClockError, match="40 days ahead of that of provider"):
        await spend(world.ledger(database), "0.9", ask_date=world.date())


@pytest.mark.parametrize("restarted", [False, True])
@pytest.mark.parametrize("days", [5, 90])
async def test_a_real_month_begins_after_any_idle_time(
    database: Database, restarted: bool, days: int
) -> None:
    """With and without a restart, before any provider has said anything."""
    world = World()
    await spend(world.ledger(database), "0.9")
    world.true += days * DAY
    if restarted:
        world.reboot()
    ledger = world.ledger(database)
    month = month_of(world.true)
    assert (await ledger.balance()).month == month
    assert await spend(ledger, "0.9") == month
    assert await ledger.verify() == []


async def test_a_clock_that_was_corrected_is_believed_with_a_provider(database: Database) -> None:
    """A machine began with a wrong clock: its anchor is wrong, the provider's date is not."""
    world = World(machine_off=-40 * DAY)
    await spend(world.ledger(database), "0.1")
    world.machine_off = 0
    with pytest.raises(WrongClockError):
        await spend(world.ledger(database), "0.1")
    assert await spend(world.ledger(database), "0.1", ask_date=world.date()) == "2026-11"
    world.true += 10 * DAY
    assert await spend(world.ledger(database), "0.1") == "2026-12"


@pytest.mark.parametrize(
    ("base_url", "counts"),
    [
        (None, True),
        ("https://llm.example.org/v1", True),
        ("https://93.184.215.14/v1", True),
        ("http://127.0.0.1:11434/v1", False),
        ("https://127.0.0.1/v1", False),
        ("https://localhost:8443/v1", False),
        ("https://192.168.1.9/v1", False),
        ("http://[::1]:1/v1", False),
        ("http://gpu.lan/v1", False),
    ],
)
async def test_only_a_provider_elsewhere_behind_tls_says_what_time_it_is(
    database: Database, base_url: str | None, counts: bool
) -> None:
    """A model on this machine has this machine's clock, and plain http can be changed on its way."""
    target = Target(
        name="m", provider="anthropic", api_model="m", billing="paid", api_key_env="K", family="x",
        price=Price(Decimal(1), Decimal(1)), base_url=base_url, allow_private_hosts=True, max_output_tokens=10,
    )  # fmt: skip
    request = ChatRequest(messages=(Message("user", "hello"),), max_output_tokens=10)
    asked = []

    async def send() -> ChatReply:
        return ChatReply("hi", "stop", Usage(1, 1), headers={"date": formatdate(NOVEMBER, usegmt=True)})

    async def ask_date() -> tuple[str, str | None, float]:
        asked.append(base_url)
        return target.provider, formatdate(NOVEMBER + 60 * DAY, usegmt=True), 0.1

    world = World()
    await spend(world.ledger(database), "0.1")
    world.reboot()
    world.true += 20 * DAY
    ledger = world.ledger(database)
    info = CallInfo.of(target, role="execute", step_key="s")
    sent = guarded_send(
        ledger=ledger, client_send=send, target=target, request=request, call=info, limit=LIMIT,
        ask_date=ask_date,
    )  # fmt: skip
    if counts:
        with pytest.raises(WrongClockError, match="behind that of anthropic"):
            await sent
    else:
        await sent
    assert (not ledger.clocks.silent) == counts == bool(asked)


async def test_what_a_provider_says_is_kept_for_the_next_process(database: Database) -> None:
    """Its date replaces this machine's word as the anchor of the boot."""
    world = World(machine_off=120.0)
    ledger = world.ledger(database)
    await spend(ledger, "0.1")
    ledger.clocks.hear("provider", formatdate(world.true, usegmt=True), 0.1)
    await ledger.keep_time()
    rows = await database.read(lambda tx: tx.fetch("SELECT said_by FROM ledger_clock"))
    assert [row["said_by"] for row in rows] == ["provider"]


async def test_a_wrong_month_is_seen_and_set_right(database: Database) -> None:
    """Its spending and its calls in flight move back; its approvals do not; the journal keeps who and why."""
    world = World()
    await spend(world.ledger(database), "0.2")
    later = Ledger(database, clock=lambda: NOVEMBER + 40 * DAY)
    await spend(later, "0.3")
    await later.approve("2027-01", Decimal(5), who="ann", reason="x")
    flying = await later.reserve(call(), Decimal("0.1"), LIMIT)
    right = world.ledger(database)
    assert any("month 2027-01 has begun, the clock says 2026-11" in p for p in await right.verify())
    with pytest.raises(LedgerConfigError, match="this clock says 2026-11, not 2026-12"):
        await right.set_month("2026-12", who="ann", reason="x")
    assert await right.set_month("2026-11", who="ann", reason="clock of a test machine") == Decimal("0.3")
    balance = await right.balance()
    assert (balance.month, balance.spent, balance.held, balance.approved) == (
        "2026-11", Decimal("0.5"), Decimal("0.1"), 0,
    )  # fmt: skip
    assert await right.verify() == []
    await right.settle(flying, Decimal("0.05"))
    with pytest.raises(BudgetExceededError):
        await spend(right, "0.6")
    entries = [e for e in await right.journal("2026-11") if e.what == "set_month"]
    assert [(e.who, e.note, e.spent) for e in entries] == [("ann", "clock of a test machine", Decimal("0.3"))]
    assert await right.verify() == []


_SPENDER = """
import asyncio, sys, time
_true = time.time
time.time = lambda: _true() + float(sys.argv[2])
from decimal import Decimal
from tta_dev_primitives.blocks.ledger.guarded_call import guarded_send
from tta_dev_primitives.blocks.ledger.ledger import Ledger
from tta_dev_primitives.blocks.ledger.types import CallInfo
async def main():
    ledger = Ledger.open(sys.argv[1])
    call = CallInfo(provider="p", model="m", role="execute")
    try:
        hold = await ledger.reserve(call, Decimal("0.9"), Decimal(1))
        await ledger.settle(hold, Decimal("0.9"))
        print(hold.month)
    except Exception as error:
        print(type(error).__name__)
asyncio.run(main())
"""


@pytest.mark.skipif(machine_now() is None, reason="needs /proc")
def test_real_processes_with_shifted_clocks(tmp_path: Path) -> None:
    """The reproduction: one right process, three that are 40 days ahead, the right one again, and `tta ledger`."""
    url = f"sqlite:///{tmp_path / 'ledger.db'}"

    def spend_at(days: float) -> str:
        command = [sys.executable, "-c", _SPENDER, url, str(days * DAY)]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    month = month_of(time.time())
    assert spend_at(0) == month
    assert [spend_at(days) for days in (40, 40, 32, 400)] == ["WrongClockError"] * 4
    assert spend_at(0) == "BudgetExceededError"
    fresh = f"sqlite:///{tmp_path / 'fresh.db'}"
    subprocess.run([sys.executable, "-c", _SPENDER, fresh, str(40 * DAY)], check=True)
    config = tmp_path / "c.yaml"
    config.write_text(json.dumps({"orchestration": {"cost_tracking": {"ledger_url": fresh}}}))

    def tta(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "tta_dev_primitives", "ledger", *arguments, "-c", str(config)]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    seen = tta("verify")
    assert seen.returncode == 1
    assert f"tta ledger set-month {month}" in seen.stdout
    done = tta("set-month", month, "--reason", "a clock was ahead")
    assert (done.returncode, done.stderr) == (0, "")
    assert "$0.900000 came from later months" in done.stdout
    assert tta("verify").returncode == 0


def test_the_server_of_a_postgresql_ledger_decides(postgres_url: str) -> None:
    """A process's clock plays no part, however wrong it is; nothing of it is kept."""
    out = subprocess.run(
        [sys.executable, "-c", _SPENDER, postgres_url, str(40 * DAY)], check=True, capture_output=True, text=True
    )  # fmt: skip
    assert out.stdout.strip() == month_of(time.time())


@pytest.mark.parametrize("date", [None, "Fri, 27 Nov 2026 00:00:00 GMT"])
async def test_the_time_is_asked_for_without_a_key(date: str | None) -> None:
    """One HEAD request, no header with a key; a provider without `Date` says nothing."""
    data = response(b"", headers={"date": date} if date else {})
    async with rude_server(answers(data)) as server, ProviderClient() as client:
        target = Target(
            name="m", provider="openai-compatible", api_model="m", billing="paid", api_key_env="K", family="x",
            price=None, base_url=f"{server.url}/v1", allow_private_hosts=True,
        )  # fmt: skip
        assert (await client.date_of(target))[1] == date
        assert len(server.requests) == 1
        assert b"authorization" not in server.requests[0].lower()


def test_months_are_counted() -> None:
    """Over the end of a year as within one."""
    assert months_between("2026-11", "2027-01") == 2
    assert months_between("2026-08", "2026-11") == 3
