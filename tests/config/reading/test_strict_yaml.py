"""The strict YAML reader: one meaning for each line, or an error that names file, line and key."""

from __future__ import annotations

import contextlib
import time
from decimal import Decimal
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from tta_dev_primitives.config.errors import ConfigError
from tta_dev_primitives.config.reading import strict_yaml
from tta_dev_primitives.config.reading.strict_yaml import Document, parse_yaml, read_yaml


def parse(text: str) -> Document:
    return parse_yaml(text.encode(), "f.yaml").checked()


def refusal(data: bytes) -> str:
    with pytest.raises(ConfigError) as caught:
        parse_yaml(data, "f.yaml").checked()
    return str(caught.value)


def test_plain_values_have_their_plain_meaning() -> None:
    """Null, booleans, integers, decimals and text come out as written; decimals are exact."""
    document = parse("a: ~\nb: [true, FALSE, 7, -3]\nc: 0.10\nd: word\ne: 'true'\nf: 2026-11-23\ng: .5\n")
    assert document.data == {
        "a": None,
        "b": [True, False, 7, -3],
        "c": Decimal("0.10"),
        "d": "word",
        "e": "true",
        "f": "2026-11-23",
        "g": Decimal("0.5"),
    }
    assert str(document.data["c"]) == "0.10"


def test_every_key_knows_its_line() -> None:
    """Lines are found for keys and list items, and for anything inside them."""
    document = parse("a:\n  - x: 1\n  - x: 2\n    y: 3\n")
    assert document.line_of(("a", 1)) == 3
    assert document.line_of(("a", 1, "y")) == 4
    assert document.line_of(("a", 1, "missing")) == 3
    assert parse_yaml(b"", "f").line_of(("a",)) is None


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("a: &x 1", 1, "anchors"),
        ("a: 1\nb: *x", 2, "b: anchors (&name), aliases (*name)"),
        ("a:\n  <<: {b: 1}", 2, "merge keys"),
        ("a: !!python/object:os.system x", 1, "tags"),
        ("a: !x y", 1, "tags"),
        ("!!map {a: 1}", 1, "tags"),
        ("&x a: 1", 1, "anchors"),
        ("a: 1\n---\nb: 2", 2, "second document"),
        ("%TAG ! tag:example,2000:\n---\na: 1", 1, "TAG"),
        ("? [a]\n: b", 1, "where a key is expected"),
        ('"": b', 1, "without a key"),
        ("a: [", 2, "not valid YAML"),
        ("a: \x07", 1, "control characters"),
        ("a: 1\n\tb: 2", 2, "spaces, not with tabs"),
        ("a: b: c", 1, "not valid YAML"),
        ("a: 1\nb: 2\na: 3", 3, "a: duplicate key, first on line 1; keep one of them"),
        ('x:\n  a: 1\n  "a": 2', 3, "x.a: duplicate key"),
    ],
)
def test_traps_are_refused_with_their_line(text: str, line: int, words: str) -> None:
    """What YAML readers read in two ways, or what can explode, is refused where it stands."""
    message = refusal(text.encode())
    assert message.startswith(f"f.yaml:{line}: ")
    assert words in message


@pytest.mark.parametrize(
    "scalar",
    [
        "0100",
        "-007",
        "00.5",
        "0x1F",
        "0o17",
        "0b11",
        "1_000",
        "1e3",
        "1.5E+3",
        ".inf",
        "-.Inf",
        ".nan",
        ".NaN",
        "1:30",
        "190:20:30.15",
    ],
)
def test_odd_numbers_are_refused_with_the_expected_form(scalar: str) -> None:
    """A number that readers take for different things names its key and shows how to write it."""
    message = refusal(f"a:\n  budget: {scalar}".encode())
    assert message.startswith(f"f.yaml:2: a.budget: found {scalar}")
    assert "expected a plain number such as 100 or 0.85" in message


@pytest.mark.parametrize("word", ["yes", "Yes", "YES", "no", "on", "ON", "off", "Off"])
def test_word_booleans_are_refused(word: str) -> None:
    """`yes` is true to some readers and a word to others; the message says what to write."""
    assert "expected true or false" in refusal(f"enabled: {word}".encode())


def test_quoted_oddities_are_text() -> None:
    """Quotes make anything text."""
    assert parse("a: ['0100', \"yes\", '1e3', '']").data == {"a": ["0100", "yes", "1e3", ""]}


def test_all_odd_values_are_told_at_once() -> None:
    """Duplicate keys and odd scalars are collected, in the order of the file."""
    message = refusal(b"a: 0100\nb: yes\na: 2\n")
    assert message.splitlines()[0] == "Invalid configuration, 3 faults:"
    assert [line.strip()[:9] for line in message.splitlines()[1:]] == ["f.yaml:1:", "f.yaml:2:", "f.yaml:3:"]


def test_a_byte_order_mark_is_no_fault() -> None:
    """Editors on Windows write one."""
    assert parse_yaml(b"\xef\xbb\xbfa: 1", "f").data == {"a": 1}


def test_twenty_levels_are_allowed() -> None:
    """The limit itself is within."""
    assert parse("[" * 20 + "]" * 20).data


@pytest.mark.parametrize(
    "data",
    [b"[" * 250_000, b"{" * 250_000, b"- " * 120_000, b"? " * 120_000, b"a: " * 80_000, b"&a " * 80_000],
)
def test_hostile_files_are_left_quickly(data: bytes) -> None:
    """Deep or endless nesting is left at its first bad event: CPU time stays far below a second."""
    started = time.process_time()
    refusal(data)
    assert time.process_time() - started < 0.5


@settings(max_examples=300, deadline=None)
@given(
    st.one_of(st.binary(max_size=400), st.text("ab:- \n\t[]{}&*!?|>'\"%@#,.0189eExXyesno<~\\", max_size=60))
)
def test_no_bytes_raise_anything_but_config_errors(data: bytes | str) -> None:
    """Whatever stands in a file, the reader answers with data or with a ConfigError."""
    raw = data if isinstance(data, bytes) else data.encode()
    with contextlib.suppress(ConfigError):
        parse_yaml(raw, "f").checked()


@settings(max_examples=200, deadline=None)
@given(st.decimals(allow_nan=False, allow_infinity=False, min_value=-(10**6), max_value=10**6, places=12))
def test_decimals_are_exact(amount: Decimal) -> None:
    """Twelve decimals survive, which no float would promise."""
    assert parse(f"a: {amount:f}").data["a"] == amount


@pytest.mark.parametrize("name", ["missing.yaml", "missing/at/all.yaml", "file/below.yaml"])
def test_a_missing_file_is_a_missing_file(folder: Path, name: str) -> None:
    """Also when a folder on the way is missing or a file."""
    (folder / "file").write_text("")
    with pytest.raises(FileNotFoundError, match="Configuration file not found"):
        read_yaml(folder / name)


@pytest.mark.parametrize("name", ["a\0b", "x" * 5000])
def test_an_impossible_path_is_a_config_error(folder: Path, name: str) -> None:
    """A NUL or an endless name is said, not raised as it comes."""
    with pytest.raises(ConfigError):
        read_yaml(folder / name)


def test_the_answers_are_the_same_without_libyaml(monkeypatch: pytest.MonkeyPatch) -> None:
    """PyYAML built without the C library reads and refuses the same."""
    texts = [
        "a: [1, 0.5, x]",
        "a: &x 1",
        "a: 1\na: 2",
        "a: [",
        "a: \x07",
        "a: 1\n---\nb: 2",
        "- " * 1000,
        "a: 0100",
    ]

    def answers() -> list[str]:
        found = []
        for text in texts:
            try:
                found.append(repr(parse(text).data))
            except ConfigError as error:
                found.append(str(error).split("not valid YAML")[0].split(":", 2)[2])
        return found

    with_c = answers()
    monkeypatch.setattr(strict_yaml, "_Loader", yaml.SafeLoader)
    assert answers() == with_c
