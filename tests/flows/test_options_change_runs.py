"""Each option of the configuration changes what a run does, seen through the public interface."""

from __future__ import annotations

import asyncio
from decimal import Decimal
from pathlib import Path
from uuid import UUID

import pytest
from prefect import task
from sandbox_runs import CLAUDE, GEMINI, KEY, LLAMA, LONG, LONG_ANSWERS, LONG_RULE, At, SandboxOf, executor

from tta_dev_primitives.flows import execute, orchestrate
from tta_dev_primitives.flows.calling.runtime import Runtime
from tta_dev_primitives.flows.tasks.item import AttemptChain
from tta_dev_primitives.orchestration import (
    AllModelsFailedError,
    BudgetExceededError,
    ConfigError,
    MissingKeyError,
    OrchestrationResult,
)

OPEN = "Describe how a kettle works."


def executed(result: OrchestrationResult) -> list[tuple[str, str]]:
    """Model and outcome of each execute attempt, in order."""
    return [(a.model, a.outcome) for a in result.attempts if a.role == "execute"]


def roles(result: OrchestrationResult, role: str) -> list[str]:
    """The models that were called in a role."""
    return [a.model for a in result.attempts if a.role == role]


def test_a_task_is_answered_by_its_free_executor_and_checked(at: At) -> None:
    """One task gives one flow run with an answer, its evidence, its cost and the month's budget."""
    workflow = at(LONG_ANSWERS, saved="1")
    result = workflow.run(OPEN, use_case="moderate")
    assert result.model == GEMINI
    assert result.content == LONG
    assert result.accepted
    assert result.evidence == "judge"
    assert result.flow_run_id
    assert result.cost_usd == sum(a.cost_usd for a in result.attempts)
    assert result.budget.limit_usd == Decimal(100)
    assert result.budget.spent_usd == result.cost_usd


def test_disabled_orchestration_asks_the_orchestrator_alone(at: At) -> None:
    """`enabled: false`: the task goes straight to the orchestrator; nothing is planned or judged."""
    result = at(enabled=False).run(OPEN, use_case="moderate")
    assert [(a.role, a.model) for a in result.attempts] == [("execute", CLAUDE)]
    assert result.accepted
    assert result.evidence == "paid"


def test_disabled_orchestration_still_keeps_the_budget(at: At) -> None:
    """`enabled: false` with no budget left: no call is made."""
    workflow = at(enabled=False, cost_tracking={"budget_limit_usd": 0.0})
    with pytest.raises(BudgetExceededError):
        workflow.run(OPEN, use_case="moderate")
    assert workflow.sandbox.calls == []


def test_free_models_go_first_when_preferred(at: At) -> None:
    """`prefer_free_models: true` moves free candidates before paid ones."""
    workflow = at(executors=[], fallback_strategy={"models": [CLAUDE]}, prefer_free_models=True)
    assert executed(workflow.run(OPEN, use_case="complex")) == [(CLAUDE, "ok")]
    paid_first = [CLAUDE, GEMINI, LLAMA]
    everywhere = [
        executor(GEMINI, "google-ai-studio", ["simple"]),
        executor(LLAMA, "groq", ["simple"]),
    ]
    preferred = at(executors=everywhere, fallback_strategy={"models": paid_first})
    assert executed(preferred.run(OPEN, use_case="complex"))[0] == (GEMINI, "ok")


def test_the_order_of_the_file_holds_when_free_models_are_not_preferred(at: At) -> None:
    """`prefer_free_models: false` keeps the order of the file: a paid model that stands first answers."""
    workflow = at(
        prefer_free_models=False,
        executors=[executor(GEMINI, "google-ai-studio", ["simple"])],
        fallback_strategy={"models": [CLAUDE, GEMINI]},
    )
    assert executed(workflow.run(OPEN, use_case="complex")) == [(CLAUDE, "ok")]
    assert executed(workflow.run("Name a colour of the rainbow, please.", use_case="simple"))[0] == (
        GEMINI,
        "ok",
    )


@pytest.mark.parametrize(("threshold", "model"), [(0.7, GEMINI), (0.95, CLAUDE)])
def test_the_quality_threshold_decides_what_is_good_enough(threshold: float, model: str, at: At) -> None:
    """An answer judged at 0.8 is delivered at a threshold of 0.7 and replaced by the paid model's at 0.95."""
    scenario = f'rules: [{LONG_RULE}, {{match: {{prompt: verdict}}, reply: {{json: {{score: 0.8, reason: "fair"}}}}}}]'
    workflow = at(scenario, saved="1", quality_threshold=threshold)
    assert workflow.run(OPEN, use_case="moderate").model == model


def test_use_cases_choose_the_executor(at: At) -> None:
    """The executor that lists the task's use case is asked first, whatever its place in the file."""
    executors = [
        executor(GEMINI, "google-ai-studio", ["complex"]),
        executor(LLAMA, "groq", ["speed-critical"]),
    ]
    workflow = at(executors=executors)
    assert executed(workflow.run(OPEN, use_case="speed-critical"))[0] == (LLAMA, "ok")
    assert executed(workflow.run(OPEN, use_case="complex"))[0] == (GEMINI, "ok")


def test_a_rate_limited_model_falls_back_to_the_next_in_the_list(at: At) -> None:
    """A 429 that lasts longer than a run waits sends the task to the next model of the list."""
    limited = "{match: {model: gemini-2.5-pro}, reply: {error: rate_limit, retry_after: 3600}}"
    scenario = f"rules: [{limited}, {LONG_RULE}]"
    result = at(scenario, saved="1").run(OPEN, use_case="moderate")
    attempts = executed(result)
    assert attempts[0][0] == GEMINI
    assert attempts[0][1] in ("rate_limit", "quota_exhausted")
    assert attempts[1] == (LLAMA, "ok")
    assert result.model == LLAMA


def test_the_last_resort_is_the_paid_model(at: At) -> None:
    """When every free model fails, the paid one at the end of the list answers, and it is paid."""
    scenario = """
    rules:
      - {match: {model: gemini-2.5-pro}, reply: {error: daily_limit}}
      - {match: {provider: groq}, reply: {status: 404, body: {error: {message: gone, code: model_not_found}}}}
    """
    result = at(scenario).run(OPEN, use_case="moderate")
    assert list(dict.fromkeys(model for model, _ in executed(result))) == [GEMINI, LLAMA, CLAUDE]
    assert result.evidence == "paid"
    assert result.cost_usd > 0
    assert any(LLAMA in warning for warning in result.warnings)


def test_when_every_model_fails_the_error_holds_every_attempt(at: At) -> None:
    """AllModelsFailedError lists each attempt in order, with its class and reason."""
    workflow = at("rules: [{reply: {error: bad_key}}]")
    with pytest.raises(AllModelsFailedError) as caught:
        workflow.run(OPEN, use_case="moderate")
    assert [(a.model, a.outcome) for a in caught.value.attempts] == [
        (GEMINI, "auth"),
        (LLAMA, "auth"),
        (CLAUDE, "auth"),
    ]
    assert all(model in str(caught.value) for model in (GEMINI, LLAMA, CLAUDE))


@pytest.mark.parametrize(
    ("most", "asked"), [(1, [GEMINI]), (2, [GEMINI, LLAMA]), (3, [GEMINI, LLAMA, CLAUDE])]
)
def test_no_more_attempts_are_made_than_the_option_allows(
    most: int, asked: list[str], sandbox_of: SandboxOf, at: At
) -> None:
    """`max_attempts` counts models and repetitions alike; who is cut off does not answer as a last resort either."""
    sandbox = sandbox_of("rules: [{reply: {status: 500}}]")
    models = {"models": [GEMINI, LLAMA, CLAUDE], "max_attempts": most}
    with pytest.raises(AllModelsFailedError) as caught:
        at(sandbox, fallback_strategy=models).run(OPEN, use_case="moderate")
    assert [a.model for a in caught.value.attempts] == asked
    assert [call.model for call in sandbox.calls] == [m.replace("4.5", "4-5") for m in asked]


def test_an_answer_that_is_not_good_enough_stands_when_no_attempt_is_left(at: At) -> None:
    """`max_attempts: 1`: it is delivered as not accepted; no further model is asked for one."""
    scenario = 'rules: [{match: {prompt: verdict}, reply: {json: {score: 0.1, reason: "poor"}}}]'
    models = {"models": [GEMINI, LLAMA, CLAUDE], "max_attempts": 1}
    workflow = at(scenario, fallback_strategy=models)
    result = workflow.run(OPEN, use_case="moderate")
    assert executed(result) == [(GEMINI, "ok")]
    assert not result.accepted


def test_a_spent_budget_leaves_the_free_models(at: At) -> None:
    """With `on_exhausted: free_only` no paid call is made and the result says so."""
    workflow = at(cost_tracking={"budget_limit_usd": 0.0})
    result = workflow.run(OPEN, use_case="moderate")
    assert result.model == GEMINI
    assert not result.accepted
    assert result.cost_usd == 0
    assert any("budget" in warning for warning in result.warnings)
    assert all(call.provider != "anthropic" for call in workflow.sandbox.calls)


def test_a_spent_budget_stops_the_run_when_asked_to(at: At) -> None:
    """With `on_exhausted: stop` the run ends before any model is called."""
    workflow = at(cost_tracking={"budget_limit_usd": 0.0, "on_exhausted": "stop"})
    with pytest.raises(BudgetExceededError) as caught:
        workflow.run(OPEN, use_case="moderate")
    assert caught.value.limit == 0
    assert workflow.sandbox.calls == []


def test_the_alert_threshold_raises_one_event_a_month(at: At) -> None:
    """Crossing `alert_threshold` sends `tta.budget.alert` once, however many runs follow."""
    from tta_dev_primitives.flows.prefect_support import events

    heard: list[str] = []
    workflow = at(enabled=False, cost_tracking={"budget_limit_usd": 0.05, "alert_threshold": 0.001})
    with events.listening(lambda name, payload: heard.append(name)):
        workflow.run(OPEN, use_case="moderate")
        workflow.run(OPEN + " Briefly.", use_case="moderate")
    assert heard.count("tta.budget.alert") == 1


def test_a_limit_lowered_below_the_spending_says_that_the_month_is_spent(
    sandbox_of: SandboxOf, at: At
) -> None:
    """No call crosses such a line: the next run sends `tta.budget.exhausted`, once."""
    from tta_dev_primitives.flows.prefect_support import events

    heard: list[str] = []
    sandbox = sandbox_of()
    at(sandbox, enabled=False).run(OPEN, use_case="moderate")
    lowered = at(sandbox, cost_tracking={"budget_limit_usd": 0.0001})
    with events.listening(lambda name, payload: heard.append(name)):
        for task in (OPEN, OPEN + " Briefly."):
            lowered.run(task, use_case="moderate")
    assert heard.count("tta.budget.exhausted") == 1


def test_without_cost_tracking_no_limit_holds(at: At) -> None:
    """`cost_tracking.enabled: false`: spending is still written down, but nothing is refused."""
    workflow = at(enabled=False, cost_tracking={"enabled": False, "budget_limit_usd": 0.0})
    result = workflow.run(OPEN, use_case="moderate")
    assert result.cost_usd > 0
    assert result.budget.limit_usd is None
    assert result.budget.spent_usd == result.cost_usd


def test_the_orchestrator_model_judges(at: At) -> None:
    """Another orchestrator model is the one that is asked for verdicts, at its own price."""
    orchestrator = {"model": "claude-opus-4", "api_key_env": KEY}
    models = {"models": [GEMINI]}
    workflow = at(LONG_ANSWERS, saved="1", orchestrator=orchestrator, fallback_strategy=models)
    result = workflow.run(OPEN, use_case="moderate")
    assert "claude-opus-4" in roles(result, "validate")
    assert any(call.model.startswith("claude-opus-4") for call in workflow.sandbox.calls)


def test_always_validation_judges_every_answer(at: At) -> None:
    """`validation.mode: always`: a paid verdict on the answer; `never`: none, and accepted means checked."""
    always = at(validation={"mode": "always"}).run(OPEN, use_case="moderate")
    assert roles(always, "validate") == [CLAUDE]
    never = at(validation={"mode": "never"}).run(OPEN + "!", use_case="moderate")
    assert roles(never, "validate") == []
    assert never.accepted
    assert never.evidence == "checks"


def test_planning_always_asks_the_orchestrator_for_a_plan(at: At) -> None:
    """`planning: always` pays for a plan; `never` does not."""
    assert roles(at(planning="always").run(OPEN), "plan") == [CLAUDE]
    assert roles(at(planning="never").run(OPEN), "plan") == []


def test_closed_answers_are_compared_between_free_families(at: At) -> None:
    """A question with a number for an answer goes to two free models of different families."""
    result = at().run(
        "A farm has 12 cows. Each gives 3 litres a day. How many litres do they give in a day?",
        use_case="moderate",
    )
    assert {GEMINI, LLAMA} <= {model for model, _ in executed(result)}


def test_the_same_task_is_not_paid_twice(at: At) -> None:
    """A repeated task takes every answer from the store: no call, no cost."""
    workflow = at(enabled=False)
    first = workflow.run(OPEN, use_case="moderate")
    calls = len(workflow.sandbox.calls)
    again = workflow.run(OPEN, use_case="moderate")
    assert again.content == first.content
    assert again.cost_usd == 0
    assert [a.reused for a in again.attempts] == [True]
    assert len(workflow.sandbox.calls) == calls


def test_edited_code_and_a_machine_without_results_pay_for_nothing_twice(
    at: At, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Prefect forgets a result with the task's source, and keeps it on one machine; the answer store does neither."""
    workflow = at(enabled=False)
    first = workflow.run(OPEN, use_case="moderate")
    sent = len(workflow.sandbox.calls)
    original = execute.execute

    async def edited(runtime: Runtime, chain: AttemptChain) -> dict[str, str]:
        served = await original.fn(runtime, chain)
        return dict(served)

    renewed = task(name="execute", retry_condition_fn=original.retry_condition_fn, persist_result=False)(
        edited
    )
    monkeypatch.setattr(execute, "execute", renewed)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.setattr(orchestrate, "result_storage", elsewhere)
    again = workflow.run(OPEN, use_case="moderate")
    assert list(elsewhere.iterdir())
    assert (again.content, again.cost_usd, [a.reused for a in again.attempts]) == (first.content, 0, [True])
    assert len(workflow.sandbox.calls) == sent


@pytest.mark.parametrize(
    ("task", "use_case", "words"),
    [
        ("", None, "empty"),
        ("  \n", None, "empty"),
        ("x" * 1_000_000, None, "bytes"),
        ("Hi", "hard", "use_case"),
    ],
)
def test_a_task_that_cannot_be_run_is_refused_at_once(
    task: str, use_case: str | None, words: str, at: At
) -> None:
    """An empty or huge task or an unknown use case is one clear error before anything is called."""
    workflow = at()
    with pytest.raises(ConfigError, match=words) as caught:
        workflow.run(task, use_case=use_case)
    assert len(str(caught.value)) < 300
    assert workflow.sandbox.calls == []


def test_no_key_for_any_model_names_the_variables(at: At, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without any key the error names the variable to set, and nothing is called."""
    workflow = at(fallback_strategy={"models": [GEMINI, LLAMA, CLAUDE]})
    monkeypatch.setenv(KEY, "your-google-key")
    with pytest.raises(MissingKeyError, match=f"API key not found: .*{KEY}"):
        workflow.run(OPEN, use_case="moderate")
    assert workflow.sandbox.calls == []


async def test_a_repeated_tasks_result_is_persisted_under_its_content_key(at: At) -> None:
    """Prefect's own result store and the answer store share a key: the second run's execute task is Cached."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId

    workflow = at(enabled=False)
    await workflow.execute(OPEN, use_case="moderate")
    again = await workflow.execute(OPEN, use_case="moderate")
    wanted = FlowRunFilter(id=FlowRunFilterId(any_=[UUID(str(again.flow_run_id))]))
    async with get_client() as client:
        for _ in range(1100):
            runs = await client.read_task_runs(flow_run_filter=wanted)
            states = {run.name: run.state_name for run in runs}
            if states.get(f"execute[{CLAUDE}]") == "Cached":
                break
            await asyncio.sleep(0.1)  # task runs reach the server as events
    assert states[f"execute[{CLAUDE}]"] == "Cached"
    assert again.cost_usd == 0
