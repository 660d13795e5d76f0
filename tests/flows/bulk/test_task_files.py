"""Files of tasks are as strict as the configuration: a field that would be dropped in silence is refused."""

from __future__ import annotations

import gzip
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tta_dev_primitives.blocks.ledger.stored_replies import content_key
from tta_dev_primitives.blocks.wire.types import ChatRequest, Message
from tta_dev_primitives.config import load_orchestration_config
from tta_dev_primitives.config.errors import ConfigError
from tta_dev_primitives.config.models.resolve import resolve_targets
from tta_dev_primitives.flows.bulk.output import Output
from tta_dev_primitives.flows.bulk.reader import BrokenLine, Record, input_size, read_records, record_of
from tta_dev_primitives.flows.tasks.result import BudgetView, OrchestrationResult


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({"id": "1", "task": "hi", "usecase": "expert"}, "'usecase'. Did you mean 'use_case'?"),
        ({"id": "1", "task": "hi", "use-case": "expert"}, "Did you mean 'use_case'?"),
        ({"id": "1", "task": "hi", "sytem": "s"}, "Did you mean 'system'?"),
        ({"id": "1", "task": "hi", "system_prompt": "s"}, "Did you mean 'system'?"),
        ({"id": "1", "prompt": "hi"}, "Did you mean 'task'?"),
        ({"ID": "1", "Task": "hi"}, "Did you mean 'id'?"),
        ({"id": "1", "task": "hi", "model": "gpt"}, "stand in the configuration"),
        ({"id": "1", "task": "hi", "max_tokens": 5}, "stand in the configuration"),
        ({"id": "1", "task": "hi", "customer": 5}, "Known: id, task, use_case, system, schema, seed."),
    ],
)
def test_an_unknown_field_is_refused_with_what_was_perhaps_meant(entry: dict[str, Any], said: str) -> None:
    """The line is not run: it would be paid without what the field says."""
    found = record_of(entry, 7)
    assert isinstance(found, BrokenLine)
    assert found.number == 7
    assert said in found.reason
    assert "The task would be paid without it" in found.reason


def test_a_field_that_stands_twice_is_refused(tmp_path: Path) -> None:
    """In JSON one of them would be dropped; in a CSV the header is wrong."""
    (tmp_path / "a.jsonl").write_text('{"id": "1", "task": "a", "task": "b"}\n{"id": "2", "task": "c"}\n')
    first, second = read_records(tmp_path / "a.jsonl")
    assert isinstance(first, BrokenLine)
    assert "'task' stands twice" in first.reason
    assert isinstance(second, Record)
    (tmp_path / "a.csv").write_text("id,task,task\n1,a,b\n")
    with pytest.raises(ConfigError, match="the column 'task' stands twice"):
        list(read_records(tmp_path / "a.csv"))


def test_fields_of_the_users_own_are_copied_when_allowed(tmp_path: Path) -> None:
    """Beside the result, under their own names; a name of the output's own is refused."""
    found = record_of({"id": "1", "task": "hi", "order": {"no": 5}}, 1, allow_extra=True)
    assert isinstance(found, Record)
    month = BudgetView(month="2026-11", limit_usd=None, spent_usd=0, held_usd=0)
    result = OrchestrationResult(
        content="yes", model="m", provider="p", use_case="simple", accepted=True, budget=month
    )
    with Output(tmp_path / "out.jsonl") as output:
        output.write(found, result, None)
    line = json.loads((tmp_path / "out.jsonl").read_text())
    assert (line["id"], line["order"], line["content"]) == ("1", {"no": 5}, "yes")
    taken = record_of({"id": "1", "task": "hi", "model": "gpt"}, 1, allow_extra=True)
    assert isinstance(taken, BrokenLine)
    assert "'model' cannot be copied" in taken.reason


TARGET = resolve_targets(load_orchestration_config(None, use_env_overrides=False))["gemini-2.5-pro"]
TWO = '{"id": "1", "task": "a"}\n{"id": "2", "task": "b"}\n'


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.jsonl.gz", gzip.compress(TWO.encode(), mtime=0)),
        ("a.jsonl", gzip.compress(TWO.encode(), mtime=0)),
        ("a.jsonl", b"\xef\xbb\xbf" + TWO.encode()),
        ("a.csv", b"id;task;use_case\n1;a;simple\n2;b;\n"),
        ("a.csv", b"id\ttask\n1\ta\n2\tb\n"),
        ("a.csv.gz", gzip.compress(b"id,task\n1,a\n2,b\n", mtime=0)),
        ("a.csv", b'id,task\n1,a\n2,"b"\n'),
        ("a.csv", b'\xef\xbb\xbf"id";"task"\r\n1;a\r\n2;b\r\n'),
        ("a.csv", b'id,task,"\tuse_case\t"\n1,a,\n2,b,\n'),
    ],
)
def test_these_forms_are_read(name: str, data: bytes, tmp_path: Path) -> None:
    """Packed files, a mark in front, other separators."""
    file = tmp_path / name
    file.write_bytes(data)
    assert input_size(file) == len(data)
    assert [r.task for r in read_records(file) if isinstance(r, Record)] == ["a", "b"]


@pytest.mark.parametrize(
    ("name", "data", "what", "command"),
    [
        ("a.jsonl", TWO.encode("utf-16"), "UTF-16", "iconv -f UTF-16 -t UTF-8"),
        ("a.csv", "id,task\n1,ä\n".encode("utf-16"), "UTF-16", "iconv -f UTF-16"),
        ("a.jsonl", TWO.encode("utf-16-le"), "UTF-16", "iconv -f UTF-16LE -t UTF-8"),
        ("a.csv", "id,task".encode("utf-16-be"), "UTF-16", "iconv -f UTF-16BE -t UTF-8"),
        ("a.jsonl", TWO.encode("utf-32"), "UTF-32", "iconv -f UTF-32 -t UTF-8"),
        ("a.jsonl", b'{\n "id": "1",\n "task": "a"\n}\n', "JSON over several lines", "jq -c . "),
        ("tasks.jsonl", b"PK\x03\x04abc", "ZIP", "tasks.new.jsonl"),
        ("tasks", b"BZhabc", "bzip2", "tasks.new.jsonl"),
        ("a.json", b' [\n {"id": "1", "task": "a"}]', "one JSON array", "jq -c '.[]'"),
        ("a.parquet", b"PAR1abc", "Parquet", "read_parquet"),
        ("a.xlsx", b"PK\x03\x04abc", "Excel", "CSV"),
        ("a.jsonl.zst", b"\x28\xb5\x2f\xfdabc", "Zstandard", "zstd -dc"),
    ],
)
def test_other_forms_are_refused_by_name_with_the_command_that_converts(
    name: str, data: bytes, what: str, command: str, tmp_path: Path
) -> None:
    """Before a server is started or anything is paid; the command never writes over the file itself."""
    file = tmp_path / name
    file.write_bytes(data)
    with pytest.raises(ConfigError) as caught:
        input_size(file)
    assert what in str(caught.value)
    assert command in str(caught.value)
    assert not re.search(rf"> {re.escape(str(file))}( |$)", str(caught.value))


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.csv", "id,task\n1,Müsli\n2,b\n".encode("cp1252")),
        ("a.jsonl", '{"id": "1", "task": "Müsli"}\n{"id": "2", "task": "b"}\n'.encode("cp1252")),
    ],
)
def test_a_line_of_another_encoding_is_named(name: str, data: bytes, tmp_path: Path) -> None:
    """Windows-1252 looks like UTF-8 until the first letter that is not ASCII."""
    (tmp_path / name).write_bytes(data)
    first, second = read_records(tmp_path / name)
    assert isinstance(first, BrokenLine)
    assert "iconv -f CP1252 -t UTF-8" in first.reason
    assert isinstance(second, Record)


def test_a_damaged_gzip_file_is_a_mistake_of_the_user(tmp_path: Path) -> None:
    """Half a download: the file and what is wrong."""
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(TWO.encode() * 100)[:-20])
    with pytest.raises(ConfigError, match="damaged or not whole"):
        list(read_records(tmp_path / "a.jsonl.gz"))


def test_samples_and_seeds_ask_for_independent_answers(tmp_path: Path) -> None:
    """The same task with another seed is another task: it is asked, stored and paid apart."""
    seeds = '{"id": "3", "task": "a", "seed": 7}\n{"id": "4", "task": "a", "seed": "x"}\n'
    (tmp_path / "a.jsonl").write_text(TWO + seeds)
    plain, _, seeded, wrong = read_records(tmp_path / "a.jsonl")
    assert isinstance(plain, Record)
    assert isinstance(seeded, Record)
    assert plain.digest != seeded.digest
    assert isinstance(wrong, BrokenLine)
    assert "seed: 'x' is not accepted" in wrong.reason
    sampled = [r for r in read_records(tmp_path / "a.jsonl", samples=3) if isinstance(r, Record)]
    assert [r.id for r in sampled[:4]] == ["1#1", "1#2", "1#3", "2#1"]
    assert len({(r.task, r.seed) for r in sampled}) == len(sampled) == 9
    request = ChatRequest(messages=(Message("user", "hi"),))
    keys = {content_key(TARGET, replace(request, seed=seed)) for seed in (None, 1, 2)}
    assert len(keys) == 3
