"""A job's results as CSV: one row a task, one column a field, safe to open in a spreadsheet.

The JSONL file beside it is the job's memory; the CSV is made from it when a run ends, whole or not at all.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tta_dev_primitives.config.errors import ConfigError
from tta_dev_primitives.flows.answers.fields import field_paths
from tta_dev_primitives.flows.answers.output_type import OutputType
from tta_dev_primitives.flows.bulk.output import OutputError, replacing
from tta_dev_primitives.flows.validation.prompt_quoting import is_unseen

_FIRST, _LAST = ("id",), ("accepted", "error")
_ANSWER = "answer"
"""The column of answers that are no objects."""
_EQUALS, _PLUS = "=@＝＠﹦﹫", "+-−＋－﹢﹣"
_OTHER_CELL = re.compile(r"([;\t\r\n])([^;\t\r\n]+)")
"""What is a cell of its own when a spreadsheet separates by semicolons or tabs."""
_CALL = re.compile(r"[(|!\[]")
"""Text inside a cell: a list item or a negative number is none, it calls no function and no other program."""


def is_csv(path: Path) -> bool:
    """Whether results go into a CSV."""
    return path.suffix.lower() == ".csv"


def jsonl_beside(target: Path) -> Path:
    """The JSONL file that keeps what the CSV is made from.

    Raises:
        ConfigError: The CSV is there and is not of such a job: it would be overwritten.
    """
    beside = target.with_name(target.name + ".jsonl")
    if beside.is_symlink():
        raise ConfigError(
            f"{beside}: is a symbolic link; it is not followed. Remove it, or choose another --out."
        )
    if target.is_dir():
        raise ConfigError(f"{target}: is a folder. Give --out the name of a file in it.")
    if target.exists() and target.stat().st_size and not beside.exists():
        raise ConfigError(
            f"{target}: exists and is no output of a job ({beside.name} is not there). Choose another --out."
        )
    return beside


def cell(value: Any) -> str:
    """A value as the text of a cell. A text that a spreadsheet would run gets a leading quote; numbers stay numbers."""
    if value is None:
        return ""
    if isinstance(value, (bool, int, float)):
        return json.dumps(value)
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    text = _OTHER_CELL.sub(lambda found: f"{found[1]}'{found[2]}" if _calls(found[2]) else found[0], text)
    return f"'{text}" if text[:1] in tuple("\t\r\n") or _first(text) in tuple(_EQUALS + _PLUS) else text


def _first(text: str, passed: str = "") -> str:
    """The first character that is seen: a spreadsheet may pass over all others in front of a formula."""
    return next((c for c in text if c not in passed and not is_unseen(c)), "")


def _calls(text: str) -> bool:
    first = _first(text, '"')
    return first in tuple(_EQUALS) or (first in tuple(_PLUS) and _CALL.search(text) is not None)


def write_csv(results: Path, target: Path, schema: OutputType | None) -> None:
    """Write the CSV of a job's JSONL results.

    Args:
        schema: The type of the answers, for the order of the columns; a line's own type adds its fields.

    Raises:
        OutputError: It cannot be written; the JSONL file holds everything.
    """
    columns = dict.fromkeys([] if schema is None else field_paths(schema.schema))
    for line in _lines(results):
        columns |= dict.fromkeys(_cells(line, columns))
    taken = (*_FIRST, *_LAST)
    head = [*_FIRST, *(f"data.{name}" if name in taken else name for name in columns), *_LAST]
    try:
        with replacing(target, "w", encoding="utf-8", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(map(cell, head))
            for line in _lines(results):
                found = _cells(line, columns)
                error = line["error"] and line["error"].get("message")
                row = [line["id"], *(found.get(name) for name in columns), line["accepted"], error]
                rows.writerow(map(cell, row))
    except OSError as error:
        raise OutputError(
            f"{target}: {error.strerror}. {results} holds the results; run the job again to write the CSV."
        ) from error


def _lines(results: Path) -> Iterator[dict[str, Any]]:
    with open(results, "rb") as file:
        for line in file:
            yield json.loads(line)


def _cells(line: Mapping[str, Any], columns: Mapping[str, None]) -> dict[str, Any]:
    """The fields of one result, in the order of its own object; an answer that is no object is one field."""
    if line["error"] is not None:
        return {}
    data = line.get("data")
    if not isinstance(data, Mapping):
        return {_ANSWER: line["content"] if data is None else data}
    return dict(_flat(data, "", columns))


def _flat(value: Any, path: str, columns: Mapping[str, None]) -> Iterator[tuple[str, Any]]:
    """The parts of an object down to what the schema calls a field; absent objects have no parts."""
    if path in columns or not isinstance(value, Mapping) or any("." in str(key) for key in value):
        if value is not None or path in columns:
            yield path, value
        return
    for key, part in value.items():
        yield from _flat(part, f"{path}.{key}" if path else str(key), columns)
