"""`tta estimate` against what the same job costs then, on the sandbox: fresh ledgers and learned ones."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from sandbox_runs import At

from tta_dev_primitives.commands.estimate import _estimate, _Lines
from tta_dev_primitives.flows.workflow import MultiModelWorkflow

SHORT = "Summarize note {} in a sentence."
SUM = "What is {} * 7?"
SLOGAN = "Write a slogan for shop {}."


@pytest.fixture(autouse=True)
def _same_coins(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which tasks are checked is drawn under the ledger's secret: here the same ones in every run."""
    monkeypatch.setattr("tta_dev_primitives.blocks.ledger.risk_tables.secrets.token_hex", lambda n: "5a" * n)


def tasks(first: int, count: int, *texts: str, **more: str) -> list[dict[str, Any]]:
    return [
        {"id": str(n), "task": texts[n % len(texts)].format(n), **more} for n in range(first, first + count)
    ]


async def both(
    workflow: MultiModelWorkflow, folder: Path, items: list[dict[str, Any]]
) -> tuple[dict[str, Any], Decimal]:
    """The estimate of a job, and then its cost."""
    source = folder / "in.jsonl"
    source.write_text("".join(json.dumps(item) + "\n" for item in items))
    said = await _estimate(_Lines(source, None, allow_extra=False, samples=1), workflow.config.source, 10)
    results = await workflow.execute_bulk(items, concurrency=10)
    assert all(result.content for result in results)
    return said, sum((result.cost_usd for result in results), Decimal(0))


@pytest.mark.parametrize(
    ("texts", "use_case"),
    [([SHORT], "moderate"), ([SUM], "simple"), ([SHORT, SUM, SLOGAN], None)],
    ids=["short", "sums", "mixed"],
)
async def test_a_first_job_costs_what_was_estimated(
    texts: list[str], use_case: str | None, tmp_path: Path, at: At
) -> None:
    """60 short tasks, nothing learned: within 40 %, which the order of the calls may change."""
    more = {} if use_case is None else {"use_case": use_case}
    said, cost = await both(at(), tmp_path, tasks(0, 60, *texts, **more))
    assert float(said["expected_usd"]) == pytest.approx(float(cost), rel=0.4)
    assert cost < said["paid_model_alone_usd"]
    assert said["recommendations"]


async def test_a_later_job_is_estimated_from_what_was_learned(tmp_path: Path, at: At) -> None:
    """Answers longer than assumed, savings and stored answers all count for the next estimate."""
    text = "A kettle heats water until it boils, and then it switches itself off. " * 7
    workflow = at(f"rules: [{{match: {{prompt: solve}}, reply: {{text: '{text}'}}}}]")
    fresh, _ = await both(workflow, tmp_path, tasks(0, 40, SHORT, use_case="moderate"))
    again, nothing = await both(workflow, tmp_path, tasks(0, 40, SHORT, use_case="moderate"))
    assert (again["stored_tasks"], again["expected_usd"], nothing) == (40, 0, 0)
    later, cost = await both(workflow, tmp_path, tasks(40, 80, SHORT, use_case="moderate"))
    assert later["output_tokens"] / later["tasks"] > 2 * fresh["output_tokens"] / fresh["tasks"]
    low, high = later["range_usd"]
    assert low <= later["expected_usd"] <= high
    # Which of the later tasks are checked is chance: a few audits are most of the cost.
    assert low / 2 <= cost <= high * 2
