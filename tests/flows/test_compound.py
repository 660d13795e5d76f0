"""Compound tasks as flow runs: parts in the order of their needs, side by side where they can be, joined at the end."""

from __future__ import annotations

import asyncio
import json
from typing import Any
from uuid import UUID

import pytest
from prefect import get_client
from prefect_graph import edges, task_runs
from sandbox_runs import CLAUDE, GEMINI, At, SandboxOf

from tta_dev_primitives.deployments.sandbox import Call, Sandbox

TASK = "Collect the facts on kettles. List the risks of using one. Write a report to the board."
CHECKS = {"validation": {"mode": "never"}}


def part(name: str, *needs: str) -> dict[str, Any]:
    return {"name": name, "task": f"Do the {name} about kettles.", "needs": list(needs)}


def plan_of(*parts: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {"use_case": "moderate", "instructions": "Write in plain words.", "answer_format": "open",
            "acceptance_criteria": ["names a kettle"], "subtasks": list(parts), **changes}  # fmt: skip


def scenario_of(plan: object) -> str:
    """The planner says `plan`; each part answers with its own name, after some time."""
    rules = [
        {"match": {"prompt": "plan"}, "reply": {"text": plan if isinstance(plan, str) else json.dumps(plan)}}
    ]
    rules += [
        {"match": {"prompt": "solve", "contains": f"do the {name} about"},
         "reply": {"text": f"These are the {name}.", "latency": 7}}
        for name in ("report", "facts", "risks")
    ]  # fmt: skip
    return json.dumps({"rules": rules})


def solved(sandbox: Sandbox) -> list[Call]:
    return [call for call in sandbox.calls if call.prompt == "solve"]


async def test_parts_that_need_nothing_run_side_by_side_and_the_last_one_sees_them(
    sandbox_of: SandboxOf, at: At
) -> None:
    """Neither of two parts is answered before both were asked; the third gets both results and is the answer."""
    both = asyncio.Barrier(2)

    async def sleep(seconds: float) -> None:
        if seconds == 7 and len(solved(sandbox)) <= 2:
            await asyncio.wait_for(both.wait(), 110)

    plan = plan_of(part("facts"), part("risks"), part("report", "facts", "risks"))
    sandbox = sandbox_of(scenario_of(plan), sleep=sleep)
    result = await at(sandbox, saved="1", planning="auto", **CHECKS).execute(TASK)
    first, second, last = solved(sandbox)
    assert {first.text, second.text} == {"These are the facts.", "These are the risks."}
    assert last.text == result.content == "These are the report."
    asked = json.dumps(last.body)
    assert "These are the facts." in asked
    assert "These are the risks." in asked
    assert "Write in plain words." in asked, "what the plan asks of the answer is asked of the last part"
    assert "Write in plain words." not in json.dumps([first.body, second.body])
    assert [a.role for a in result.attempts].count("plan") == 1
    assert result.cost_usd == sandbox.billed("anthropic")
    both_parts, last_part = f"execute[{GEMINI} x2]", f"execute[{GEMINI}]"
    run_id = UUID(result.flow_run_id)
    async with get_client() as client:
        await task_runs(client, run_id, {"join"})
        assert await edges(client, run_id) == {
            ("plan", "budget"), ("budget", "plan"), ("budget", both_parts), (both_parts, "budget"),
            ("budget", "validate"), ("validate", "plan"), ("budget", last_part), (last_part, "budget"),
            ("validate", "join"),
        }  # fmt: skip


async def test_parts_that_nothing_joins_stand_under_their_names(sandbox_of: SandboxOf, at: At) -> None:
    """Without a last part the answer holds all of them, in the plan's order."""
    sandbox = sandbox_of(scenario_of(plan_of(part("risks"), part("facts"))), sleep=lambda _: asyncio.sleep(0))
    result = await at(sandbox, saved="1", planning="auto", **CHECKS).execute(TASK)
    assert result.content == "## risks\n\nThese are the risks.\n\n## facts\n\nThese are the facts."


async def test_the_criteria_of_the_plan_reach_the_judge_of_the_last_part(
    sandbox_of: SandboxOf, at: At
) -> None:
    """The answer is judged by the plan's acceptance criteria, the parts before it by their own task."""
    plan = plan_of(part("facts"), part("report", "facts"))
    sandbox = sandbox_of(scenario_of(plan), sleep=lambda _: asyncio.sleep(0))
    result = await at(sandbox, saved="1", planning="auto").execute(TASK)
    assert result.content == "These are the report."
    judged = [json.dumps(call.body) for call in sandbox.calls if call.prompt == "verdict"]
    for asked in judged:
        assert ("names a kettle" in asked) == ("These are the report." in asked)
    assert any("names a kettle" in asked for asked in judged)


@pytest.mark.parametrize(
    ("plan", "complaint"),
    [
        (plan_of(part("a", "b"), part("b", "a")), "circle"),
        (plan_of(part("a", "nobody")), "no sub-task"),
        (plan_of(*(part(f"p{n}") for n in range(9))), "8 items"),
        (plan_of(model="gpt-9"), "model"),
        (plan_of(use_case="anything"), "use_case"),
        ('{"use_case": "simple", "use_case": "expert"}', "twice"),
        ("Sure! Here is your plan.", "not one JSON object"),
    ],
)
async def test_a_plan_that_cannot_be_used_is_asked_for_once_more_then_made_locally(
    plan: object, complaint: str, sandbox_of: SandboxOf, at: At
) -> None:
    """The planner is told what was wrong; after its second failure the task is answered whole, with a warning."""
    sandbox = sandbox_of(scenario_of(plan), sleep=lambda _: asyncio.sleep(0))
    result = await at(sandbox, planning="always", **CHECKS).execute(TASK)
    asked = [json.dumps(call.body) for call in sandbox.calls if call.prompt == "plan"]
    assert len(asked) == 2
    assert complaint in asked[1]
    assert len(solved(sandbox)) == 1
    assert any("planned locally" in warning and complaint in warning for warning in result.warnings)
    assert result.cost_usd == sandbox.billed("anthropic") > 0


LISTED = "1. Summarize the history of kettles.\n2. Translate the summary into German.\n3. List its dates."


@pytest.mark.parametrize(
    ("task", "saved", "planner"),
    [(TASK, None, GEMINI), (LISTED, "1", CLAUDE), (LISTED, None, None)],
    ids=["unclear", "compound, from savings", "compound, nothing saved"],
)
async def test_auto_plans_with_a_free_model_or_from_savings(
    task: str, saved: str | None, planner: str | None, sandbox_of: SandboxOf, at: At
) -> None:
    """A free model plans what is unclear; the orchestrator plans compound tasks, from savings only."""
    sandbox = sandbox_of(scenario_of(plan_of()), sleep=lambda _: asyncio.sleep(0))
    use_case = None if task == TASK else "moderate"
    workflow = at(sandbox, saved=saved, planning="auto", **CHECKS)
    result = await workflow.execute(task, use_case=use_case)
    assert [a.model for a in result.attempts if a.role == "plan"] == ([planner] if planner else [])
    assert (result.cost_usd > 0) == (planner == CLAUDE)


@pytest.mark.parametrize(("planning", "plans"), [("auto", 0), ("never", 0), ("always", 1)])
async def test_planning_is_paid_for_when_it_is_asked_for(
    planning: str, plans: int, sandbox_of: SandboxOf, at: At
) -> None:
    """A plain task is planned by the orchestrator under `always` only; a named use case stays the caller's."""
    sandbox = sandbox_of(scenario_of(plan_of(use_case="expert")), sleep=lambda _: asyncio.sleep(0))
    result = await at(sandbox, planning=planning, **CHECKS).execute("Who wrote Faust?", use_case="simple")
    assert [a.model for a in result.attempts if a.role == "plan"] == [CLAUDE] * plans
    assert (result.use_case, result.cost_usd > 0) == ("simple", plans > 0)
