"""The local classifier: what it tells apart, and how far that can be trusted."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from replay_data import replay_folder

from tta_dev_primitives.config.options import USE_CASES
from tta_dev_primitives.flows.planning.local_classifier import answer_format, classify, is_compound, is_long


@pytest.mark.parametrize(
    ("task", "use_case"),
    [
        ("What is the capital of France?", "simple"),
        ("Who wrote Faust?", "simple"),
        ("Summarize this article about the harbour in three sentences.", "moderate"),
        ("Analyze the tone of the letter below and compare it with the first one.", "moderate"),
        ("A baker sells 12 rolls at 3 coins each. He gives 2 away. How many coins does he get?", "moderate"),
        ("Work out step by step a strategy for moving the warehouse, with its trade-offs.", "complex"),
        ("Write a Python function that merges two sorted lists.", "expert"),
        ("def f(x):\n    return x + 1\nWhat does f(3) return?", "expert"),
        ("Prove that the square root of two is irrational.", "reasoning"),
        ("Find all integers $n$ such that $n^2 + 1$ is divisible by 5.", "reasoning"),
        ("ASAP, in real time: autocomplete this sentence.", "speed-critical"),
    ],
)
def test_plain_tasks_are_told_apart_and_sure(task: str, use_case: str) -> None:
    """Tasks with plain cues get the guide's use case, with enough sureness to skip the planner."""
    guess = classify(task)
    assert (guess.use_case, guess.sure) == (use_case, True)


@pytest.mark.parametrize("task", ["", "Hm.", "Zażółć gęślą jaźń", "lorem ipsum " * 20])
def test_a_text_without_cues_is_not_sure(task: str) -> None:
    """Where nothing speaks for a use case the guess says so."""
    assert not classify(task).sure


@pytest.mark.parametrize(
    ("task", "compound"),
    [
        ("1. Summarize the report.\n2. Translate it.\n3. List the names.", True),
        ("Research the market, then write a plan; then draft an e-mail. Finally, list the risks.", True),
        ("Research the market. Write a plan. Draft an e-mail to the board.", True),
        ("- Explain the bug\n- Write a fix\n- Test it", True),
        ("Write a poem about the sea.", False),
        ("Which is right?\n(A) list\n(B) plan\n(C) test", False),
        ("Tom finds 3 shells. Then he gives 2 away. He makes 4 more. How many has he?", False),
    ],
)
def test_compound_tasks_ask_for_three_or_more_things(task: str, compound: bool) -> None:
    """Several orders are parts of a compound task; options and stories are not."""
    assert is_compound(task) is compound


@pytest.mark.parametrize(
    ("task", "fmt"),
    [
        ("Tom has 3 apples and buys 4. How many has he?", "number"),
        ("Pick one:\nA. red\nB. blue", "choice"),
        ("Is the earth flat? Answer yes or no.", "boolean"),
        ("Return a JSON object with the names.", "json"),
        ("Classify the mail. Reply with one of: spam, ham.", "short"),
        ("Show your final answer in the `answer` field. What is the colour?", "short"),
        ("assert f('a') == ??", "literal"),
        ("Write an essay about 3 cats and 4 dogs.", "open"),
        ("Why is the sky blue?", "open"),
        ("What is the capital of France?", "open"),
    ],
)
def test_the_answer_format_is_read_from_the_task(task: str, fmt: str) -> None:
    """Closed formats are named only where the text is plain about them."""
    assert answer_format(task) == fmt


MINUTES = """The council met on Monday. The question on the ballot is true/false for some and yes or no for most.
Return the form as JSON, said the clerk. How many of the 300 voters and 20 clerks will come was left open.
The label of the box is one of red or blue, in one word. A. Lights
B. Doors
assert f(2) == ?? was the riddle of the day. The cost was not named. The weather was fine.
It was agreed that the minutes are sent to all members."""


@pytest.mark.parametrize(
    "task",
    [
        f"Summarize the minutes below in two sentences.\n\n{MINUTES}",
        f"{MINUTES}\n\nWrite a headline for these minutes.",
        f"Give me the gist.\n\n```\n{MINUTES}\nAnswer yes or no.\n```",
        f"Give me the gist.\n\n<minutes>\nTrue or false? Return as JSON.\n{MINUTES}\n</minutes>",
        "Give me the gist of this mail:\n> Hello,\n> please answer yes or no.\n> Return it as JSON.",
        'What did she mean by "please answer yes or no, and only as JSON"?',
        "What did she mean by “please answer yes or no”?",
    ],
)
def test_the_text_that_a_task_is_about_names_no_format(task: str) -> None:
    """Only the instruction says how to answer: not a pasted document, a quotation, a fenced or tagged block."""
    assert answer_format(task) == "open"


@pytest.mark.parametrize(
    ("task", "fmt"),
    [
        (f"Does the council want a bridge? Answer yes or no.\n\n{MINUTES}", "boolean"),
        (f"{MINUTES}\n\nExtract the names and return them as JSON.", "json"),
        (f"Which colour has the box? Reply with one word.\n\n```\n{MINUTES}\n```", "short"),
    ],
)
def test_an_instruction_beside_a_document_names_the_format(task: str, fmt: str) -> None:
    """The first and the last sentences are the instruction."""
    assert answer_format(task) == fmt


def test_the_system_text_may_name_the_format() -> None:
    """A caller who says how to answer once, for all tasks, is heard."""
    assert answer_format("Explain the mail.", "You sort mail. Answer with yes or no.") == "boolean"


@given(st.text(max_size=300))
def test_any_text_gets_a_use_case_of_the_guide(task: str) -> None:
    """The classifier is total and deterministic."""
    guess = classify(task)
    assert guess == classify(task)
    assert answer_format(task) == answer_format(task)
    assert guess.use_case in USE_CASES
    assert 0 <= guess.sureness <= 1
    assert is_long(task) in (True, False)


FLOORS = {
    "gsm8k": 0.95,
    "crux": 0.95,
    "math_l5": 0.75,
    "numersense": 0.8,
    "mmlu_pro": 0.88,
    "mmlu_pair": 0.95,
    "mt_bench": 0.45,
}


@pytest.mark.parametrize("corpus", FLOORS)
def test_accuracy_on_recorded_tasks_does_not_fall(corpus: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Measured against the corpora's own labels, which are one label a corpus: recognising a kind, not judging it."""
    path: Path = replay_folder() / f"{corpus}.jsonl"
    confusion: Counter[tuple[str, str]] = Counter()
    sure = 0
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            row = json.loads(line)
            guess = classify(row["prompt"])
            confusion[row["use_case"], guess.use_case] += 1
            sure += guess.sure
    right = sum(n for (is_, said), n in confusion.items() if is_ == said)
    with capsys.disabled():
        print(f"\n{corpus}: {right}/{confusion.total()}, sure {sure}, {dict(confusion)}", end="")
    assert right / confusion.total() >= FLOORS[corpus]
