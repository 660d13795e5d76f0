"""A model that its provider no longer serves: who serves instead, and how loudly that is said.

The configurations name no `base_url`, as the guide's do: the providers' own hosts are answered by a sandbox.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sandbox_runs import CLAUDE, GEMINI, KEY_VALUE, LLAMA, At, ToSandbox, workflow_of

from tta_dev_primitives.blocks.prefect_server.manager import ServerInfo
from tta_dev_primitives.deployments.sandbox import Sandbox
from tta_dev_primitives.flows.calling import services
from tta_dev_primitives.flows.calling.sync_loop import wait_for
from tta_dev_primitives.flows.prefect_support import events
from tta_dev_primitives.orchestration import MultiModelWorkflow, OrchestrationResult

OPEN = "Describe how a kettle works."
KEYS = ("ANTHROPIC_API_KEY", "GOOGLE_API_KEY", "GROQ_API_KEY", "OPENROUTER_API_KEY")
UNJUDGED: dict[str, Any] = {"validation": {"mode": "never"}}
"""The first free answer that passes the local checks is delivered."""
FLASH, GPT_OSS, SONNET = "gemini-3.8-flash", "openai/gpt-oss-120b", "claude-sonnet-5-5"


def gone(*models: str) -> str:
    """A scenario in which these API models are no longer served."""
    return "models: {" + ", ".join(f"'{model}': {{gone: true}}" for model in models) + "}"


def guide_config(folder: Path, **changes: Any) -> dict[str, Any]:
    """The guide's full example, with a ledger of its own."""
    return {
        "planning": "never",
        "orchestrator": {"model": CLAUDE, "api_key_env": "ANTHROPIC_API_KEY"},
        "executors": [
            {
                "model": GEMINI,
                "provider": "google-ai-studio",
                "api_key_env": "GOOGLE_API_KEY",
                "use_cases": ["moderate", "complex"],
            },
            {
                "model": LLAMA,
                "provider": "groq",
                "api_key_env": "GROQ_API_KEY",
                "use_cases": ["simple", "speed-critical"],
            },
            {
                "model": "deepseek/deepseek-r1:free",
                "provider": "openrouter",
                "api_key_env": "OPENROUTER_API_KEY",
                "use_cases": ["complex", "reasoning"],
            },
        ],
        "fallback_strategy": {"models": [GEMINI, LLAMA, CLAUDE]},
        "cost_tracking": {"ledger_url": f"sqlite:///{folder / 'ledger.db'}"},
        **changes,
    }


@pytest.fixture
def served(
    sandbox_of: Callable[..., Sandbox],
    prefect_server: ServerInfo,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[..., tuple[MultiModelWorkflow, Sandbox]]:
    """The guide's configuration, the providers' hosts answered by a sandbox with this scenario."""
    for name in KEYS:
        monkeypatch.setenv(name, KEY_VALUE)

    def serve(scenario: str = "", **changes: Any) -> tuple[MultiModelWorkflow, Sandbox]:
        sandbox = sandbox_of(scenario)
        monkeypatch.setattr(services, "ProviderClient", lambda: ToSandbox(sandbox.url))
        return workflow_of(guide_config(tmp_path, **changes), tmp_path), sandbox

    return serve


def attempts(result: OrchestrationResult, role: str = "execute") -> list[tuple[str, str]]:
    """Model and outcome of each attempt in a role, in order."""
    return [(a.model, a.outcome) for a in result.attempts if a.role == role]


def heard(run: Callable[[], OrchestrationResult]) -> tuple[OrchestrationResult, list[dict[str, Any]]]:
    """The result of a run and its events `tta.model.retired`."""
    told: list[dict[str, Any]] = []
    with events.listening(
        lambda name, said: told.append(dict(said)) if name == "tta.model.retired" else None
    ):
        return run(), told


def test_a_model_that_is_gone_is_replaced_in_the_same_run(served: Any) -> None:
    """The catalogue's replacement of the same provider answers at once, is named in a warning and in an event."""
    workflow, _ = served(gone(GEMINI), **UNJUDGED)
    result, told = heard(lambda: workflow.run(OPEN, use_case="moderate"))
    assert attempts(result) == [(GEMINI, "model_gone"), (FLASH, "ok")]
    assert (result.model, result.provider) == (FLASH, "google-ai-studio")
    assert any(w.startswith(f"{GEMINI} is gone: {FLASH}") for w in result.warnings)
    assert [(t["model"], t["replacement"], t["role"]) for t in told] == [(GEMINI, FLASH, "execute")]
    assert result.attempts[1].billing == "free"
    assert result.attempts[1].cost_usd == 0


def test_the_answer_gone_is_remembered_for_a_day(served: Any) -> None:
    """The next run asks the replacement first and says again what it stands in for."""
    workflow, sandbox = served(gone(GEMINI), **UNJUDGED)
    workflow.run(OPEN, use_case="moderate")
    sandbox.calls.clear()
    result = workflow.run(OPEN + " Briefly.", use_case="moderate")
    assert attempts(result) == [(FLASH, "ok")]
    assert GEMINI not in {call.model for call in sandbox.calls}
    assert any(w.startswith(f"{GEMINI} is gone: {FLASH}") for w in result.warnings)


def test_skip_goes_to_the_next_model(served: Any) -> None:
    """`on_retired: skip`: nothing stands in; the warning says why, the event names no replacement."""
    workflow, _ = served(gone(GEMINI), on_retired="skip", **UNJUDGED)
    result, told = heard(lambda: workflow.run(OPEN, use_case="moderate"))
    assert attempts(result) == [(GEMINI, "model_gone"), (LLAMA, "ok")]
    assert any(GEMINI in w and "on_retired is skip" in w for w in result.warnings)
    assert [t["replacement"] for t in told] == [None]


def test_a_replacement_that_is_gone_too_gives_way_to_the_next_model(served: Any) -> None:
    """When the replacement is refused as well, the candidates of the file go on in their order."""
    workflow, _ = served(gone(GEMINI, FLASH), **UNJUDGED)
    result = workflow.run(OPEN, use_case="moderate")
    assert attempts(result) == [(GEMINI, "model_gone"), (FLASH, "model_gone"), (LLAMA, "ok")]


def test_a_free_model_is_never_replaced_by_a_paid_one(served: Any) -> None:
    """Every model that ran while the free models were gone and the budget was nothing was free."""
    workflow, _ = served(
        gone(GEMINI, LLAMA, "deepseek/deepseek-r1:free"),
        cost_tracking={"budget_limit_usd": 0.0},
        executors=[
            {
                "model": "deepseek/deepseek-r1:free",
                "provider": "openrouter",
                "api_key_env": "OPENROUTER_API_KEY",
                "use_cases": ["complex"],
            }
        ],
    )
    result = workflow.run(OPEN, use_case="complex")
    assert result.model == "openai/gpt-oss-120b:free"
    assert {a.billing for a in result.attempts} == {"free"}


@pytest.mark.parametrize("mode", ["always", "adaptive"])
def test_the_orchestrators_replacement_judges_and_solves(served: Any, mode: str) -> None:
    """A gone orchestrator's verdicts and solutions come from its replacement, in the same run, at its price."""
    scenario = gone("claude-sonnet-4-5") + (
        "\nrules: [{match: {prompt: verdict}, reply: {json: {score: 0.1, reason: wrong}}}]"
    )
    workflow, _ = served(scenario, validation={"mode": mode}, fallback_strategy={"models": [GEMINI]})
    result, told = heard(lambda: workflow.run(OPEN, use_case="moderate"))
    assert (result.model, result.evidence) == (SONNET, "paid")
    assert [t["replacement"] for t in told] == [SONNET]
    asked = {a.model for a in result.attempts if a.provider == "anthropic" and a.outcome == "ok"}
    assert asked == {SONNET}
    assert result.cost_usd > 0
    assert result.baseline_cost_usd > 0


def test_the_orchestrators_replacement_plans(served: Any) -> None:
    """A plan that the gone orchestrator was asked for comes from its replacement."""
    workflow, _ = served(gone("claude-sonnet-4-5"), planning="always")
    result = workflow.run(OPEN, use_case="moderate")
    assert attempts(result, "plan") == [(CLAUDE, "model_gone"), (SONNET, "ok")]
    assert not any("planned locally" in w for w in result.warnings)


def test_disabled_orchestration_asks_the_replacement(served: Any) -> None:
    """`enabled: false` goes straight to the orchestrator; when that is gone, to its replacement."""
    workflow, _ = served(gone("claude-sonnet-4-5"), enabled=False)
    for _ in range(2):
        assert workflow.run(OPEN, use_case="moderate").model == SONNET


@pytest.mark.parametrize("use_case", ["simple", "moderate", "complex", "reasoning"])
def test_the_guides_file_works_when_all_its_models_are_gone(served: Any, use_case: str) -> None:
    """In December 2026 none of the guide's five models is served: its file still brings accepted answers."""
    everything = (GEMINI, LLAMA, "claude-sonnet-4-5", "claude-opus-4-0", "deepseek/deepseek-r1:free")
    workflow, _ = served(gone(*everything))
    result = workflow.run(OPEN, use_case=use_case)
    assert result.accepted
    assert result.model in (FLASH, GPT_OSS, "openai/gpt-oss-120b:free", SONNET)


def test_every_run_warns_of_models_that_retire_and_names_their_replacement(served: Any) -> None:
    """Retired or retiring within 30 days: the result says which model, when, and what to name instead."""
    workflow, _ = served()
    warnings = workflow.run(OPEN, use_case="moderate").warnings
    for model, instead in (
        (CLAUDE, SONNET),
        (LLAMA, GPT_OSS),
        ("deepseek/deepseek-r1:free", "openai/gpt-oss-120b:free"),
    ):
        assert any(model in w and f"replacement: {instead}" in w for w in warnings), model


def test_a_refused_key_puts_its_provider_out_for_the_run(served: Any) -> None:
    """After a 401 no other model of that key is called; the attempts still say what was passed over and why."""
    executors = [
        {
            "model": model,
            "provider": "google-ai-studio",
            "api_key_env": "GOOGLE_API_KEY",
            "use_cases": ["moderate"],
        }
        for model in (GEMINI, FLASH)
    ]
    workflow, sandbox = served(
        "rules: [{match: {provider: google-ai-studio}, reply: {error: bad_key}}]",
        executors=executors,
        **UNJUDGED,
    )
    result = workflow.run(OPEN, use_case="moderate")
    assert attempts(result) == [(GEMINI, "auth"), (FLASH, "auth"), (LLAMA, "ok")]
    assert len([c for c in sandbox.calls if c.provider == "google-ai-studio"]) == 1


def test_a_model_at_an_address_of_its_own_is_never_replaced(at: At) -> None:
    """With a `base_url` the catalogue's replacement may not exist there: the next model serves."""
    result = at(gone(GEMINI), **UNJUDGED).run(OPEN, use_case="moderate")
    assert attempts(result) == [(GEMINI, "model_gone"), (LLAMA, "ok")]
    assert any(GEMINI in w and "base_url" in w for w in result.warnings)


def test_a_bulk_job_asks_a_gone_model_once(served: Any) -> None:
    """What the first task found out holds for the others; each result says what stood in."""
    workflow, sandbox = served(gone(GEMINI), **UNJUDGED)
    items = [{"id": str(n), "task": f"{OPEN} Take {n}.", "use_case": "moderate"} for n in range(5)]
    results = wait_for(workflow.execute_bulk(items, concurrency=1))
    assert {r.model for r in results} == {FLASH}
    assert all(any(f"{GEMINI} is gone: {FLASH}" in w for w in r.warnings) for r in results)
    assert len([c for c in sandbox.calls if c.model == GEMINI]) == 1
