"""Unified diffs: one part a file, and which lines of the new file a diff shows. Pure.

The diff of git is read (`diff --git`), and plain unified diffs (`---`, `+++`, `@@`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tta_dev_primitives.config.errors import ConfigError

__all__ = ["FileChange", "changes_in", "wrong_citations"]

_HUNK = re.compile(r"^@@ -\d+(?:,\d+)? \+(\d+)(?:,(\d+))? @@")
_CITED = re.compile(r"^\s*[-*]\s+`?(?P<path>[^\s:`]+):(?P<line>\d+)", re.M)


@dataclass(frozen=True, slots=True)
class FileChange:
    """The change of one file."""

    path: str
    text: str
    """The diff of this file, as it stood in the whole."""
    lines: frozenset[int]
    """Line numbers of the new file that the diff shows."""


def changes_in(diff: str) -> list[FileChange]:
    """The files of a diff that have text to review; binary files and bare renames have none.

    Raises:
        ConfigError: It holds no hunk of a unified diff.
    """
    changes = [change for part in _split(diff.splitlines()) if (change := _read(part)) is not None]
    if not changes:
        raise ConfigError(
            "no change to review: expected a unified diff with @@ lines, such as `git diff` or `git show` prints."
        )
    return changes


def _split(lines: Sequence[str]) -> Iterator[list[str]]:
    """The lines of one file each."""
    git = any(line.startswith("diff --git ") for line in lines)
    part: list[str] = []
    for number, line in enumerate(lines):
        after = lines[number + 1] if number + 1 < len(lines) else ""
        begins = (
            line.startswith("diff --git ") if git else line.startswith("--- ") and after.startswith("+++ ")
        )
        if begins:
            yield part
            part = []
        part.append(line)
    yield part


def _read(part: Sequence[str]) -> FileChange | None:
    path, shown = "", set[int]()
    number = left = 0
    in_hunks = False
    for line in part:
        hunk = _HUNK.match(line)
        if hunk is not None:
            number, left, in_hunks = int(hunk[1]), int(hunk[2] or 1), True
        elif left and line[:1] in ("+", " ", ""):
            shown.add(number)
            number, left = number + 1, left - 1
        elif not in_hunks and line.startswith(("+++ ", "--- ")):
            path = _path(line) or path
    return FileChange(path, "\n".join(part) + "\n", frozenset(shown)) if path and in_hunks else None


def _path(line: str) -> str:
    name = line[4:].split("\t")[0].strip().strip('"')
    if name == "/dev/null":
        return ""
    return name[2:] if name[:2] in ("a/", "b/") else name


def wrong_citations(review: str, change: FileChange) -> list[str]:
    """What a review's findings cite that the diff does not show: another file, or a line outside of it."""
    wrong = []
    for cited in _CITED.finditer(review):
        if not (change.path == cited["path"] or change.path.endswith("/" + cited["path"])):
            wrong.append(f"cites {cited['path']}, which is not the file")
        elif int(cited["line"]) not in change.lines:
            wrong.append(f"cites line {cited['line']}, which the diff does not show")
    return list(dict.fromkeys(wrong))
