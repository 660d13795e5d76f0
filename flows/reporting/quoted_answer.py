"""A model's answer for the Prefect UI: Markdown inside a quoted block, with nothing active in it. Pure.

HTML, links and images stay visible as text. Code keeps each of its characters: it stands in fences that are written
here, so that no line of the answer can end one. An answer without Markdown is one such fence.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from tta_dev_primitives.blocks.redaction import visible

PAGE_CHARS = 20_000
"""Characters of an answer that one artifact holds."""
_FENCE = re.compile(r"^(?P<indent>\s*)(?P<mark>`{3,}|~{3,})(?P<info>[^`]*)$")
_INDENTED = re.compile(r"^(?: {4}|\t)")
_LIST = re.compile(r"^\s*(?:[-*+]|\d{1,9}[.)])\s")
_MARKDOWN = re.compile(
    r"^ {0,3}(?:#{1,6}\s+\S|[-*+]\s+\S|\d{1,9}[.)]\s+\S|```|~~~|\|.*\|\s*$)|\*\*\S[^*\n]*\*\*|(?<!`)`[^`\n]+`",
    re.M,
)
_LANGUAGE = re.compile(r"[A-Za-z0-9+#.-]{1,20}")
_DRAWN = frozenset({"mermaid"})
"""Languages that a UI draws instead of showing."""
_OF_ADDRESS = r"[^\s<>()\[\]{}`|\"'*]"
_ADDRESS = re.compile(
    rf"(?:[a-z][a-z0-9+.-]{{0,30}}:/+|www\.){_OF_ADDRESS}*|{_OF_ADDRESS}{{1,64}}@{_OF_ADDRESS}+",
    re.IGNORECASE,
)
"""What a UI makes a link of. Bounded, so that a long word is not searched again for each of its letters."""
_KEPT_ESCAPES = frozenset("\\`*_{}[]#+-!|~")
_CODE_LINE = re.compile(
    r"[;{}]\s*$|^\s*+(?:(?:def|class|if|elif|for|while|with|try)\b.*:|(?:import|return|const|let|var|function|public|"
    r"private|export|echo|SELECT|INSERT)\b|#include|#!|[\w.\[\]]+\s*[-+*/:]?=\s*\S|[\w.]+\(.*\)\s*$|"
    r"-?\s*[\w-]+:(?:\s+\S+)?$)"
)
_MOSTLY = 0.3
_TABLE_ROW = re.compile(r"(?:[-:|\s]*+[>*+])*+[:|\s]*+-[-:|\s]*+")


@dataclass(slots=True)
class _Piece:
    """Lines of text, or of code in a language; `language` is None for text."""

    language: str | None
    lines: list[str] = field(default_factory=list)


def fenced(text: str, *, language: str = "", most: int = PAGE_CHARS) -> list[str]:
    """Text of a model or provider as lines of a code block that it cannot end: no link or picture of it is loaded."""
    shown = visible(text[:most]) + ("\n…" if len(text) > most else "")
    fence = "`" * (max(map(len, re.findall("`{3,}", shown)), default=2) + 1)
    return [fence + language, shown, fence]


def table_cell(text: str) -> str:
    """Text of a model or provider as a cell: the UI may read cells as Markdown, so active text becomes code."""
    shown = " ".join(visible(text).split())
    if inert_line(shown) == shown:
        return shown
    ticks = "`" * (max(map(len, re.findall("`+", shown)), default=0) + 1)
    return f"{ticks} {shown} {ticks}" if "`" in shown else f"`{shown}`"


def quoted_pages(text: str, *, language: str | None = None) -> list[str]:
    """The whole answer as quoted Markdown, in pages of about `PAGE_CHARS` characters.

    Args:
        language: What it is written in; None: Markdown, or code that is recognised.
    """
    pages: list[list[str]] = [[]]
    size, text = 0, visible(text).replace("\r\n", "\n")
    tables = any("|" in line and _TABLE_ROW.fullmatch(line) for line in text.split("\n"))
    pieces = _pieces(text) if language is None else iter([_Piece(language, text.split("\n"))])
    for piece in _cut(pieces):
        length = sum(len(line) + 1 for line in piece.lines)
        if size and size + length > PAGE_CHARS:
            pages.append([])
            size = 0
        size += length
        if piece.language is None:
            lines = [inert_line(line, tables=tables) for line in piece.lines]
        else:
            lines = fenced("\n".join(piece.lines).rstrip("\n"), language=piece.language, most=length)
        pages[-1] += [f"> {line}".rstrip() for line in "\n".join(["", *lines, ""]).split("\n")]
    return ["\n".join(page) for page in pages]


def _is_markdown(text: str) -> bool:
    """Whether an answer is Markdown, and not code whose comments look like headings."""
    if any(_FENCE.match(line) for line in text.split("\n")):
        return True
    lines = [line for line in text.split("\n") if line.strip()]
    code = sum(1 for line in lines if _CODE_LINE.search(line))
    return bool(_MARKDOWN.search(text)) and code < _MOSTLY * len(lines)


def _pieces(text: str) -> Iterator[_Piece]:
    """The answer as text and code, in order."""
    if not _is_markdown(text):
        yield _Piece("", text.split("\n"))
        return
    piece, mark, indent = _Piece(None), "", ""
    listed, blank = False, True
    for line in text.split("\n"):
        fence = _FENCE.match(line)
        if mark:
            if fence and fence["mark"].startswith(mark) and not fence["info"].strip():
                yield piece
                piece, mark = _Piece(None), ""
            else:
                piece.lines.append(line.removeprefix(indent))
        elif fence:
            yield piece
            named = _LANGUAGE.match(fence["info"].strip())
            language = named[0] if named and named[0].lower() not in _DRAWN else ""
            piece, mark, indent = _Piece(language), fence["mark"], fence["indent"]
        else:
            code = bool(_INDENTED.match(line)) and not listed and (blank or piece.language is not None)
            if code != (piece.language is not None) and line.strip():
                yield piece
                piece = _Piece("" if code else None)
            piece.lines.append(_INDENTED.sub("", line) if code else line)
            blank = not line.strip()
            listed = bool(_LIST.match(line)) or (listed and (blank or line[:1].isspace()))
    yield piece


def _cut(pieces: Iterator[_Piece]) -> Iterator[_Piece]:
    """Pieces that are no longer than a page, without empty ones."""
    for piece in pieces:
        part, size = _Piece(piece.language), 0
        for line in (cut for whole in piece.lines for cut in _chunks(whole)):
            if size + len(line) > PAGE_CHARS and part.lines:
                yield part
                part, size = _Piece(piece.language), 0
            part.lines.append(line)
            size += len(line) + 1
        if any(line.strip() for line in part.lines):
            yield part


def _chunks(line: str) -> Sequence[str]:
    return [line[i : i + PAGE_CHARS] for i in range(0, len(line), PAGE_CHARS)] or [""]


def inert_line(line: str, *, tables: bool = False) -> str:
    """A line of Markdown whose links, images and HTML are text.

    Args:
        tables: The answer may hold a table, whose cells end at a bar even inside code.
    """
    addresses = {found.start(): found[0].rstrip(".,;:!?") for found in _ADDRESS.finditer(line)}
    out, at = "", 0
    while at < len(line):
        if line[at] == "`":
            taken, shown = _ticks(line, at, tables=tables)
        elif at in addresses:
            taken = len(addresses[at])
            shown = f"`{addresses[at]}`" + (" " if line[at + taken : at + taken + 1] == "`" else "")
        else:
            taken, shown = _escaped(line, at)
        # Two code spans side by side would be read as one.
        out += f" {shown}" if shown[0] == out[-1:] == "`" else shown
        at += taken
    return out


def _ticks(line: str, at: int, *, tables: bool) -> tuple[int, str]:
    """The code span that backticks begin, or the backticks as text when none ends on this line."""
    count = len(line) - at - len(line[at:].lstrip("`"))
    end = re.compile(rf"(?<!`)`{{{count}}}(?!`)").search(line, at + count)
    code = "" if end is None else line[at : end.end()]
    if code and not (tables and "|" in code):
        return len(code), code
    return count, "\\`" * count


def _escaped(line: str, at: int) -> tuple[int, str]:
    """One character as text; a backslash takes its character along when it escapes one that may be active."""
    char, following = line[at], line[at + 1 : at + 2]
    match char:
        case "\\" if following and following in _KEPT_ESCAPES:
            return 2, char + following
        case "\\" | "[" | "]" | "~":
            return 1, "\\" + char
        case "<":
            return 1, "&lt;"
        case "&" if following.isalnum() or following == "#":
            return 1, "&amp;"
        case _:
            return 1, char
