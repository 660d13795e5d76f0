"""What the attempts of a result say they cost is what the ledger charged, failed calls included."""

from __future__ import annotations

import asyncio
from decimal import Decimal
from pathlib import Path

import pytest
from sandbox_runs import CLAUDE, At

from tta_dev_primitives.blocks.ledger.ledger import Ledger
from tta_dev_primitives.orchestration import AllModelsFailedError

OPEN = "Describe how a kettle works."


def spent(folder: Path) -> Decimal:
    """USD that the test's ledger has charged this month."""

    async def read() -> Decimal:
        return (await Ledger.open(f"sqlite:///{folder / 'ledger.db'}").balance()).spent

    return asyncio.run(read())


@pytest.mark.parametrize("error", ["timeout", "bad_gateway"])
def test_an_attempt_that_may_have_been_billed_shows_its_charge(error: str, at: At, tmp_path: Path) -> None:
    """A paid reply that was lost on its way is charged at its bound; the error's attempts say so."""
    workflow = at(f"rules: [{{reply: {{error: {error}}}}}]", enabled=False)
    with pytest.raises(AllModelsFailedError) as caught:
        workflow.run(OPEN, use_case="moderate")
    charged = sum(a.cost_usd for a in caught.value.attempts)
    assert charged > 0
    assert charged == spent(tmp_path)


def test_a_fallback_after_a_lost_paid_reply_counts_it(at: At, tmp_path: Path) -> None:
    """A result's cost holds the failed paid attempt too, and equals the month's spending."""
    scenario = "rules: [{match: {provider: anthropic, nth: 1}, reply: {error: server_error}}]"
    result = at(scenario, enabled=False).run(OPEN, use_case="moderate")
    assert [(a.model, a.outcome) for a in result.attempts] == [(CLAUDE, "transient"), (CLAUDE, "ok")]
    assert result.attempts[0].cost_usd > result.attempts[1].cost_usd > 0
    assert result.cost_usd == sum(a.cost_usd for a in result.attempts) == spent(tmp_path)


def test_what_is_odd_about_a_bill_is_among_the_warnings(at: At) -> None:
    """A reply without usable usage is kept, charged at its bound, and the result says so."""
    scenario = "rules: [{match: {provider: anthropic}, reply: {text: A kettle heats water., usage: missing}}]"
    result = at(scenario, enabled=False).run(OPEN, use_case="moderate")
    assert any(w.startswith(f"{CLAUDE}: ") and "charged at the bound" in w for w in result.warnings)
