"""Typed jobs: data in each line, a line's own schema, CSV out, resume, the table of fields."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel
from sandbox_runs import At
from test_typed_runs import answers

from tta_dev_primitives.cli import main
from tta_dev_primitives.config.errors import ConfigError
from tta_dev_primitives.flows.answers.output_type import OutputType
from tta_dev_primitives.flows.bulk.csv_output import cell, write_csv
from tta_dev_primitives.flows.bulk.reader import BrokenLine, Record, read_records, record_of


class Contact(BaseModel):
    name: str
    phone: str
    age: int


GOOD = '{"name": "Ada", "phone": "+49 30 1", "age": 36}'
WRONG_AGE = '{"name": "Ada", "phone": "+49 30 1", "age": 37}'
COLOUR = {"type": "object", "properties": {"colour": {"enum": ["red", "blue"]}}, "required": ["colour"]}


def lines(path: Path, *items: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(item) + "\n" for item in items))
    return path


def table(path: Path) -> list[list[str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


def job(number: int, **more: Any) -> dict[str, Any]:
    return {
        "id": f"n{number}",
        "task": f"Extract the contact of note {number}.",
        "use_case": "simple",
        **more,
    }


async def test_a_job_in_memory_gives_instances_and_takes_schemas_of_its_items(at: At) -> None:
    """`data` is the caller's type; plain JSON where an item has a schema of its own."""
    replies = {"Say the colour": '{"colour": "red"}', "Extract the contact": GOOD}
    rules = [{"match": {"contains": word}, "reply": {"text": text}} for word, text in replies.items()]
    workflow = at(yaml.safe_dump({"rules": rules}))
    own = {"id": "c", "task": "Say the colour.", "use_case": "simple", "schema": COLOUR}
    bad = {"id": "b", "task": "Say the colour.", "schema": {"$ref": "https://example.org/s"}}
    first, second, third = await workflow.execute_bulk([job(1), own, bad], output_type=Contact)
    assert first.data == Contact(name="Ada", phone="+49 30 1", age=36)
    assert first.fields == dict.fromkeys(("name", "phone", "age"), "agreed")
    assert second.data == {"colour": "red"}
    assert third.data is None
    assert "item 3: schema: the reference" in third.warnings[0]


def test_a_lines_own_schema_goes_before_the_jobs(tmp_path: Path) -> None:
    """A wrong one breaks its line only, and the line is named; the digest depends on the schema."""
    file = lines(
        tmp_path / "in.jsonl",
        job(1),
        job(2, schema=COLOUR),
        job(3, schema={"type": "objekt"}),
        job(4, schema=7),
    )
    contact = OutputType.of(Contact)
    plain, own, wrong, number = read_records(file, output=contact)
    assert isinstance(plain, Record)
    assert isinstance(own, Record)
    assert plain.output is contact
    assert own.output is not None
    assert own.output.schema == COLOUR
    assert isinstance(wrong, BrokenLine)
    assert (wrong.number, wrong.reason[:25]) == (3, "schema: not a JSON Schema")
    assert isinstance(number, BrokenLine)
    assert "expected a JSON Schema object, got int" in number.reason
    untyped = record_of(job(1), 1)
    assert isinstance(untyped, Record)
    assert untyped.digest != plain.digest


def test_a_csv_may_hold_schemas_as_text(tmp_path: Path) -> None:
    """An empty cell is no schema."""
    with (tmp_path / "in.csv").open("w", newline="") as file:
        rows = [["id", "task", "schema"], ["1", "a", json.dumps(COLOUR)], ["2", "b", ""], ["3", "c", "{"]]
        csv.writer(file).writerows(rows)
    first, second, third = read_records(tmp_path / "in.csv")
    assert isinstance(first, Record)
    assert first.output is not None
    assert isinstance(second, Record)
    assert second.output is None
    assert isinstance(third, BrokenLine)
    assert third.reason.startswith("schema: not JSON")


def test_the_command_writes_csv_and_resumes(
    at: At,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """One column a field; a second run sends nothing; another schema is refused as a change."""
    workflow = at(answers(gemini=[GOOD], llama=[WRONG_AGE], claude=[GOOD]))
    config = str(workflow.config.source)
    monkeypatch.chdir(tmp_path)
    Path("contact.json").write_text(json.dumps(Contact.model_json_schema()))
    Path("colour.json").write_text(json.dumps(COLOUR))
    Path("in.csv").write_bytes(b'\xef\xbb\xbfid;task\r\nn1;"Extract 1:\r\nAda"\r\nn2;Extract 2\r\n')

    def run(schema: str, out: str) -> tuple[int, dict[str, Any]]:
        with pytest.raises(SystemExit) as ended:
            main(["bulk", "in.csv", "--out", out, "-c", config, "--schema", schema, "--json"])
        return int(ended.value.code or 0), json.loads(capsys.readouterr().out)

    code, report = run("contact.json", "out.csv")
    assert code == 0
    assert report["output"] == "out.csv"
    assert report["fields"]["age"] == {"agreed": 0, "disputed": 2, "corrected": 2, "unchecked": 0}
    assert report["fields"]["name"]["agreed"] == 2
    rows = table(Path("out.csv"))
    assert rows[0] == ["id", "name", "phone", "age", "accepted", "error"]
    assert sorted(rows[1:]) == [[n, "Ada", "'+49 30 1", "36", "true", ""] for n in ("n1", "n2")]
    kept = [json.loads(line) for line in Path("out.csv.jsonl").read_text().splitlines()]
    assert [line["data"] for line in kept] == [json.loads(GOOD)] * 2
    sent, before = len(workflow.sandbox.calls), Path("out.csv").read_bytes()
    code, report = run("contact.json", "out.csv")
    assert (code, report["done_before"], len(workflow.sandbox.calls)) == (0, 2, sent)
    assert Path("out.csv").read_bytes() == before
    code, report = run("colour.json", "out.csv")
    assert code == 2
    assert "tasks changed since they were answered" in report["error"]["message"]
    Path("mine.csv").write_text("a,b\n")
    code, report = run("contact.json", "mine.csv")
    assert (code, Path("mine.csv").read_text()) == (2, "a,b\n")
    assert len(workflow.sandbox.calls) == sent


def test_a_wrong_schema_ends_the_command_before_a_server_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The option and the place are named."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tta_dev_primitives.flows.workflow.MultiModelWorkflow.ready", _never)
    Path("bad.json").write_text('{"type": "object", "properties": {"a": {"$ref": "#/$defs/no"}}}')
    lines(Path("in.jsonl"), job(1))
    with pytest.raises(SystemExit) as ended:
        main(["bulk", "in.jsonl", "--out", "out.jsonl", "--schema", "bad.json"])
    assert ended.value.code == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "--schema bad.json: the reference '#/$defs/no' at #/properties/a finds nothing" in said
    assert not Path("out.jsonl").exists()


async def _never(_: object) -> None:
    raise AssertionError("a server is not needed to read a schema")


@given(st.text() | st.text("=+-@ \t\0\u00a0\ufeff\u200bx"))
def test_no_cell_begins_as_a_formula(text: str) -> None:
    """Whatever a model writes into a text field."""
    shown = cell(text)
    assert not shown.startswith(tuple("=+-@\t\r\n"))
    assert not shown.strip().lstrip("\0\ufeff\u200b").startswith(tuple("=+-@"))
    assert not any(part.strip().startswith(("=", "@")) for part in re.split("[;\t\r\n]", shown))
    assert shown.replace("'", "") == text.replace("'", "")


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        *(
            (f"{unseen}=1", f"'{unseen}=1")
            for unseen in "\xad\u202e\u2066\u180e\u034f\u3164\ufe0f\x7f\u2800\U000e0020"
        ),
        ("﹦1", "'﹦1"),
        ("a;=1", "a;'=1"),
        ("\u1680\U0001d173\U000110bd=1", "'\u1680\U0001d173\U000110bd=1"),
        ('a;"@x"', 'a;\'"@x"'),
        ("a\n-1+cmd|' /C x'!A0", "a\n'-1+cmd|' /C x'!A0"),
        ("a;\t+SUM(1;2)", "a;\t'+SUM(1;2)"),
        ("See:\n- one\n- two; -5", "See:\n- one\n- two; -5"),
        (["b;=1"], '["b;\'=1"]'),
        (-5, "-5"),
        (True, "true"),
    ],
)
def test_a_cell_is_safe_with_other_separators(value: object, shown: str) -> None:
    """A spreadsheet may separate by semicolons; a list item and a negative number are no formula."""
    assert cell(value) == shown


def test_numbers_stay_numbers_and_clashing_names_stay_apart(tmp_path: Path) -> None:
    """Nested fields are dotted, arrays are JSON, a field called `id` does not hide the task's id."""
    schema = {
        "type": "object",
        "properties": {
            "id": {"type": "string"},
            "due": {"type": "number"},
            "who": {"type": "object", "properties": {"name": {"type": "string"}}},
            "tags": {"type": "array"},
        },
    }
    data = {"id": "=1", "due": -2.5, "who": {"name": "@x"}, "tags": ["a"], "=more": True}
    results = lines(
        tmp_path / "out.csv.jsonl",
        {"id": "1", "error": None, "accepted": True, "content": "", "data": data},
        {"id": "2", "error": {"type": "E", "message": "-no"}, "accepted": False, "content": "", "data": None},
    )
    write_csv(results, tmp_path / "out.csv", OutputType.of(schema))
    assert table(tmp_path / "out.csv") == [
        ["id", "data.id", "due", "who.name", "tags", "'=more", "accepted", "error"],
        ["1", "'=1", "-2.5", "'@x", '["a"]', "true", "true", ""],
        ["2", "", "", "", "", "", "false", "'-no"],
    ]


def test_a_schema_problem_in_memory_is_refused_at_once(at: At) -> None:
    """Before a server is asked for."""
    workflow = at(answers(gemini=[GOOD]))
    with pytest.raises(ConfigError, match=r"output_type: .*leaves the schema"):
        workflow.execute_bulk([job(1)], output_type={"$ref": "https://example.org/x"}).send(None)


def test_the_estimate_knows_types(
    at: At,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A typed answer is as long as its fields are many; a schema makes the prompt longer, the answer shorter."""
    config = str(at(answers(gemini=[GOOD])).config.source)
    monkeypatch.chdir(tmp_path)
    Path("contact.json").write_text(json.dumps(Contact.model_json_schema()))
    lines(Path("in.jsonl"), *(job(n, task=f"Explain at length the contact of note {n}.") for n in range(3)))

    def figures(*more: str) -> dict[str, Any]:
        with pytest.raises(SystemExit) as ended:
            main(["estimate", "in.jsonl", "-c", config, "--json", *more])
        assert ended.value.code in (0, None)
        return dict(json.loads(capsys.readouterr().out))

    text, typed = figures(), figures("--schema", "contact.json")
    assert typed["output_tokens"] == 3 * 30
    assert typed["output_tokens"] < text["output_tokens"]
    assert typed["input_tokens"] > text["input_tokens"]
