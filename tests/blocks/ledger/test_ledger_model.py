"""The ledger against a model of a few lines, under random orders, clocks, limits and repetitions."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Coroutine
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule
from ledger_tools import Clock

from tta_dev_primitives.blocks.ledger.ledger import Ledger
from tta_dev_primitives.blocks.ledger.money import from_pico, to_pico
from tta_dev_primitives.blocks.ledger.types import CallInfo
from tta_dev_primitives.config.errors import BudgetExceededError, LedgerBusyError, LedgerError

T = TypeVar("T")
amounts = st.integers(0, 1000)


@dataclass
class Call:
    info: CallInfo
    month: str
    bound: int
    lease_until: float
    state: str = "held"
    charged: int = 0
    swept: bool = False
    deleted: bool = False


class LedgerModel(RuleBasedStateMachine):
    """What a reader of the note would compute by hand."""

    calls = Bundle("calls")

    @initialize()
    def open(self) -> None:
        self.folder = tempfile.mkdtemp(prefix="tta-model-")
        self.clock = Clock()
        self.loop = asyncio.new_event_loop()
        self.ledger = Ledger.open(f"sqlite:///{self.folder}/ledger.db", clock=self.clock)
        self.limit = 1000
        self.latest = ""
        self.known: list[Call] = []
        self.approved: dict[str, int] = {}

    def teardown(self) -> None:
        if hasattr(self, "loop"):
            self.run(self.ledger.database.aclose())
            self.loop.close()
            shutil.rmtree(self.folder)

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(work)

    def month(self) -> str:
        """The clock's month, or the latest that was ever begun: a refused call begins it too."""
        return max(self.latest, datetime.fromtimestamp(self.clock.now, UTC).strftime("%Y-%m"))

    def total(self, month: str, held: bool) -> int:
        mine = [call for call in self.known if call.month == month]
        return sum((call.bound if held else call.charged) for call in mine if (call.state == "held") == held)

    def sweep_model(self) -> int:
        lapsed = [c for c in self.known if c.state == "held" and c.lease_until < self.clock.now]
        for call in lapsed:
            call.state, call.charged, call.swept = "presumed", call.bound, True
        return len(lapsed)

    @rule(target=calls, bound=amounts)
    def reserve(self, bound: int) -> Call:
        info = CallInfo(provider="p", model="m", role="execute", deadline_s=30)
        month = self.month()

        def fits() -> str:
            ceiling = self.limit + self.approved.get(month, 0)
            spent, held = self.total(month, False), self.total(month, True)
            if spent + held + bound <= ceiling:
                return "granted"
            if bound > ceiling and spent < ceiling:
                return "too_big"
            return "exhausted" if spent + bound > ceiling else "busy"

        expected = fits()
        if expected != "granted" and self.sweep_model():
            expected = fits()
        try:
            hold = self.run(self.ledger.reserve(info, from_pico(bound), from_pico(self.limit)))
        except BudgetExceededError as error:
            found, call = error.reason, Call(info, month, bound, 0.0, "refused")
        except LedgerBusyError:
            found, call = "busy", Call(info, month, bound, 0.0, "refused")
        else:
            found, call = "granted", Call(info, hold.month, bound, self.clock.now + info.deadline_s + 60)
            assert hold.month == month
            self.known.append(call)
        self.latest = month
        assert found == expected
        return call

    @rule(call=calls)
    def reserve_again(self, call: Call) -> None:
        if call.state == "held":
            hold = self.run(self.ledger.reserve(call.info, from_pico(call.bound), from_pico(0)))
            assert (hold.month, to_pico(hold.bound)) == (call.month, call.bound)

    @rule(call=calls, actual=st.integers(0, 1500))
    def settle(self, call: Call, actual: int) -> None:
        if call.state == "refused" or call.deleted:
            return
        self.run(self.ledger.settle(call.info.id, from_pico(actual)))
        if call.state != "settled":
            call.state, call.charged = "settled", actual

    @rule(call=calls)
    def release(self, call: Call) -> None:
        self.run(self.ledger.release(call.info.id, "unsent"))
        if call.state == "held":
            call.state, call.charged = "released", 0

    @rule(call=calls)
    def charge_at_bound(self, call: Call) -> None:
        if call.state == "refused" or call.deleted:
            return
        self.run(self.ledger.charge_at_bound(call.info.id, "unknown"))
        if call.state == "held":
            call.state, call.charged = "presumed", call.bound

    @rule(call=calls, actual=amounts)
    def reconcile(self, call: Call, actual: int) -> None:
        if (
            call.state == "presumed"
            and call.swept
            and actual == 0
            and self.clock.now < call.lease_until + 86_400
        ):
            with pytest.raises(LedgerError, match="did not report its end"):
                self.run(self.ledger.reconcile(call.info.id, None, evidence="page"))
        elif call.state == "presumed":
            self.run(self.ledger.reconcile(call.info.id, from_pico(actual), evidence="page"))
            call.state, call.charged = "settled", actual

    @rule()
    def sweep(self) -> None:
        assert self.run(self.ledger.sweep()) == self.sweep_model()

    @rule(amount=st.integers(1, 500))
    def approve(self, amount: int) -> None:
        month = self.latest = self.month()
        self.run(self.ledger.approve(month, from_pico(amount), who="model", reason="test"))
        self.approved[month] = self.approved.get(month, 0) + amount

    @rule(limit=st.integers(0, 2000))
    def change_the_limit(self, limit: int) -> None:
        self.limit = limit

    @rule(seconds=st.sampled_from([1.0, 91.0, 86_400.0, 31 * 86_400.0, -3600.0, -40 * 86_400.0]))
    def let_time_jump(self, seconds: float) -> None:
        self.clock.now += seconds

    @rule()
    def sum_up(self) -> None:
        self.run(self.ledger.sum_up())

    @rule()
    def prune(self) -> None:
        ended = [call for call in self.known if call.state in ("settled", "released") and not call.deleted]
        assert self.run(self.ledger.prune(float("inf")))["calls"] == len(ended)
        for call in ended:
            call.deleted = True

    @rule()
    def restart(self) -> None:
        self.run(self.ledger.database.aclose())
        self.ledger = Ledger.open(f"sqlite:///{self.folder}/ledger.db", clock=self.clock)

    @invariant()
    def the_books_agree(self) -> None:
        if not hasattr(self, "ledger"):
            return
        for month in {call.month for call in self.known}:
            balance = self.run(self.ledger.balance(month))
            assert to_pico(balance.spent) == self.total(month, held=False)
            assert to_pico(balance.held) == self.total(month, held=True)
            rows = self.run(self.ledger.report_rows(month))
            mine = [call for call in self.known if call.month == month]
            assert sum(row.calls for row in rows) == len(mine)
            assert sum(to_pico(row.charged) for row in rows) == self.total(month, held=False)
            assert sum(to_pico(row.held) for row in rows) == self.total(month, held=True)
        assert self.run(self.ledger.verify()) == []


TestLedgerModel = LedgerModel.TestCase
TestLedgerModel.settings = settings(
    max_examples=20,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
