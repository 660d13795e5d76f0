"""A month's report: what was spent, on whom, what was saved; and the ledger as a Prefect block."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

import pytest
from ledger_tools import Clock
from prefect.testing.standard_test_suites import BlockStandardTestSuite
from pydantic import SecretStr, ValidationError

from tta_dev_primitives.blocks.ledger.block import SpendLedger
from tta_dev_primitives.blocks.ledger.ledger import Ledger
from tta_dev_primitives.blocks.ledger.report import MonthReport, month_report
from tta_dev_primitives.blocks.ledger.types import CallInfo, Outcome
from tta_dev_primitives.config.models.targets import Usage

NewCall = Callable[..., CallInfo]


async def report_of(ledger: Ledger, limit: Decimal) -> MonthReport:
    balance = await ledger.balance()
    rows = await ledger.report_rows(balance.month)
    return month_report(balance, rows, limit=limit, problems=await ledger.verify())


async def test_a_month_adds_up_by_every_side(ledger: Ledger, new_call: NewCall) -> None:
    """0.20 on planning, 0.30 presumed on executing, 0.40 held, and 0.05 saved by a free model of two calls."""
    limit = Decimal(2)
    plan = await ledger.reserve(new_call(model="dear", role="plan"), Decimal("0.5"), limit)
    outcome = Outcome(
        usage=Usage(input_tokens=70, cache_read_tokens=30, output_tokens=10), list_value=Decimal("0.20")
    )
    await ledger.settle(plan, Decimal("0.20"), outcome=outcome)
    lost = await ledger.reserve(new_call(model="dear"), Decimal("0.30"), limit)
    await ledger.charge_at_bound(lost, "", outcome=Outcome(outcome="transport"))
    await ledger.reserve(new_call(model="dear"), Decimal("0.40"), limit)
    free = {"model": "free", "provider": "q", "billing": "free"}
    await ledger.record_free(new_call(**free), Outcome(usage=Usage(50, 0, 0, 5), list_value=Decimal("0.05")))
    await ledger.record_free(new_call(**free), Outcome(outcome="rate_limit"))
    await ledger.approve("2026-11", Decimal(1), who="ann", reason="x")

    report = await report_of(ledger, limit)
    found = report.to_json()
    assert {key: found[key] for key in found if key.endswith("_usd")} == {
        "limit_usd": "3", "spent_usd": "0.5", "held_usd": "0.4", "presumed_usd": "0.3", "approved_usd": "1",
        "left_usd": "2.1",
    }  # fmt: skip
    assert found["total"] == {
        "name": "total", "calls": 5, "failed": 2, "input_tokens": 150, "cache_read_tokens": 30, "output_tokens": 15,
        "charged_usd": "0.5", "saved_usd": "0.05", "held_usd": "0.4", "presumed_usd": "0.3",
    }  # fmt: skip
    assert [(line["held_usd"], line["presumed_usd"]) for line in found["by_model"]] == [
        ("0.4", "0.3"),
        ("0", "0"),
    ]
    for side in ("by_provider", "by_model", "by_role", "by_use_case"):
        assert sum(Decimal(line["charged_usd"]) for line in found[side]) == Decimal("0.5")
        assert sum(Decimal(line["held_usd"]) for line in found[side]) == Decimal("0.4")
        assert sum(Decimal(line["presumed_usd"]) for line in found[side]) == Decimal("0.3")
        assert sum(line["calls"] for line in found[side]) == 5
    assert [line["name"] for line in found["by_model"]] == ["dear", "free"]
    assert found["problems"] == []
    rows = list(csv.DictReader(io.StringIO(report.to_csv())))
    assert sum(Decimal(row["charged_usd"]) for row in rows) == Decimal("0.5")
    assert sum(Decimal(row["held_usd"]) for row in rows) == Decimal("0.4")


async def test_a_model_name_cannot_become_a_formula(ledger: Ledger, new_call: NewCall) -> None:
    """Spreadsheets run cells that start with an equals sign."""
    await ledger.record_free(new_call(model='=HYPERLINK("x")', billing="free"), Outcome())
    assert "'=HYPERLINK" in (await report_of(ledger, Decimal(1))).to_csv()


async def test_an_empty_month_is_a_report_too(ledger: Ledger) -> None:
    """Nothing spent, everything left."""
    report = await report_of(ledger, Decimal(5))
    assert (report.total.calls, report.left, len(report.to_csv().splitlines())) == (0, Decimal(5), 1)


class TestSpendLedgerBlock(BlockStandardTestSuite):
    """Prefect's own standards for blocks."""

    @pytest.fixture
    def block(self) -> type[SpendLedger]:
        return SpendLedger

    def test_has_a_valid_image(self, block: type[SpendLedger]) -> None:
        """Prefect's own check downloads it; tests stay off the network."""
        assert str(block._logo_url).startswith("https://")


async def test_the_block_opens_the_ledger_it_describes(tmp_path: Path, clock: Clock) -> None:
    """Its ledger has the address, scope and zone of its fields."""
    block = SpendLedger(url=SecretStr(f"sqlite:///{tmp_path}/l.db"), scope="team", timezone="Europe/Berlin")
    ledger = block.get_ledger(alert_threshold=Decimal("0.5"))
    assert (ledger.database.place, ledger.scope, ledger.timezone) == (
        f"{tmp_path}/l.db",
        "team",
        "Europe/Berlin",
    )


def test_the_block_refuses_what_cannot_work_without_showing_a_password() -> None:
    """A wrong address or zone is refused when the block is made; the password stays hidden."""
    for fields in ({"url": "mysql://user:geheim@host/db"}, {"timezone": "Mars/Base"}):
        with pytest.raises(ValidationError) as error:
            SpendLedger(**fields)
        assert "geheim" not in str(error.value)
    assert "geheim" not in repr(SpendLedger(url=SecretStr("postgresql://user:geheim@host/db")))
