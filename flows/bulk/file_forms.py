"""The forms of a file of tasks: what is read, and what is refused by its name with the command that converts it."""

from __future__ import annotations

import csv
import gzip
import shlex
from pathlib import Path
from typing import IO, cast

from tta_dev_primitives.config.errors import ConfigError

_GZIP = b"\x1f\x8b"
_HEAD = 4096
_UTF8 = ".utf8{end}"
_FORMS: tuple[tuple[bytes, str, str, str], ...] = (
    (b"\xff\xfe\x00\x00", "UTF-32 text", "iconv -f UTF-32 -t UTF-8 {file} > {new}", _UTF8),
    (b"\xff\xfe", "UTF-16 text", "iconv -f UTF-16 -t UTF-8 {file} > {new}", _UTF8),
    (b"\xfe\xff", "UTF-16 text", "iconv -f UTF-16 -t UTF-8 {file} > {new}", _UTF8),
    (
        b"PAR1",
        "a Parquet file",
        "python -c \"import pandas, sys; pandas.read_parquet(sys.argv[1]).to_json(sys.argv[2], orient='records', "
        'lines=True)" {file} {new}',
        ".jsonl",
    ),
    (
        b"PK\x03\x04",
        "a ZIP archive or an Excel file",
        "unzip -p {file} > {new} (Excel: save it as CSV)",
        ".jsonl",
    ),
    (b"BZh", "a bzip2 file", "bzip2 -dc {file} > {new}", ""),
    (b"\xfd7zXZ\x00", "an xz file", "xz -dc {file} > {new}", ""),
    (b"\x28\xb5\x2f\xfd", "a Zstandard file", "zstd -dc {file} > {new}", ""),
)
"""First bytes, what the file is, the command that makes one of it that is read, and how the new name ends."""


def table_suffix(path: Path) -> str:
    """`.csv`, `.tsv` or another ending, without `.gz`."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes[-1:] == [".gz"]:
        suffixes.pop()
    return suffixes[-1] if suffixes else ""


def refuse_other_forms(path: Path) -> None:
    """Stop at a file that is no UTF-8 JSONL or CSV, by the bytes it begins with.

    Raises:
        ConfigError: The message says what the file is, and the command that converts it.
    """
    with path.open("rb") as file:
        head = file.read(_HEAD)
    for magic, what, command, ending in _FORMS:
        if head.startswith(magic):
            raise ConfigError(f"{path}: is {what}. Convert it: {_filled(command, path, ending)}")
    zeros = [byte == 0 for byte in head[:2]]
    if zeros in ([False, True], [True, False]):
        command = f"iconv -f UTF-16{'BE' if zeros[0] else 'LE'} -t UTF-8 {{file}} > {{new}}"
        raise ConfigError(f"{path}: is UTF-16 text. Convert it: {_filled(command, path, _UTF8)}")
    if head.startswith(_GZIP) or table_suffix(path) in (".csv", ".tsv"):
        return
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if text.startswith(b"["):
        what, command = "one JSON array", "jq -c '.[]' {file} > {new}"
    elif text.partition(b"\n")[0].strip() == b"{":
        what, command = "JSON over several lines", "jq -c . {file} > {new}"
    else:
        return
    raise ConfigError(
        f"{path}: is {what}. Expected one object a line (JSONL): {_filled(command, path, '.lines.jsonl')}"
    )


def opened(path: Path) -> IO[bytes]:
    """The bytes of the text, unpacked when they are gzip."""
    with path.open("rb") as file:
        packed = file.read(2) == _GZIP
    return cast(IO[bytes], gzip.open(path)) if packed else path.open("rb")


def delimiter_of(header: str, suffix: str) -> str:
    """What separates the columns: a tab in `.tsv`, else the comma, semicolon or tab that yields `id` and `task`."""
    if suffix == ".tsv":
        return "\t"

    def fits(delimiter: str) -> tuple[bool, int]:
        names = {name.strip() for name in next(csv.reader([header], delimiter=delimiter), [])}
        return names >= {"id", "task"}, header.count(delimiter)

    return max(",;\t", key=fits)


def not_utf8(path: Path | None) -> str:
    """Why a line with other bytes is not run, and how the file becomes UTF-8."""
    command = "iconv -f CP1252 -t UTF-8 {file} > {new}"
    fix = "convert it to UTF-8" if path is None else _filled(command, path, _UTF8)
    return f"not UTF-8 text, perhaps Windows-1252 (cp1252): {fix}"


def _filled(command: str, path: Path, ending: str) -> str:
    """The command with both names; it never writes over the file that it reads."""
    stem = path.with_suffix("")
    new = f"{stem}{ending.format(end=path.suffix or '.jsonl')}"
    if new == str(path):
        new = f"{stem}.new.jsonl"
    return command.format(file=shlex.quote(str(path)), new=shlex.quote(new))
