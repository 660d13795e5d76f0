"""A replay serves what real models once answered, and an oracle judges by what is known of those answers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from sandbox_kit import ask, shared, text_of

from tta_dev_primitives.config.errors import ConfigError
from tta_dev_primitives.deployments.replay.recorded import Record, Replay, judged, read_records
from tta_dev_primitives.deployments.sandbox import Sandbox, parse_scenario

MODELS = {"gemini-2.5-pro": "small", "llama-3.3-70b-versatile": "large", "claude-sonnet-4-5": "judge"}


def record(number: int, question: str, answers: dict[str, tuple[str, bool]]) -> Record:
    """A record in the form of the shared replay data."""
    return Record.model_validate({
        "id": f"r{number}",
        "question": question,
        "prompt": f"## Question\n\n{question}\n\n## Instruction\n\nAnswer in one word.\n",
        "models": {
            name: {"answer": text, "correct": right, "input_tokens": 100 + number, "output_tokens": 7}
            for name, (text, right) in answers.items()
        },
    })  # fmt: skip


RECORDS = [
    record(1, "Which metal is liquid at room temperature, of all the metals?", {
        "small": ("The metal is mercury.", True), "large": ('{\n "answer": "lead"\n}', False), "judge": ("Hg.", True)}),
    record(2, "2 + 2?", {"small": ("four", True), "large": ("five", False)}),
    record(3, "What is 2 + 2? Think of apples.", {"small": ("It is 4.", True), "large": ("It is 5.", False)}),
]  # fmt: skip


def verdict_on(record: Record, answer: str) -> str:
    """A verdict's frame as a judge sees it."""
    return f"<<<task ab>>>\n{record.prompt}\n<<<end>>>\n<<<answer ab>>>\n{answer}\n<<<end>>>\nScore 0 to 1."


SYSTEM = "[tta:verdict/1]\nGrade one answer."
SCHEMA = {"type": "object", "properties": {"score": {"type": "number"}}, "required": ["score"],
          "additionalProperties": False}  # fmt: skip
AS_JSON = {"output_config": {"format": {"type": "json_schema", "schema": SCHEMA}}}


def test_recorded_answers_come_with_their_recorded_tokens() -> None:
    """Each requested model serves its recorded one's text and counts, through its own wire format."""
    with Sandbox(answers=Replay(RECORDS, MODELS)) as sandbox:
        gemini = ask(sandbox, "google-ai-studio", RECORDS[0].prompt)
        groq = ask(sandbox, "groq", f"Please help.\n\n{RECORDS[0].question}  Thanks!")
        assert text_of("google-ai-studio", gemini.json()) == "The metal is mercury."
        assert json.loads(text_of("groq", groq.json())) == {"answer": "lead"}
        assert [(c.usage.input_tokens, c.usage.output_tokens) for c in sandbox.calls] == [(101, 7), (101, 7)]


def test_the_longest_contained_question_is_meant() -> None:
    """A short question inside a longer one does not take its place."""
    replay = Replay(RECORDS, MODELS)
    found = [replay.find(text) for text in (RECORDS[2].prompt, "Now: 2 + 2?", "3 + 3?")]
    assert found == [RECORDS[2], RECORDS[1], None]


@pytest.mark.parametrize(
    ("answer", "score"), [("The metal is mercury.", 0.98), ('{\n "answer": "lead"\n}', 0.05)]
)
@pytest.mark.parametrize("escaped", [False, True])
def test_the_oracle_accepts_what_was_right(answer: str, score: float, escaped: bool) -> None:
    """The answer inside the frame decides, also when the frame holds it as a JSON string."""
    frame = verdict_on(RECORDS[0], json.dumps(answer) if escaped else answer)
    with Sandbox(answers=Replay(RECORDS, MODELS)) as sandbox:
        verdict = ask(sandbox, "anthropic", frame, system=SYSTEM, **AS_JSON)
        assert json.loads(text_of("anthropic", verdict.json())) == {"score": score}


def test_nothing_is_made_up() -> None:
    """An unknown prompt, an unmapped model and an unrecorded answer are the provider's own 400."""
    with Sandbox(answers=Replay(RECORDS, MODELS)) as sandbox:
        unknown = ask(sandbox, "groq", "What is the tallest mountain of the whole wide world?")
        unmapped = ask(sandbox, "openrouter", RECORDS[0].prompt)
        unjudged = ask(sandbox, "anthropic", verdict_on(RECORDS[0], "Copper."), system=SYSTEM, **AS_JSON)
        assert [r.status_code for r in (unknown, unmapped, unjudged)] == [400, 400, 400]
        assert "no recorded prompt" in unknown.json()["error"]["message"]
        assert not any(c.billed for c in sandbox.calls)


def test_rules_go_before_the_replay() -> None:
    """A scenario can disturb a replay: the first call fails, the second is served."""
    rules = parse_scenario("rules: [{times: 1, reply: {error: overloaded}}]")
    with Sandbox(rules, answers=Replay(RECORDS, MODELS)) as sandbox:
        assert [ask(sandbox, "groq", RECORDS[1].prompt).status_code for _ in range(2)] == [503, 200]


def test_wrong_replays_are_refused_at_once(tmp_path: Path) -> None:
    """A model that was never recorded, a broken line, a missing file: one line that names it."""
    with pytest.raises(ConfigError, match="no record of gpt; recorded are judge, large, small"):
        Replay(RECORDS, {"m": "gpt"})
    (tmp_path / "bad.jsonl").write_text('{"prompt": "x", "models": {"m": {"answer": "a"}}}\n{"prompt": 1}\n')
    with pytest.raises(ConfigError, match=r"bad\.jsonl:2: prompt: Input should be a valid string"):
        read_records(tmp_path / "bad.jsonl")
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        read_records(tmp_path / "none.jsonl")


@pytest.mark.parametrize("file", ["gsm8k", "math_l5", "crux", "numersense", "mmlu_pro"])
def test_every_shared_record_is_found_and_judged_as_recorded(file: str) -> None:
    """Each recorded prompt finds its own record, and each answer's verdict is what the record says."""
    records = read_records(shared(f"replay/{file}.jsonl"), limit=100)
    names = sorted(set.intersection(*(set(r.models) for r in records)))
    replay = Replay(records, {n: n for n in names})
    for one in records:
        found = replay.find(f"Do this task.\n\n{one.prompt.strip()}\n\nGood luck.")
        assert found is not None
        assert found.prompt == one.prompt
        for answer in one.models.values():
            if (answer.answer or "").strip():
                assert judged(one, verdict_on(one, answer.answer or "")) == answer.correct
