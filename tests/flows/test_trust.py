"""The risk ledger in its database: concurrent runs see each other's decisions."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tta_dev_primitives.blocks.ledger.database.protocol import Database, database_for
from tta_dev_primitives.blocks.ledger.shared_document import Strata
from tta_dev_primitives.flows.validation.case import Policy
from tta_dev_primitives.flows.validation.risk import Evidence, Label, RiskPolicy, RiskState, learn, rule
from tta_dev_primitives.flows.validation.risk_store import TrustLedger, scope_of

AGREED = Evidence("moderate", "agree2of2", 0, ("a", "b"), ("a", "b"), strong=True)
POLICY = RiskPolicy(0.15)


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The address of an empty database of each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'ledger.db'}"
    address: str = request.getfixturevalue("postgres_url")
    return address


@pytest.fixture
async def database(url: str) -> AsyncIterator[Database]:
    """That database, closed after the test."""
    opened = database_for(url)
    yield opened
    await opened.aclose()


async def test_the_stored_ledger_decides_as_the_pure_one(database: Database) -> None:
    """Many items in one transaction are decided in order, each seeing the ones before."""
    trust = TrustLedger(database, "scope")
    coins = [0.5] * 40
    rulings = await trust.rule([AGREED] * 40, POLICY, coins)
    await trust.learn([Label(r, True) for r in rulings], POLICY)

    state, pure = RiskState(), []
    for coin in coins:
        ruling, state = rule(state, AGREED, POLICY, coin)
        pure.append(ruling)
    for ruling in pure:
        state, _ = learn(state, Label(ruling, True), POLICY)
    assert rulings == pure
    assert await trust.state() == state


async def test_concurrent_runs_lose_no_decision(database: Database) -> None:
    """Thirty runs at once, one item each: all thirty are counted, and the budget is never passed."""
    ledgers = [TrustLedger(database, "scope") for _ in range(30)]
    await asyncio.gather(*(ledger.rule([AGREED], POLICY, [0.9]) for ledger in ledgers))
    state = await ledgers[0].state()
    assert state.items == 30


def test_processes_lose_no_ruling_and_no_label(url: str) -> None:
    """Six processes rule and learn 60 times each at the same time: every ruling and every label is counted once."""
    worker = Path(__file__).parents[1] / "support" / "trust_worker.py"
    children = [
        subprocess.Popen(
            [sys.executable, str(worker), url, str(seed), "60"], stdout=subprocess.PIPE, text=True
        )
        for seed in range(6)
    ]
    done: Counter[str] = Counter()
    for child in children:
        out, _ = child.communicate()
        assert child.returncode == 0
        done.update(json.loads(out))

    async def look() -> RiskState:
        database = database_for(url)
        try:
            return await TrustLedger(database, "scope").state()
        finally:
            await database.aclose()

    state = asyncio.run(look())
    (stratum,) = state.strata.values()
    assert done["deliver"] > 0, "without trust there would be nothing to lose"
    assert state.items == done["deliver"] + done["audit"] + done["escalate"] == 360
    assert (stratum.labelled, stratum.disowned) == (done["labels"], done["disowned"])
    assert state.certificate.trusted == done["deliver"] + done["audit"]
    if not state.alarms:
        assert (stratum.n, stratum.unjudged) == (done["labels"], done["deliver"])


async def test_scopes_do_not_share_trust(database: Database) -> None:
    """Another orchestrator, threshold or gate starts without unearned trust."""
    scopes = {
        scope_of(key, Policy(threshold, gate=gate))  # type: ignore[arg-type]
        for key in ("anthropic||a", "anthropic||b")
        for threshold in (0.75, 0.85)
        for gate in ("balanced", "strict")
    }
    assert len(scopes) == 8
    one, other = sorted(scopes)[:2]
    await TrustLedger(database, one).rule([AGREED], POLICY, [0.5])
    assert (await TrustLedger(database, other).state()) == RiskState()


async def test_a_failing_work_changes_nothing(database: Database) -> None:
    """An exception rolls the whole step back."""
    strata = Strata(database)
    await strata.change("s", lambda _: ("one", None))

    def breaks(_: str | None) -> tuple[str, None]:
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        await strata.change("s", breaks)
    assert await strata.read("s") == "one"
    assert await strata.read("unknown") is None


async def test_nothing_to_decide_touches_no_database(database: Database) -> None:
    """Empty batches are free."""
    trust = TrustLedger(database, "scope")
    assert await trust.rule([], POLICY, []) == []
    assert await trust.learn([], POLICY) == []
