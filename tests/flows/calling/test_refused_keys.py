"""A key that a provider refuses: out for the run, read anew for the next."""

from __future__ import annotations

import pytest
from sandbox_runs import GEMINI, KEY, LLAMA, At

OPEN = "Describe how a kettle works."


def test_a_key_that_was_replaced_serves_the_very_next_run(at: At, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a refusal the key is read again: no restart, no waiting for what was believed before."""
    workflow = at(
        "rules: [{match: {model: gemini-2.5-pro, nth: 1}, reply: {error: bad_key}}]",
        validation={"mode": "never"},
    )
    first = workflow.run(OPEN, use_case="moderate")
    monkeypatch.setenv(KEY, "sandbox-test-key-after-rotation")
    second = workflow.run(OPEN + " Briefly.", use_case="moderate")
    assert [(a.model, a.outcome) for a in first.attempts if a.role == "execute"] == [
        (GEMINI, "auth"),
        (LLAMA, "ok"),
    ]
    assert [(a.model, a.outcome) for a in second.attempts if a.role == "execute"] == [(GEMINI, "ok")]


def test_the_message_of_a_refused_key_names_its_variable_and_holds_no_key(at: At) -> None:
    """What to fix, in one sentence after the provider's own."""
    workflow = at("rules: [{match: {model: gemini-2.5-pro}, reply: {error: bad_key}}]")
    reason = workflow.run(OPEN, use_case="moderate").attempts[0].reason or ""
    assert f"Check the key in {KEY}" in reason
    assert ".." not in reason
    assert "sandbox-test-key" not in reason
