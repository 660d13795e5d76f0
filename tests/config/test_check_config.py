"""`tta check` without the network: what is said, how bad it is, and the remedy."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import pytest

from tta_dev_primitives.config import OrchestrationConfig, load_catalogue, load_orchestration_config
from tta_dev_primitives.config.check import CheckLine, check_config

TODAY = date(2026, 11, 23)
ALL_KEYS = dict.fromkeys(
    ("ANTHROPIC_API_KEY", "GOOGLE_API_KEY", "GROQ_API_KEY", "OPENROUTER_API_KEY"), "hush-0123456789"
)


def check(body: str = "{}", environ: dict[str, str] | None = None) -> list[CheckLine]:
    Path("c.yaml").write_text(f"orchestration: {body}")
    config = load_orchestration_config("c.yaml")
    return check_config(config, load_catalogue(), TODAY, environ=ALL_KEYS if environ is None else environ)


def levels(lines: list[CheckLine], subject: str) -> list[str]:
    return [line.level for line in lines if line.subject == subject]


def test_all_default_models_of_the_guide_are_flagged_today() -> None:
    """Each with the model to name instead; with keys set nothing fails."""
    lines = check()
    for name in [*OrchestrationConfig().fallback_strategy.models, "deepseek/deepseek-r1:free"]:
        warning = next(line for line in lines if line.subject == name and line.level == "warn")
        assert warning.fix is not None
        assert warning.fix.startswith("name ")
    assert not [line for line in lines if line.level == "fail"]


def test_no_key_is_ever_shown() -> None:
    """Whatever the findings."""
    bad = {**ALL_KEYS, "GROQ_API_KEY": "hush 1", "OPENROUTER_API_KEY": "'hush'"}
    lines = check(environ=bad)
    assert levels(lines, "GROQ_API_KEY") == levels(lines, "OPENROUTER_API_KEY") == ["fail"]
    assert "hush" not in repr(lines)


def test_missing_keys() -> None:
    """The orchestrator's is a failure unless nothing plans or validates; an executor's is a warning."""
    lines = check(environ={"GOOGLE_API_KEY": "k-1", "GROQ_API_KEY": "your-groq-key"})
    assert levels(lines, "ANTHROPIC_API_KEY") == ["fail"]
    assert levels(lines, "GROQ_API_KEY") == levels(lines, "OPENROUTER_API_KEY") == ["warn"]
    assert levels(lines, "GOOGLE_API_KEY") == ["ok"]
    quiet = check("{planning: never, validation: {mode: never}}", environ={"GOOGLE_API_KEY": "k-1"})
    assert levels(quiet, "ANTHROPIC_API_KEY") == ["warn"]
    assert levels(check(environ={}), "keys") == ["fail"]


@pytest.mark.parametrize(
    ("body", "subject", "level", "words"),
    [
        ("{fallback_strategy: {models: [no-such]}}", "no-such", "fail", "defines this model"),
        ("{orchestrator: {model: claude-of-tomorrow}}", "claude-of-tomorrow", "fail", "price is not known"),
        ("{executors: []}", "executors", "warn", "no executors"),
        ("{cost_tracking: {enabled: false}}", "cost_tracking", "warn", "no budget holds"),
        ("{orchestrator: {model: gemini-3.8-flash}}", "orchestrator", "warn", "GOOGLE_API_KEY is used"),
        ("{}", "use_cases", "ok", "no executor takes expert"),
        (
            "{executors: [{model: m, provider: groq, api_key_env: GROQ_API_KEY, use_cases: []}]}",
            "m",
            "warn",
            "is never used",
        ),
    ],
)
def test_findings_name_their_subject_and_a_mend(body: str, subject: str, level: str, words: str) -> None:
    """One line, one thing to do."""
    found = [line for line in check(body) if line.subject == subject and words in line.message]
    assert [line.level for line in found] == [level]
    assert found[0].fix


def test_a_local_server_needs_no_key() -> None:
    """openai-compatible without the variable is fine."""
    body = (
        "{allow_private_hosts: true, executors: [{model: m, provider: openai-compatible, billing: free, "
        "base_url: 'http://127.0.0.1:11434/v1', api_key_env: OLLAMA_KEY, use_cases: [simple]}]}"
    )
    assert levels(check(body), "OLLAMA_KEY") == ["ok"]


def test_where_the_settings_come_from(monkeypatch: pytest.MonkeyPatch) -> None:
    """The file and each override; no file at all is a warning."""
    monkeypatch.setenv("TTA_QUALITY_THRESHOLD", "0.9")
    lines = check()
    assert [line.message for line in lines if line.subject == "config"] == [
        f"loaded from {Path('c.yaml').absolute()}",
        "TTA_QUALITY_THRESHOLD overrides orchestration.quality_threshold",
    ]
    bare = check_config(OrchestrationConfig(), load_catalogue(), TODAY, environ=ALL_KEYS)
    assert bare[0].level == "warn"
    assert bare[0].fix == "create one: tta init"


def test_contradictions_made_in_code_are_found() -> None:
    """The loader would have refused them in a file."""
    executor = {"model": "m", "provider": "mistral", "api_key_env": "K", "use_cases": ["simple"]}
    config = OrchestrationConfig.model_validate({"executors": [executor]})
    lines = check_config(config, load_catalogue(), TODAY, environ=ALL_KEYS)
    assert [line.level for line in lines if "billing" in line.message] == ["fail"]
