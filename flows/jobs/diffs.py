"""Unified diffs: one part a file, and which lines of the new file a diff shows. Pure.

Git's diffs are read (`diff --git`; merges with `diff --cc` and `@@@`), and plain unified diffs (`---`, `+++`, `@@`).
Paths may hold spaces and, in git's quoted form, any byte.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import PurePosixPath

from tta_dev_primitives.config.errors import ConfigError
from tta_dev_primitives.config.options import ReviewConfig

SKIPPED_BY_DEFAULT = (
    "*.lock", "*-lock.json", "*-lock.yaml", "npm-shrinkwrap.json", "go.sum", "*.min.js", "*.min.css", "*.map",
    "*.svg", "*.png", "*.jpg", "*.jpeg", "*.gif", "*.ico", "*.pdf", "*.ipynb", "*.snap", "*_pb2.py", "*.pb.go",
    "*.generated.*", "vendor/**", "node_modules/**", "third_party/**", "dist/**",
)  # fmt: skip
"""Files that a review leaves out unless they are asked for: lock files, images, generated and foreign code."""

_HUNK = re.compile(r"^(?P<at>@@+) (?:-\d+(?:,\d+)? )+\+(?P<first>\d+)(?:,(?P<count>\d+))? (?P=at)")
_MERGE = ("diff --cc ", "diff --combined ")
_HEADS = ("diff --git ", *_MERGE)
_OCTAL = re.compile(rb"\\([0-7]{3}|.)")
_ESCAPES = {b"n": b"\n", b"t": b"\t", b"r": b"\r", b"a": b"\a", b"b": b"\b", b"f": b"\f", b"v": b"\v"}


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
    changes = [change for part in _split(diff.split("\n")) if (change := _read(part)) is not None]
    if not changes:
        raise ConfigError(
            "no change to review: expected a unified diff with @@ lines, such as `git diff` or `git show` prints."
        )
    return changes


def to_review(
    changes: Sequence[FileChange],
    settings: ReviewConfig,
    include: Sequence[str] | None = None,
    exclude: Sequence[str] | None = None,
) -> tuple[list[FileChange], list[str]]:
    """The changes to review, and the paths that are left out, by the arguments or else the configuration."""
    default = SKIPPED_BY_DEFAULT if settings.exclude is None else settings.exclude
    return chosen(changes, include or settings.include, exclude or default)


def chosen(
    changes: Sequence[FileChange], include: Sequence[str] = (), exclude: Sequence[str] = SKIPPED_BY_DEFAULT
) -> tuple[list[FileChange], list[str]]:
    """The changes to review, and the paths that are left out.

    Args:
        include: Globs of paths; empty takes every path. A glob without `/` is matched with the file's name.
        exclude: Globs of paths that are left out, unless a glob of `include` is the path itself.
    """
    taken, left_out = [], []
    for change in changes:
        wanted = not include or _matches(change.path, include)
        if wanted and (change.path in include or not _matches(change.path, exclude)):
            taken.append(change)
        else:
            left_out.append(change.path)
    return taken, left_out


def _matches(path: str, globs: Sequence[str]) -> bool:
    name = PurePosixPath(path).name
    return any(
        fnmatch(path, glob) or fnmatch(f"/{path}", f"*/{glob}") if "/" in glob else fnmatch(name, glob)
        for glob in (one.removeprefix("./") for one in globs)
    )


def _split(lines: Sequence[str]) -> Iterator[list[str]]:
    """The lines of one file each."""
    git = any(line.startswith(_HEADS) for line in lines)
    part: list[str] = []
    for number, line in enumerate(lines):
        after = lines[number + 1] if number + 1 < len(lines) else ""
        if line.startswith(_HEADS) if git else line.startswith("--- ") and after.startswith("+++ "):
            yield part
            part = []
        part.append(line)
    yield part


def _read(part: Sequence[str]) -> FileChange | None:
    path, shown = "", set[int]()
    number = left = 0
    signs = 1  # one column a parent: a merge of two has two
    in_hunks = False
    for line in part:
        hunk = _HUNK.match(line)
        if hunk is not None:
            number, left, in_hunks = int(hunk["first"]), int(hunk["count"] or 1), True
            signs = len(hunk["at"]) - 1
        elif left and "-" not in line[:signs] and not line.startswith("\\"):
            shown.add(number)
            number, left = number + 1, left - 1
        elif not in_hunks and line.startswith(("+++ ", "--- ")):
            path = _path(line) or path
    if not path or not in_hunks:
        return None
    return FileChange(path, "\n".join(part).rstrip("\n") + "\n", frozenset(shown))


def _path(line: str) -> str:
    name = line[4:].rstrip("\r")
    # Behind a path git puts a tab when it holds spaces, and other programs a date.
    name = _unquoted(name[1:].rpartition('"')[0]) if name.startswith('"') else name.split("\t")[0].rstrip()
    if name == "/dev/null":
        return ""
    return name[2:] if re.match(r"[abciow]/", name) else name


def _unquoted(name: str) -> str:
    def plain(found: re.Match[bytes]) -> bytes:
        said = found[1]
        return bytes([int(said, 8) & 255]) if len(said) == 3 else _ESCAPES.get(said, said)

    return _OCTAL.sub(plain, name.encode("utf-8")).decode("utf-8", "replace")
