"""The risk ledger in its database: concurrent runs see each other's decisions."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tta_dev_primitives.blocks.ledger.database.protocol import Database, database_for
from tta_dev_primitives.blocks.ledger.risk_tables import DocumentStore
from tta_dev_primitives.flows.validation.case import Policy
from tta_dev_primitives.flows.validation.evidence import Evidence
from tta_dev_primitives.flows.validation.risk_state import Label, RiskPolicy, RiskState
from tta_dev_primitives.flows.validation.risk_store import RiskStore, scope_of
from tta_dev_primitives.flows.validation.rulings import TaskRow, learn_once, rule_once, task_key

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
    store = RiskStore(database, "scope")
    rulings = await store.rule([(f"t{n}", AGREED) for n in range(40)], POLICY)
    await store.learn([Label(r, True, task=r.task) for r in rulings], POLICY)

    state, rows, pure = RiskState(), {}, []
    secret, month = await store.secret(), f"{datetime.now(UTC):%Y-%m}"
    for n in range(40):
        key = f"t{n}"
        ruling, state, rows[key] = rule_once(
            state, TaskRow(), key, AGREED, POLICY, secret=secret, month=month
        )
        pure.append(ruling)
    for ruling in pure:
        _, state, _ = learn_once(state, rows[ruling.task], Label(ruling, True, task=ruling.task), POLICY)
    assert rulings == pure
    assert await store.state() == state


async def test_concurrent_runs_lose_no_delivery(database: Database) -> None:
    """Thirty runs at once, one item each: all thirty are counted."""
    stores = [RiskStore(database, "scope") for _ in range(30)]

    async def one(n: int, store: RiskStore) -> None:
        (ruling,) = await store.rule([(f"t{n}", AGREED)], POLICY)
        await store.learn([Label(ruling, True, task=f"t{n}")], POLICY)

    await asyncio.gather(*(one(n, store) for n, store in enumerate(stores)))
    assert (await stores[0].state()).items == 30


async def test_a_repeated_or_restarted_task_meets_its_ruling_and_counts_once(database: Database) -> None:
    """One task, run 90 times by new processes: one ruling, one label, one delivery, whatever its white space."""
    rulings = []
    for n in range(90):
        store, key = RiskStore(database, "scope"), task_key(f"What is  2 + 2? {' ' * n}".upper())
        (ruling,) = await store.rule([(key, AGREED)], POLICY)
        rulings.append(ruling)
        await store.learn([Label(ruling, True, task=key, reused=n > 0)], POLICY)
    state = await store.state()
    assert {(r.action, r.check) for r in rulings} == {(rulings[0].action, rulings[0].check)}
    assert (state.items, state.strata[AGREED.stratum].n) == (1, 1)


async def test_labels_of_version_0_1_begin_anew_and_that_is_said_once(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    """The document of the old scope is deleted, with one warning."""
    policy = Policy(0.85)
    await DocumentStore(database).change(
        scope_of("key", policy, made_by_0_1=True), lambda _: ('{"made": 1}', None)
    )
    for n in range(3):
        await RiskStore.of(database, "key", policy).rule([(f"t{n}", AGREED)], POLICY)
    assert [r.message for r in caplog.records].count(
        "The risk ledger of version 0.1.0 cannot be used any more: free answers are checked anew."
    ) == 1


@pytest.mark.server
def test_processes_lose_no_ruling_and_no_label(url: str) -> None:
    """Four processes rule and learn 60 times each at the same time: every ruling and every label is counted once."""
    worker = Path(__file__).parents[2] / "support" / "trust_worker.py"
    children = [
        subprocess.Popen(
            [sys.executable, str(worker), url, str(seed), "60"], stdout=subprocess.PIPE, text=True
        )
        for seed in range(4)
    ]
    done: Counter[str] = Counter()
    for child in children:
        out, _ = child.communicate()
        assert child.returncode == 0
        done.update(json.loads(out))

    async def look() -> RiskState:
        database = database_for(url)
        try:
            return await RiskStore(database, "scope").state()
        finally:
            await database.aclose()

    state = asyncio.run(look())
    (stratum,) = state.strata.values()
    assert done["deliver"] > 0, "without trust there would be nothing to lose"
    assert state.items == done["deliver"] + done["audit"] + done["escalate"] == 240
    assert (stratum.labelled, stratum.rejected) == (done["labels"], done["rejected"])
    assert state.audit_bound.trusted == done["deliver"] + done["audit"]
    if not state.alarms:
        assert (stratum.n, stratum.tail, stratum.unjudged) == (done["labels"], "", done["deliver"])


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
    await RiskStore(database, one).rule([("t", AGREED)], POLICY)
    assert (await RiskStore(database, other).state()) == RiskState()


async def test_a_failing_work_changes_nothing(database: Database) -> None:
    """An exception rolls the whole step back."""
    strata = DocumentStore(database)
    await strata.change("s", lambda _: ("one", None))

    def breaks(_: str | None) -> tuple[str, None]:
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        await strata.change("s", breaks)
    assert await strata.read("s") == "one"
    assert await strata.read("unknown") is None


async def test_nothing_to_decide_touches_no_database(database: Database) -> None:
    """Empty batches are free."""
    store = RiskStore(database, "scope")
    assert await store.rule([], POLICY) == []
    assert await store.learn([], POLICY) == []
