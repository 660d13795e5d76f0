"""Rows 31 and 32: a budget that is spent, and one that is only held."""

from __future__ import annotations

import asyncio
from decimal import Decimal
from functools import partial

import pytest
from drive import PAID, Bench, drive, honest, ledger_rows
from matrix import SITES

from tta_dev_primitives.blocks.ledger.guarded_call import guarded_send
from tta_dev_primitives.blocks.ledger.types import CallInfo
from tta_dev_primitives.flows.calling import hold as hold_module


def other_call() -> CallInfo:
    """An attempt at a model that no test drives."""
    return CallInfo(provider="p", model="other", role="execute", model_key="p||other", provider_key="p|")


@pytest.mark.parametrize("site", SITES)
async def test_an_exhausted_budget_stops_paid_calls_only(site: str, bench: Bench) -> None:
    """Nothing is sent to the paid model, no row is left, the message has month and amounts; free models go on."""
    async with honest(bench, site, limit="0.05") as (runtime, server):
        hold = await runtime.ledger.reserve(other_call(), Decimal("0.0499"), Decimal("0.05"))
        await runtime.ledger.settle(hold, Decimal("0.0499"))
        outcome = await drive(runtime, site)
        assert server.connections == 0
        assert await ledger_rows(runtime) == []
        assert outcome.action == "next"
        assert {a.outcome for a in outcome.attempts} == {"budget"}
        month = (await runtime.ledger.balance()).month
        assert all(f"month {month}: spent 0.0499" in (a.reason or "") for a in outcome.attempts)
        assert all("of 0.05 USD" in (a.reason or "") for a in outcome.attempts)
        assert await runtime.ledger.verify() == []


@pytest.mark.parametrize("site", SITES)
async def test_held_money_is_waited_for(site: str, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """While only calls in flight stand in the way a call waits; it goes out when they end, and gives up in time."""
    async with honest(bench, site, limit="0.05") as (runtime, server):
        hold = await runtime.ledger.reserve(other_call(), Decimal("0.0499"), Decimal("0.05"))
        monkeypatch.setattr(hold_module, "guarded_send", partial(guarded_send, wait_busy_s=0.1))
        outcome = await drive(runtime, site)
        assert (server.connections, await ledger_rows(runtime)) == (0, [])
        assert outcome.action == "next"
        assert all("held by calls in flight" in (a.reason or "") for a in outcome.attempts)

        monkeypatch.setattr(hold_module, "guarded_send", guarded_send)
        waiting = asyncio.create_task(drive(runtime, site))
        await asyncio.sleep(0)
        await runtime.ledger.release(hold, "ended")
        outcome = await waiting
        assert outcome.action == "keep"
        assert {row["state"] for row in await ledger_rows(runtime)} == {"settled"}
        balance = await runtime.ledger.balance()
        assert (balance.held, balance.spent <= Decimal("0.05")) == (0, True)
        assert await runtime.ledger.verify() == []
        assert PAID in {a.model for item in outcome.items for a in item.attempts}
