"""YAML without its traps: one meaning for each line, or an error that names file, line and key.

Refused: anchors, aliases, merge keys, tags, duplicate keys, several documents, numbers and booleans that
readers take for different things, more than 256 KiB, 20 levels or 20,000 values, anything but UTF-8. The file
is read as a stream of events: a hostile one is left at its first bad event, not built in memory.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NoReturn

import yaml

from tta_dev_primitives.config.errors import ConfigError
from tta_dev_primitives.config.reading.config_faults import Fault, KeyPath, config_error, dotted
from tta_dev_primitives.config.reading.files import MAX_BYTES, read_regular_file
from tta_dev_primitives.config.reading.scalars import OddScalarError, plain_scalar

MAX_DEPTH = 20
MAX_VALUES = 20_000
_WORLD_WRITABLE = 0o002
_REFERENCES = "anchors (&name), aliases (*name) and merge keys (<<)"
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True, slots=True)
class Document:
    """One YAML document: plain data (numbers with a point as exact `Decimal`) and the line of each key."""

    data: Any
    source: str
    lines: dict[KeyPath, int] = field(default_factory=dict)
    faults: tuple[Fault, ...] = ()
    """Duplicate keys and odd scalars; the rest can still be checked, so that all faults are reported at once."""
    digest: str | None = None
    """SHA-256 of the file's bytes."""

    def line_of(self, path: KeyPath) -> int | None:
        """The line of `path`, or of the nearest key around it; None in an empty document."""
        while path and path not in self.lines:
            path = path[:-1]
        return self.lines.get(path)

    def checked(self) -> Document:
        """This document, if it has no faults."""
        if self.faults:
            raise config_error(self.faults, self.source)
        return self


def read_yaml(path: Path, *, shown_as: str | None = None) -> Document:
    """Read and parse the file at `path`."""
    content = read_regular_file(path)
    source = shown_as or str(path)
    if content.stat.st_mode & _WORLD_WRITABLE:
        raise ConfigError(f"{source}: every user of this machine may write to it; to fix: chmod o-w {path}")
    return replace(parse_yaml(content.data, source), digest=hashlib.sha256(content.data).hexdigest())


def parse_yaml(data: bytes, source: str) -> Document:
    """Parse the bytes of one document; `source` is the name that errors give."""
    text = _decode(data, source)
    try:
        loader = _Loader(text)
        try:
            return _Builder(source).document(iter(lambda: loader.check_event() and loader.get_event(), False))
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        mark: Any = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        problem = " ".join(part for part in (error.context, error.problem) if part)
        raise ConfigError(f"{source}:{line}: not valid YAML: {problem}{_hint(text, line)}") from None
    except yaml.reader.ReaderError as error:
        raise ConfigError(
            f"{source}:{_line_of_character(text, error)}: not valid YAML: {error.reason}"
        ) from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{source}: not valid YAML: {error}") from None


def _decode(data: bytes, source: str) -> str:
    if len(data) > MAX_BYTES:
        raise ConfigError(f"{source}: {len(data):,} bytes; at most {MAX_BYTES:,} (256 KiB) are read.")
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise ConfigError(f"{source}:1: this is UTF-16, not UTF-8; save the file as UTF-8.")
    if b"\0" in data:
        line = data.count(b"\n", 0, data.index(b"\0")) + 1
        raise ConfigError(f"{source}:{line}: a NUL byte; this is not a text file.")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigError(
            f"{source}:{line}: not UTF-8 (byte {error.start}); save the file as UTF-8."
        ) from None


def _line_of_character(text: str, error: yaml.reader.ReaderError) -> int:
    """libyaml gives bytes or no position at all: look for the character itself."""
    character = error.character if isinstance(error.character, str) else chr(error.character)
    position = text.find(character)
    return text.count("\n", 0, max(position, 0)) + 1


def _hint(text: str, line: int) -> str:
    lines = text.split("\n")
    here = lines[line - 1] if line <= len(lines) else ""
    if "\t" in here[: len(here) - len(here.lstrip())]:
        return " (indent with spaces, not with tabs)"
    odd = _ODD_START.search(here)
    return f' (a value cannot begin with {odd[1]}: put it in quotes, "{odd[1]}...")' if odd else ""


_ODD_START = re.compile(r"(?:^|[:\-,\[{])\s*([@`%])")


_FILLED_IN = re.compile(
    r"\$\{([A-Za-z_]\w{0,127})[^}\n]{0,200}\}|\bos\.environ/(\w{1,128})|\{\{\s*(?:env\.)?([\w.]{1,128})[^}\n]{0,200}\}\}"
)


def _not_filled_in(named: re.Match[str], path: KeyPath) -> str:
    """What to write in the place of a reference to a variable."""
    variable = next(filter(None, named.groups()))
    key = str(path[-1]) if path else ""
    if key.startswith("api_key"):
        instead = f"write the variable's bare name: api_key_env: {variable}"
    else:
        instead = "write the value itself"
    return f"variables such as {named[0][:60]} are not filled in; {instead}"


def _line(event: Any) -> int:
    return int(event.start_mark.line) + 1


class _Builder:
    """Builds plain data from events and refuses what may not be there."""

    def __init__(self, source: str) -> None:
        self._source = source
        self._lines: dict[KeyPath, int] = {}
        self._faults: list[Fault] = []
        self._values = 0

    def document(self, events: Iterator[Any]) -> Document:
        data: Any = None
        documents = 0
        for event in events:
            if isinstance(event, yaml.DocumentStartEvent):
                documents += 1
                if documents > 1:
                    self._stop(event, (), "a second document begins here; expected one document in the file")
                if event.tags:
                    self._stop(event, (), "%TAG is not allowed")
            elif isinstance(event, yaml.NodeEvent):
                self._lines[()] = _line(event)
                data = self._node(event, events, ())
        return Document(data, self._source, self._lines, tuple(self._faults))

    def _node(self, event: Any, events: Iterator[Any], path: KeyPath) -> Any:
        self._values += 1
        if self._values > MAX_VALUES:
            self._stop(event, path, f"more than {MAX_VALUES:,} values")
        self._refuse_references(event, path)
        if isinstance(event, yaml.ScalarEvent):
            return self._scalar(event, path)
        if len(path) >= MAX_DEPTH:
            self._stop(event, path, f"nested deeper than {MAX_DEPTH} levels")
        if isinstance(event, yaml.SequenceStartEvent):
            return self._sequence(events, path)
        return self._mapping(events, path)

    def _refuse_references(self, event: Any, path: KeyPath) -> None:
        if isinstance(event, yaml.AliasEvent) or event.anchor is not None:
            self._stop(event, path, f"{_REFERENCES} are not allowed; write the value out where it is needed")
        if event.tag is not None:
            self._stop(event, path, "tags (!name) are not allowed; write the plain value")

    def _scalar(self, event: Any, path: KeyPath) -> Any:
        named = _FILLED_IN.search(event.value)
        if named is not None:
            self._faults.append(Fault(_not_filled_in(named, path), path, _line(event)))
            return event.value
        if event.style:  # quoted or block text
            return event.value
        try:
            return plain_scalar(event.value)
        except OddScalarError as error:
            self._faults.append(Fault(str(error), path, _line(event)))
            return event.value

    def _sequence(self, events: Iterator[Any], path: KeyPath) -> list[Any]:
        items: list[Any] = []
        for event in events:
            if isinstance(event, yaml.SequenceEndEvent):
                break
            here = (*path, len(items))
            self._lines[here] = _line(event)
            items.append(self._node(event, events, here))
        return items

    def _mapping(self, events: Iterator[Any], path: KeyPath) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for event in events:
            if isinstance(event, yaml.MappingEndEvent):
                break
            key = self._key(event, path)
            here = (*path, key)
            line = _line(event)
            if key in found:
                first = self._lines[here]
                self._faults.append(
                    Fault(f"duplicate key, first on line {first}; keep one of them", here, line)
                )
            else:
                self._lines[here] = line
            value = self._node(next(events), events, here)
            found.setdefault(key, value)
        return found

    def _key(self, event: Any, path: KeyPath) -> str:
        self._refuse_references(event, path)
        if not isinstance(event, yaml.ScalarEvent):
            self._stop(event, path, "a list or block stands where a key is expected")
        key = str(event.value)
        if key == "<<" and not event.style:
            self._stop(event, path, f"{_REFERENCES} are not allowed; write the keys out")
        if not key:
            self._stop(event, path, "a value without a key")
        return key

    def _stop(self, event: Any, path: KeyPath, message: str) -> NoReturn:
        line = _line(event)
        where = f"{dotted(path)}: " if path else ""
        raise ConfigError(f"{self._source}:{line}: {where}{message}")
