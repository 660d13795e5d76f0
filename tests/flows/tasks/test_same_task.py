"""The same task again ends as before: same decision, same answer, no cost, no call; also after an audit."""

from __future__ import annotations

from decimal import Decimal

import pytest
from sandbox_runs import LONG, At

from tta_dev_primitives.flows.validation.risk_state import RiskPolicy
from tta_dev_primitives.flows.validation.rulings import task_key
from tta_dev_primitives.orchestration import MultiModelWorkflow

TASK = "Describe how a kettle works."
CLOSED = "What is 6 times 7? Answer with a number."


def scenario(answer: str, score: str) -> str:
    """Every model gives the same answer; the orchestrator's verdict has this score."""
    return (
        f"rules:\n- {{match: {{prompt: solve}}, reply: {{text: '{answer}'}}}}\n"
        f"- {{match: {{prompt: verdict, model: claude-sonnet-4.5}}, reply: {{text: '{{\"score\": {score}}}'}}}}\n"
    )


async def coins(workflow: MultiModelWorkflow, task: str) -> list[float]:
    """The coin of a task, drawn twice by runs of their own."""
    runtime = await workflow.ready()
    return [await (await runtime.for_run()).coin_of(task_key(task), "paid executor") for _ in range(2)]


@pytest.mark.parametrize("score", ["0.95", "0.1"])
async def test_after_a_paid_check_the_same_task_ends_as_before(at: At, score: str) -> None:
    """Endorsed or rejected: what was delivered then is delivered now, and nothing is asked."""
    workflow = at(scenario(LONG, score), saved="1")
    first = await workflow.execute(TASK, use_case="moderate")
    asked = len(workflow.sandbox.calls)
    assert first.accepted
    assert first.cost_usd > 0
    again = await workflow.execute(TASK, use_case="moderate")
    assert (again.content, again.model, again.evidence) == (first.content, first.model, first.evidence)
    assert (again.quality_score, again.accepted) == (first.quality_score, True)
    assert (again.cost_usd, again.reused, first.reused) == (Decimal(0), True, False)
    assert len(workflow.sandbox.calls) == asked


async def test_after_an_audit_the_same_task_costs_nothing(at: At, monkeypatch: pytest.MonkeyPatch) -> None:
    """A trusted closed task that was drawn for an audit: the audit is not drawn again."""
    monkeypatch.setattr(
        RiskPolicy, "__post_init__", lambda self: object.__setattr__(self, "audit_floor", 0.999)
    )
    workflow = at("rules: [{match: {prompt: solve}, reply: {text: 'The answer is 42.'}}]", saved="1")
    result = None
    for number in range(60):
        result = await workflow.execute(f"{CLOSED} ({number})", use_case="moderate")
        if result.evidence == "audit":
            break
    assert result is not None
    assert result.evidence == "audit"
    asked = len(workflow.sandbox.calls)
    again = await workflow.execute(f"{CLOSED} ({number})", use_case="moderate")
    assert (again.content, again.model, again.evidence) == (result.content, result.model, "audit")
    assert (again.cost_usd, again.reused) == (Decimal(0), True)
    assert len(workflow.sandbox.calls) == asked


async def test_the_coin_of_a_task_is_drawn_once(at: At) -> None:
    """It depends on the ledger's secret and the task's content, not on the run."""
    workflow = at()
    first, second = await coins(workflow, TASK), await coins(workflow, CLOSED)
    assert first[0] == first[1]
    assert second[0] == second[1]
    assert first != second
