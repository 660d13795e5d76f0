"""Reading the tasks of a job from JSONL or CSV, one at a time: the file may be larger than memory, and still growing.

A line that cannot be used becomes a `BrokenLine` with its number and reason; the lines after it are read all the same.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import stat
import zlib
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from hashlib import blake2b
from itertools import chain
from pathlib import Path
from typing import IO, Any, TypeAlias, TypeVar, cast

from tta_dev_primitives.config.errors import ConfigError
from tta_dev_primitives.config.options import USE_CASES
from tta_dev_primitives.flows.answers.output_type import OutputType
from tta_dev_primitives.flows.bulk.file_forms import (
    delimiter_of,
    not_utf8,
    opened,
    refuse_other_forms,
    table_suffix,
)
from tta_dev_primitives.flows.bulk.task_fields import (
    FIELDS,
    Doubled,
    own_fields,
    unique_fields,
    unknown_field,
)
from tta_dev_primitives.flows.tasks.request import MAX_TASK_BYTES, check_task

_MOST_LINE = 4 * MAX_TASK_BYTES
_MOST_ID = 512
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Record:
    """One task of a job."""

    number: int
    """Its line in the input, from 1; its place among the items when there is no file."""
    id: str
    task: str
    use_case: str | None = None
    system: str | None = None
    output: OutputType | None = None
    """The type of its answer, its own or the job's; None: text."""
    seed: int | None = None
    """Which of several independent answers of the same task this is."""
    extra: Mapping[str, Any] = field(default_factory=dict, compare=False)
    """Fields of the user's own, which are copied to the output."""

    @property
    def digest(self) -> str:
        """What an answer depends on: changes when text, use case, system text or schema change."""
        parts = [self.task, self.use_case, self.system]
        parts += [] if self.output is None else [self.output.digest]
        parts += [] if self.seed is None else [f"seed {self.seed}"]
        return blake2b(json.dumps(parts, separators=(",", ":")).encode(), digest_size=8).hexdigest()


@dataclass(frozen=True, slots=True)
class BrokenLine:
    """A line that is not run, and why."""

    number: int
    reason: str
    id: str | None = None
    """Its id, when that could be read."""
    use_case: str | None = None
    """The use case that it names, when that is one."""


def check_items(items: object) -> None:
    """Refuse what is clearly no collection of tasks, before anything is started.

    Raises:
        ConfigError: It is a text, a path, one task alone, or holds something else than mappings.
    """
    expected = 'a list of tasks such as [{"id": "1", "task": "Summarize ..."}]'
    if isinstance(items, (str, bytes, os.PathLike)):
        missing = "" if os.path.exists(items) else " (and there is no such file)"
        raise ConfigError(
            f"execute_bulk: expected {expected}, got {items!r:.80}{missing}. "
            "A file of tasks is run with `tta bulk FILE --out OUT`, or the flow orchestrate_bulk."
        )
    if isinstance(items, Mapping):
        raise ConfigError(f"execute_bulk: expected {expected}, got one mapping. Put it into a list.")
    if not isinstance(items, (Iterable, AsyncIterable)):
        raise ConfigError(f"execute_bulk: expected {expected}, got {type(items).__name__}.")
    if not isinstance(items, Sequence):
        return  # a stream: each of its items is looked at when it comes
    for number, item in enumerate(items, start=1):
        if not isinstance(item, Mapping):
            raise ConfigError(
                f"execute_bulk: item {number} is {type(item).__name__}, not a task. Expected {expected}."
            )


async def streamed(items: Iterable[T] | AsyncIterable[T]) -> AsyncIterator[T]:
    """The items, whichever way they come."""
    if isinstance(items, AsyncIterable):
        async for item in items:
            yield item
    else:
        for item in items:
            yield item


def record_of(
    entry: object, number: int, output: OutputType | None = None, *, allow_extra: bool = False
) -> Record | BrokenLine:
    """Check one task: a mapping with `id` and `task`, and optional `use_case`, `system` and `schema`.

    Args:
        number: Its line, or its place among the items.
        output: The type of its answer, when it has no schema of its own.
        allow_extra: Take fields of the user's own; else an unknown field is refused.
    """
    if not isinstance(entry, Mapping):
        return BrokenLine(number, f'expected an object with "id" and "task", got {entry!r:.60}')
    found = cast(Mapping[str, Any], entry)
    identity = str(found["id"]) if isinstance(found.get("id"), (str, int)) else None
    extra, wrong = own_fields(found) if allow_extra else ({}, unknown_field(found))
    if wrong is not None:
        return BrokenLine(number, wrong, identity)
    name = found.get("id")
    if isinstance(name, bool) or not isinstance(name, (str, int)) or not str(name).strip():
        return BrokenLine(number, 'no "id": give each task a text or a whole number of its own')
    identity = str(name)
    if len(identity) > _MOST_ID:
        return BrokenLine(number, f'"id" is longer than {_MOST_ID} characters')
    use_case, system = found.get("use_case") or None, found.get("system") or None
    try:
        identity.encode()
        check_task(found.get("task"), use_case, system)
        output = _own_type(found.get("schema")) or output
        seed = _seed_of(found.get("seed"))
    except (ConfigError, UnicodeEncodeError, TypeError) as error:
        return BrokenLine(number, str(error), identity, use_case if use_case in USE_CASES else None)
    return Record(number, identity, found["task"], use_case, system, output, seed, extra)


def _seed_of(value: object) -> int | None:
    """A whole number; a CSV has it as text, and an empty cell is none."""
    if value is None or value == "":
        return None
    number = int(value) if isinstance(value, str) and value.strip().isdecimal() else value
    if type(number) is not int or not 0 <= number < 2**53:
        raise ConfigError(f"seed: {value!r:.80} is not accepted. Expected a whole number.")
    return number


def _own_type(schema: object) -> OutputType | None:
    """The type that a task's own schema says; a CSV has it as JSON text."""
    if schema is None or schema == "":
        return None
    if isinstance(schema, str):
        return _type_of(schema)
    if not isinstance(schema, Mapping):
        raise ConfigError(f"schema: expected a JSON Schema object, got {type(schema).__name__}.")
    try:
        text = json.dumps(schema)
    except (TypeError, ValueError, RecursionError) as error:
        raise ConfigError(f"schema: not plain JSON: {error}") from None
    return _type_of(text)


@lru_cache(maxsize=64)
def _type_of(text: str) -> OutputType:
    """The type of a schema's text, made once: the tasks of a file mostly share a few schemas."""
    try:
        schema = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"schema: not JSON: {error}") from None
    if not isinstance(schema, Mapping):
        raise ConfigError(f"schema: expected a JSON Schema object, got {type(schema).__name__}.")
    return OutputType.of(schema, name="schema")


def input_size(path: Path) -> int:
    """Bytes of the input as it is now.

    Raises:
        ConfigError: It is missing, no regular file, not readable, or neither JSONL nor CSV.
    """
    try:
        found = os.stat(path)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}. Give the file of tasks, JSONL or CSV.") from None
    if not stat.S_ISREG(found.st_mode):
        raise ConfigError(
            f"{path}: not a regular file. Save the tasks to a file first: a job can be run again."
        )
    if not os.access(path, os.R_OK):
        raise ConfigError(f"{path}: permission denied.")
    refuse_other_forms(path)
    return found.st_size


def read_records(
    path: Path,
    *,
    output: OutputType | None = None,
    allow_extra: bool = False,
    samples: int = 1,
) -> Iterator[Record | BrokenLine]:
    """Every task of the file in order, holding one line at a time.

    Args:
        path: A `.csv` or `.tsv` with a header row, else JSONL; each may be gzip.
        output: The type of the answers, where a line has no schema of its own.
        allow_extra: Take fields of the user's own.
        samples: Independent answers of each task; beyond 1 their ids end with `#1`, `#2` and so on.

    Raises:
        ConfigError: The CSV header lacks `id` or `task`, or names a column twice.
    """
    with opened(path) as source:
        entries = _csv if table_suffix(path) in (".csv", ".tsv") else _jsonl
        try:
            for number, entry in entries(path, source):
                if isinstance(entry, str):
                    yield BrokenLine(number, entry)
                else:
                    yield from _samples(record_of(entry[0], number, output, allow_extra=allow_extra), samples)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise ConfigError(f"{path}: the gzip file is damaged or not whole ({error}).") from None


def _samples(record: Record | BrokenLine, count: int) -> Iterator[Record | BrokenLine]:
    """The record, or so many of it with seeds of their own."""
    if count == 1 or isinstance(record, BrokenLine):
        yield record
        return
    for number in range(1, count + 1):
        yield replace(record, id=f"{record.id}#{number}", seed=(record.seed or 0) * count + number)


_Entry: TypeAlias = tuple[int, str | tuple[object]]
"""A line's number with what it holds, or why it cannot be read."""


def _jsonl(path: Path, source: IO[bytes]) -> Iterator[_Entry]:
    number = 0
    while line := source.readline(_MOST_LINE):
        number += 1
        if not line.endswith(b"\n") and len(line) >= _MOST_LINE:
            while line and not line.endswith(b"\n"):
                line = source.readline(_MOST_LINE)
            yield number, f"longer than {_MOST_LINE:,} bytes"
            continue
        text = line.removeprefix(b"\xef\xbb\xbf").strip() if number == 1 else line.strip()
        if text:
            yield number, _json_line(text, path)


def _json_line(text: bytes, path: Path) -> str | tuple[object]:
    try:
        return (json.loads(text.decode("utf-8"), object_pairs_hook=unique_fields),)
    except UnicodeDecodeError as error:
        return f"byte {error.start} of the line: {not_utf8(path)}"
    except json.JSONDecodeError as error:
        return f"not JSON: {error.msg} (column {error.colno})"
    except Doubled as doubled:
        return f"the field {str(doubled)[:80]!r} stands twice: only one of them would count. Remove one"
    except (ValueError, RecursionError):
        return "not JSON that can be read (too deep, or a number too long)"


def _csv(path: Path, source: IO[bytes]) -> Iterator[_Entry]:
    csv.field_size_limit(_MOST_LINE)
    with io.TextIOWrapper(source, encoding="utf-8-sig", errors="surrogateescape", newline="") as text:
        first = text.readline()
        if not first:
            return
        rows = csv.reader(
            chain([first], text), delimiter=delimiter_of(first, table_suffix(path)), strict=True
        )
        header = _header(path, rows)
        while True:
            number = rows.line_num + 1
            try:
                row = next(rows)
            except StopIteration:
                return
            except csv.Error as error:
                yield number, f"not CSV: {error}. Is a quote not closed, or not doubled?"
                continue
            if not any(row):
                continue
            if len(row) != len(header):
                yield number, f"expected {len(header)} columns as in the header, found {len(row)}"
            elif any("\udc80" <= sign <= "\udcff" for cell in row for sign in cell):
                yield number, not_utf8(path)
            else:
                yield number, (dict(zip(header, row, strict=True)),)


def _header(path: Path, rows: Iterator[list[str]]) -> list[str]:
    """The names of the columns.

    Raises:
        ConfigError: `id` or `task` is missing, a column stands twice, or it is not CSV.
    """
    try:
        header = [name.strip() for name in next(rows)]
    except (csv.Error, StopIteration) as error:
        raise ConfigError(
            f"{path}: line 1: not CSV: {error}. It must name the columns {', '.join(FIELDS)}."
        ) from None
    missing = [name for name in ("id", "task") if name not in header]
    if missing:
        raise ConfigError(
            f"{path}: line 1: the header lacks {' and '.join(missing)}: {','.join(header)!r:.80}. "
            f"It must name the columns {', '.join(FIELDS)} (id and task are required)."
        )
    doubled = next((name for name in header if header.count(name) > 1), None)
    if doubled is not None:
        raise ConfigError(f"{path}: line 1: the column {doubled!r} stands twice. Remove or rename one.")
    return header
