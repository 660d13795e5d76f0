"""Code blocks of the Markdown pages, with what the comments above them say.

<!-- not run: reason -->     the block is shown only
<!-- file: name -->          the block is a file of that name
<!-- exit: 2 -->             the commands end with this exit code
<!-- says: text -->          and print this on standard error
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    [
        ROOT / "README.md",
        ROOT / "CONTRIBUTING.md",
        *(ROOT / "docs").glob("*.md"),
        *(ROOT / "docs" / "walkthroughs").glob("*.md"),
    ]
)
_NOTE = re.compile(r"<!-- (not run|file|exit|says|command): (.+) -->")
_FENCE = re.compile(r"^(`{3,})(\w*)\n(.*?)^\1$", re.M | re.S)


@dataclass(frozen=True)
class Block:
    """One fenced block."""

    page: Path
    line: int
    language: str
    text: str
    notes: dict[str, str]

    @property
    def place(self) -> str:
        """Page and line, for messages."""
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks_of(page: Path) -> Iterator[Block]:
    """The blocks of a page in order."""
    text = page.read_text(encoding="utf-8")
    generated = [
        found.span() for found in re.finditer(r"<!-- generated: .*?<!-- end generated -->", text, re.S)
    ]
    for fence in _FENCE.finditer(text):
        if any(start <= fence.start() < end for start, end in generated):
            continue
        notes = {}
        for line in reversed(text[: fence.start()].splitlines()):
            note = _NOTE.fullmatch(line)
            if note is None:
                break
            notes[note[1]] = note[2]
        line = text.count("\n", 0, fence.start()) + 1
        yield Block(page, line, fence[2], fence[3], notes)
