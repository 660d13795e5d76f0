"""`tta ledger`: what a person sees of the money, and what becomes of a call whose cost nobody knows."""

from __future__ import annotations

import asyncio
import getpass
import json
from decimal import Decimal
from pathlib import Path
from subprocess import CompletedProcess

import pytest
from test_cli import tta

from tta_dev_primitives.blocks.ledger.ledger import Ledger
from tta_dev_primitives.blocks.ledger.types import CallInfo, Outcome
from tta_dev_primitives.commands.ledger import reconcile

LIMIT = Decimal(10)
CLOSED = "anthropic||dear"


def usd(text: str) -> Decimal:
    return Decimal(text)


def typed(line: str, folder: Path) -> CompletedProcess[str]:
    """What a person types after `tta`."""
    return tta(*line.split(), folder=folder)


async def _month(url: str) -> str:
    """0.30 presumed, 0.20 billed for a bound of 0.10 (the model is closed), 5 approved by Ada; the presumed call."""
    ledger = Ledger.open(url)
    lost = CallInfo(provider="anthropic", model="claude", role="execute")
    hold = await ledger.reserve(lost, usd("0.30"), LIMIT)
    await ledger.charge_at_bound(
        hold, "", outcome=Outcome(outcome="timeout", request_id="req-7", note="no reply")
    )
    hold = await ledger.reserve(CallInfo(provider="anthropic", model="dear", role="plan"), usd("0.1"), LIMIT)
    await ledger.settle(hold, usd("0.2"), outcome=Outcome(note="billed more"), close_key=CLOSED)
    await ledger.approve((await ledger.balance()).month, usd("5"), who="Ada", reason="month end")
    await ledger.database.aclose()
    return lost.id


@pytest.fixture
def lost(tmp_path: Path) -> str:
    """The id of a presumed call in the ledger of `ledger.yaml`."""
    url = f"sqlite:///{tmp_path / 'ledger.db'}"
    text = f"orchestration:\n  cost_tracking: {{budget_limit_usd: 10, ledger_url: '{url}'}}\n"
    (tmp_path / "ledger.yaml").write_text(text, encoding="utf-8")
    return asyncio.run(_month(url))


def test_a_month_shows_what_to_compare_with_the_bill_and_who_decided_what(lost: str, tmp_path: Path) -> None:
    """Each presumed call with moment, model, amount and request id; approvals with name and reason; what is closed."""
    shown = typed("ledger show -c ledger.yaml", tmp_path)
    assert shown.returncode == 0, shown.stderr
    assert f"presumed: {lost}, " in shown.stdout
    assert "anthropic claude (execute), $0.300000, request req-7: no reply" in shown.stdout
    assert ": Ada: approve +5 USD: month end" in shown.stdout
    assert f"closed: {CLOSED}: billed more  (`tta ledger resolve '{CLOSED}' --reason TEXT`)" in shown.stdout
    told = json.loads(typed("ledger show -c ledger.yaml --json", tmp_path).stdout)
    (call,), (decision,) = told["calls"], told["decisions"]
    assert (call["id"], call["amount_usd"], call["request_id"]) == (lost, "0.3", "req-7")
    assert (decision["who"], decision["amount_usd"], decision["why"]) == ("Ada", "5", "month end")
    assert (told["spent_usd"], told["presumed_usd"], told["limit_usd"]) == ("0.5", "0.3", "15")


def test_a_presumed_call_is_corrected_once_and_the_journal_says_by_whom(lost: str, tmp_path: Path) -> None:
    """0.30 was presumed, the bill says 0.12: the month falls by 0.18; a second correction is refused."""
    line = f"ledger reconcile {lost} 0.12 --evidence invoice-11 -c ledger.yaml"
    done = typed(line, tmp_path)
    assert (done.returncode, done.stdout.strip()) == (0, f"{lost}: the month changed by -0.18 USD")
    again = typed(line, tmp_path)
    assert again.returncode == 1
    assert "is settled; only presumed calls are reconciled" in again.stderr
    told = json.loads(typed("ledger show -c ledger.yaml --json", tmp_path).stdout)
    assert (told["spent_usd"], told["presumed_usd"], told["calls"]) == ("0.32", "0", [])
    assert [d["why"] for d in told["decisions"]] == ["month end", "invoice-11"]
    assert typed("ledger verify -c ledger.yaml", tmp_path).stdout.strip() == "the journal adds up"


def test_a_closed_model_is_opened_by_the_key_that_show_names(lost: str, tmp_path: Path) -> None:
    """Once; then it is not closed any more."""
    line = f"ledger resolve {CLOSED} --reason refunded -c ledger.yaml"
    assert json.loads(typed(f"{line} --json", tmp_path).stdout) == {"key": CLOSED, "resolved": 1}
    again = typed(line, tmp_path)
    assert again.returncode == 1
    assert f"'{CLOSED}' is not closed; `tta ledger show` lists what is" in again.stderr


def test_a_user_without_a_name_can_correct_too(
    lost: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Containers run as numbers that no password file knows."""

    def nobody() -> str:
        raise KeyError("getpwuid(): uid not found: 54321")

    monkeypatch.setattr(getpass, "getuser", nobody)
    monkeypatch.setattr("os.getuid", lambda: 54321)
    assert reconcile(lost, "unbilled", evidence="support case", config=tmp_path / "ledger.yaml") == 0
    assert "the month changed by -0.3 USD" in capsys.readouterr().out

    async def who() -> list[str | None]:
        ledger = Ledger.open(f"sqlite:///{tmp_path / 'ledger.db'}")
        journal = await ledger.journal((await ledger.balance()).month)
        await ledger.database.aclose()
        return [entry.who for entry in journal if entry.what == "reconcile"]

    assert asyncio.run(who()) == ["uid 54321"]
