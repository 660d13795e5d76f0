"""The order in which tasks are sent to the strong model, on RouteLLM's axes."""

from __future__ import annotations

from typing import Any

from tta_dev_primitives.deployments.replay.recorded import Record
from tta_dev_primitives.deployments.replay.router_axes import agreement_curve

WEAK, STRONG = "routellm:mistralai/Mixtral-8x7B-Instruct-v0.1", "routellm:gpt-4-1106-preview"
OTHERS = ("Mixtral-8x7B-Instruct-v0.1", "command-r", "Meta-Llama-3.1-8B-Instruct")
PROMPT = "Tom has 3 apples and buys 4. How many apples has he?"


def record(weak: str, *others: str, weak_right: bool) -> Record:
    """One task: what the weak model and three cheap ones said; the strong one is right."""
    models: dict[str, Any] = {
        name: {"answer": f"The answer is {said}.", "correct": False}
        for name, said in zip(OTHERS, others, strict=True)
    }
    models[WEAK] = {"answer": f"The answer is {weak}.", "correct": weak_right}
    models[STRONG] = {"answer": "The answer is 7.", "correct": True}
    return Record.model_validate({"prompt": PROMPT, "models": models})


def test_answers_that_others_contradict_together_go_to_the_strong_model_first() -> None:
    """Nobody confirms the first two answers; only against the second do the others agree with each other."""
    alone = record("7", "5", "6", "8", weak_right=True)
    contradicted = record("9", "7", "7", "7", weak_right=False)
    confirmed = record("7", "7", "7", "7", weak_right=True)
    curve = agreement_curve([alone, confirmed, contradicted])
    assert curve is not None
    assert curve.accuracy == (2 / 3, 1.0, 1.0, 1.0)


def test_a_weak_answer_that_doubts_itself_goes_before_a_plain_one() -> None:
    """Of two answers that others confirm alike, the broken number is sent first."""
    plain = record("7", "7", "7", "8", weak_right=True)
    broken = record("7.5", "7.5", "7.5", "8", weak_right=False)
    curve = agreement_curve([plain, broken])
    assert curve is not None
    assert curve.accuracy == (0.5, 1.0, 1.0)
