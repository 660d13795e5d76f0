"""A model's answer as the Prefect UI shows it: Markdown in a quoted block, code as it was, nothing active."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from markdown_it.token import Token

from tta_dev_primitives.flows.reporting.quoted_answer import PAGE_CHARS, quoted_pages, table_cell

MARKDOWN = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
ACTIVE = {"link_open", "image", "html_block", "html_inline"}
LINKED = re.compile(r"(?:https?|ftp)://|www\.\w|\w@\w", re.IGNORECASE)
"""What GitHub's Markdown makes a link of without any mark."""


def tokens(page: str) -> Iterator[Token]:
    """All tokens of a page, those inside a line included."""
    for token in MARKDOWN.parse(page):
        yield token
        yield from token.children or ()


def code_of(answer: str) -> list[tuple[str, str]]:
    """Language and text of each block of code that the UI shows."""
    return [(t.info, t.content) for page in quoted_pages(answer) for t in tokens(page) if t.type == "fence"]


def assert_inert(answer: str) -> None:
    """Nothing of it can be clicked, loaded, run or drawn, and nothing stands outside the quoted block."""
    for page in quoted_pages(answer):
        assert all(line.startswith(">") for line in page.split("\n") if page)
        for token in tokens(page):
            assert token.type not in ACTIVE, (token, page)
            assert token.type != "text" or not LINKED.search(token.content), (token, page)
            assert token.type != "fence" or token.info.lower() != "mermaid", page
    cell = table_cell(answer)
    assert not {token.type for token in tokens(cell)} & {*ACTIVE, "fence", "code_block"}, cell
    assert not any(t.type == "text" and LINKED.search(t.content) for t in tokens(cell)), cell


PIECES = [
    *(
        "`",
        "``",
        "```",
        "~~~",
        "\n",
        "\n\n",
        "    ",
        "\t",
        " ",
        "\\",
        "|",
        "> ",
        "- ",
        "1. ",
        "# ",
        "|-|-|",
        "* ",
    ),
    *(
        "[x](http://e.example/a)",
        "![x](//e.example/a.png)",
        "[x]: http://e.example",
        "[x]",
        "<b>",
        "<!--",
        "-->",
    ),
    *(
        "<img src=//e.example/x>",
        "http://e.example",
        "www.e.example",
        "me@e.example",
        "<http://e.example>",
        "&#58;",
    ),
    *(
        "https&colon;//e.example",
        "www\\.e.example",
        "me@e\\.example",
        "https:\\/\\/e.example",
        "é",
        "mermaid",
        "a",
        "\r",
    ),
    *("```mermaid\ngraph\n```", "`a | b`", "$$", "---", "==="),
]


@settings(max_examples=400)
@given(st.lists(st.sampled_from(PIECES), max_size=14).map("".join) | st.text(max_size=60))
@example("| a | b |\n|---|---|\n| ` | [x](http://e.example) ` |")
@example("~~~ ` `\n```python\n~~~\n[x](http://e.example)\n```\n")
@example("- ~~~\n```\n~~~\n[x](http://e.example)\n```\n")
@example("*     |")
def test_nothing_of_an_answer_is_active(answer: str) -> None:
    """Links, images, HTML and addresses are text, whatever Markdown stands around them."""
    assert_inert(answer)


def test_markdown_is_rendered_and_code_stays_as_it_was() -> None:
    """Headings, lists, emphasis and tables; fenced and indented code with every character."""
    answer = (
        "# Plan\n\nUse **two** steps and `a[0] < b`:\n\n1. Read.\n"
        "   ```python\n   x = a[0]  # <b>\n   ```\n2. Write.\n\n"
        "| k | v |\n|---|---|\n| a | 1 |\n\nThen:\n\n    ls [ab]* | sort\n\nSee [the page](https://e.example/p)."
    )
    (page,) = quoted_pages(answer)
    kinds = {token.type for token in tokens(page)}
    assert {"heading_open", "ordered_list_open", "strong_open", "code_inline", "table_open"} <= kinds
    assert code_of(answer) == [("python", "x = a[0]  # <b>\n"), ("", "ls [ab]* | sort\n")]
    assert [t.content for t in tokens(page) if t.type == "code_inline"] == ["a[0] < b", "https://e.example/p"]


@pytest.mark.parametrize(
    "answer",
    [
        "42",
        "Roses are red,\nviolets are blue.",
        "# adds\ndef add(a, b):\n    return a + b  # **kwargs",
        "# builds\nset -e\nexport A=1\nmake(x);",
        '{"a": "b",\n "c": 1}',
    ],
)
def test_an_answer_without_markdown_is_one_block_of_code(answer: str) -> None:
    """Its lines stay as they are: a comment is no heading, and the lines of a poem are not joined."""
    assert code_of(answer) == [("", f"{answer}\n")]


def test_a_long_answer_is_whole() -> None:
    """It goes on in further artifacts, and none is much longer than a page."""
    answer = "\n".join(
        ["# Long", *(f"Sentence {n} of *many*." for n in range(3000)), "```", "x = 1\n" * 9000, "```"]
    )
    pages = quoted_pages(answer)
    assert len(pages) > 4
    assert all(len(page) < 2 * PAGE_CHARS for page in pages)
    shown = "".join(pages)
    assert all(f"Sentence {n} of *many*." in shown for n in range(3000))
    assert shown.count("x = 1") == 9000
