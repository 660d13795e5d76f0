"""Typed tasks through the real flow against the sandbox: data, repair, agreement, errors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel, field_validator
from sandbox_runs import CLAUDE, GEMINI, LLAMA, At

from tta_dev_primitives.cli import main
from tta_dev_primitives.flows import orchestrate
from tta_dev_primitives.orchestration import AllModelsFailedError, ConfigError

TASK = "Extract number and total: invoice A-7, 12.50 EUR."


class Invoice(BaseModel):
    number: str
    total: float

    @field_validator("total")
    @classmethod
    def _positive(cls, total: float) -> float:
        if total <= 0:
            raise ValueError("a total is positive")
        return total


GOOD = '{"number": "A-7", "total": 12.5}'


def answers(**texts: list[str]) -> str:
    """A scenario: each model gives its texts in turn, the last one again and again."""
    names = {"gemini": GEMINI, "llama": LLAMA, "claude": "claude-sonnet-4-5*"}
    rules: list[dict[str, Any]] = []
    for model, replies in texts.items():
        for number, text in enumerate(replies):
            rule: dict[str, Any] = {
                "match": {"model": names[model]},
                "reply": {"text": text},
            }
            rules.append(rule | ({"times": 1} if number < len(replies) - 1 else {}))
    return yaml.safe_dump({"rules": rules})


def test_answers_that_fill_the_same_fields_agree(at: At) -> None:
    """`data` is an instance of the caller's type, `content` its JSON; white space and spelling do not count."""
    fenced = "```json\n" + GOOD.replace("12.5", "12.50") + "\n```"
    workflow = at(answers(gemini=[GOOD], llama=[fenced], claude=[GOOD]))
    result = workflow.run(TASK, use_case="simple", output_type=Invoice)
    assert isinstance(result.data, Invoice)
    assert result.data == Invoice(number="A-7", total=12.5)
    assert json.loads(result.content) == result.model_dump(mode="json")["data"] == json.loads(GOOD)
    assert result.fields == {"number": "agreed", "total": "agreed"}
    assert result.accepted
    assert {a.outcome for a in result.attempts} == {"ok"}


def test_an_invalid_answer_goes_back_once_with_its_fault(at: At) -> None:
    """The same model repairs its answer; both are attempts, and the fault is named with path and reason."""
    wrong = '{"number": "A-7", "total": -1}'
    workflow = at(answers(gemini=[wrong, GOOD], llama=[GOOD], claude=[GOOD]))
    result = workflow.run(TASK, use_case="simple", output_type=Invoice)
    gemini = [a for a in result.attempts if a.model == GEMINI]
    assert [a.outcome for a in gemini] == ["wrong_format", "ok"]
    assert gemini[0].reason is not None
    assert gemini[0].reason.startswith("total: Value error, a total is positive")
    assert result.data == Invoice(number="A-7", total=12.5)


def test_no_valid_answer_is_an_error_with_each_fault(at: At) -> None:
    """Nothing that is not of the type is ever delivered."""
    workflow = at(answers(gemini=["no"], llama=['{"number": 7}'], claude=['{"total": 1}']))
    with pytest.raises(AllModelsFailedError) as caught:
        workflow.run(TASK, use_case="simple", output_type=Invoice)
    assert {a.outcome for a in caught.value.attempts} == {"wrong_format"}
    reasons = {a.model: a.reason for a in caught.value.attempts}
    assert reasons[LLAMA].startswith("number: Input should be a valid string, got 7")
    assert reasons[CLAUDE].startswith("number: Field required")


async def test_the_flow_takes_a_schema_and_gives_plain_json(at: At) -> None:
    """`output_schema` is a flow parameter: a JSON form in the Prefect UI."""
    workflow = at(answers(gemini=[GOOD], llama=[GOOD], claude=[GOOD]))
    result = await orchestrate(
        TASK, "simple", config_path=str(workflow.config.source), output_schema=Invoice.model_json_schema()
    )
    assert result.data == json.loads(GOOD)


def test_the_command_line_takes_a_schema_file_or_a_model(
    at: At,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """`--schema invoice.json` and `--schema module:Model`; a file that is no schema is a usage error."""
    config = str(at(answers(gemini=[GOOD], llama=[GOOD], claude=[GOOD])).config.source)
    monkeypatch.chdir(tmp_path)
    Path("invoice.json").write_text(json.dumps(Invoice.model_json_schema()))
    Path("shapes_of_mine.py").write_text(
        "from dataclasses import dataclass\n@dataclass\nclass I:\n    number: str\n    total: float\n"
    )
    Path("bad.json").write_text('{"type": "objekt"}')
    for schema, code in (
        ("invoice.json", 0),
        ("shapes_of_mine:I", 0),
        ("bad.json", 2),
        ("no.json", 2),
        ("json:No", 2),
    ):
        with pytest.raises(SystemExit) as ended:
            main(["run", TASK, "-u", "simple", "-c", config, "--schema", schema, "--json"])
        assert ended.value.code == code, schema
        out = json.loads(capsys.readouterr().out)
        assert out.get("data") == (json.loads(GOOD) if code == 0 else None)


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        ({"$ref": "https://example.org/x"}, "leaves the schema"),
        ({"type": "no"}, "not a JSON Schema"),
        (print, "cannot be"),
    ],
)
def test_a_wrong_type_is_refused_before_anything_is_sent(wanted: Any, said: str, at: At) -> None:
    """The message names the argument; no provider was called."""
    workflow = at(answers(gemini=[GOOD]))
    with pytest.raises(ConfigError, match=f"output_type: .*{said}"):
        workflow.run(TASK, use_case="simple", output_type=wanted)
    assert workflow.sandbox.calls == []
