"""Keys stay out of everything a person or a database may read, in every form they can travel in."""

from __future__ import annotations

import base64
import io
import logging
import re
from collections.abc import Callable, Iterator
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from tta_dev_primitives.blocks.redaction import (
    MASK,
    forget_secrets,
    guard_logs,
    mask_keys,
    redact,
    register_secret,
)

KEY = "k3y+with/odd=characters~and-30-more"


@pytest.fixture(autouse=True)
def _clean() -> Iterator[None]:
    forget_secrets()
    yield
    forget_secrets()


ENCODINGS: dict[str, Callable[[str], str]] = {
    "raw": str,
    "URL": lambda key: quote(key, safe=""),
    "every character as a percent sign": lambda key: "".join(f"%{ord(c):02x}" for c in key),
    "base64": lambda key: base64.b64encode(key.encode()).decode(),
    "basic": lambda key: base64.b64encode(f"user:{key}".encode()).decode(),
    "URL-safe base64": lambda key: base64.urlsafe_b64encode(f"us:{key}".encode()).decode(),
    "base64 in lines": lambda key: base64.encodebytes(f"{'x' * 40}{key}".encode()).decode(),
    "hex": lambda key: key.encode().hex(),
    "HEX": lambda key: key.encode().hex().upper(),
    "spaced hex": lambda key: key.encode().hex(" "),
    "reversed": lambda key: key[::-1],
    "JSON escapes": lambda key: "".join(f"\\u{ord(c):04x}" for c in key),
    "escapes within": lambda key: key.replace("=", "\\u003d").replace("+", "\\u002B"),
    "Python escapes": lambda key: "".join(f"\\x{ord(c):02x}" for c in key),
    "escapes in braces": lambda key: "".join(f"\\u{{{ord(c):x}}}" for c in key),
    "long escapes": lambda key: "".join(f"\\U{ord(c):08x}" for c in key),
    "octal escapes": lambda key: "".join(f"\\{ord(c):03o}" for c in key),
    "CSS escapes": lambda key: "".join(f"\\{ord(c):x} " for c in key),
    "Markdown": lambda key: key.replace("-", "\\-").replace("_", "\\_"),
    "old percent signs": lambda key: "".join(f"%u{ord(c):04x}" for c in key),
    "twice percent signs": lambda key: "".join(f"%25{ord(c):02x}" for c in key),
    "hex with colons": lambda key: key.encode().hex(":"),
    "two kinds": lambda key: (
        "".join(f"\\x{ord(c):02x}" for c in key[:20]) + "".join(f"&#{ord(c)};" for c in key[20:])
    ),
    "HTML": lambda key: "".join(f"&#{ord(c)};" for c in key),
    "broken into lines": lambda key: f"{key[:20]}\n  {key[20:]}",
}


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_registered_key_is_found_in_all_its_forms(encoding: str) -> None:
    """In what we write and in what a provider answers; the words around it stay."""
    register_secret(SecretStr(KEY))
    form = ENCODINGS[encoding](KEY)
    for mask in (redact, mask_keys):
        shown = mask(f"before {form} after")
        assert MASK in shown
        assert form[12:-12] not in shown
        assert KEY[12:-12] not in shown
        assert shown.startswith("before ")
        assert shown.endswith(" after")


def test_the_ends_of_a_key_are_found_in_our_own_texts_only() -> None:
    """All keys of a provider may begin alike, and an answer may say so."""
    register_secret(KEY)
    for end in (KEY[:12], KEY[-12:]):
        assert redact(f"key {end}") == f"key {MASK}"
        assert mask_keys(f"keys begin with {end}") == f"keys begin with {end}"


@given(st.text())
def test_an_answer_without_a_key_stays_as_it_came(answer: str) -> None:
    """Also with percent signs, escapes, entities and what looks like somebody else's key."""
    register_secret(KEY)
    register_secret("lm-studio")
    text = f"{answer} 100%41 &amp; \\u0041 sk-ant-api03-abcdefghijklmnop lm-studio {answer}"
    assert mask_keys(text) == text


@pytest.mark.parametrize("safe", ["", "/"])
@pytest.mark.parametrize("lower", [False, True])
def test_a_key_is_found_however_an_address_spells_it(safe: str, lower: bool) -> None:
    """Slashes may stay as they are, and escapes may be in small letters."""
    key = "Zq9/xY+aa==Bb7cD8eF9gH0iJ1kL2mN3oP4"
    register_secret(key)
    coded = quote(key, safe=safe)
    if lower:
        coded = re.sub("%..", lambda found: found[0].lower(), coded)
    assert redact(f"GET /v1/models?q={coded}&n=1") == f"GET /v1/models?q={MASK}&n=1"


@given(
    st.text(alphabet=st.characters(min_codepoint=33, max_codepoint=126), min_size=24, max_size=60),
    st.integers(0, 5),
)
def test_no_key_survives_base64_at_any_offset(key: str, offset: int) -> None:
    """An Authorization header may hold the key anywhere; at most its two edge characters can show."""
    forget_secrets()
    register_secret(key)
    encoded = base64.b64encode(b"x" * offset + key.encode() + b"y" * offset).decode()
    assert MASK in redact(encoded)
    assert key not in redact(key)


@pytest.mark.parametrize(
    ("text", "gone"),
    [
        ("GET https://x.example/v1?key=AbCdEf123 HTTP/1.1", "AbCdEf123"),
        ("https://x.example/?a=1&api_key=AbCdEf123&b=2", "AbCdEf123"),
        ("postgresql://tta:pa55word@db.example/tta", "pa55word"),
        ("Authorization: Bearer abcdefghij123", "abcdefghij123"),
        ("{'x-api-key': 'abcdefghij123'}", "abcdefghij123"),
        ("x-goog-api-key=abcdefghij123", "abcdefghij123"),
        ("sent bearer abcdefghij123 to", "abcdefghij123"),
        ("sk-ant-api03-abcdefghijklmnop", "abcdefgh"),
        ("sk-or-v1-0123456789abcdef0123", "0123456789"),
        ("gsk_abcdefghijklmnopqrstu", "abcdefgh"),
        ("AIzaSyA-abcdefghijklmnopqrstuvwxyz0123", "abcdefgh"),
    ],
)
def test_what_looks_like_a_key_goes_too(text: str, gone: str) -> None:
    """Keys that this process never loaded, by their looks."""
    assert gone not in redact(text)


def test_ordinary_words_stay() -> None:
    """Model names, addresses and advice are not keys; nor is a key of three letters searched for."""
    register_secret("x")
    text = "groq model openai/gpt-oss-120b: set GROQ_API_KEY, see https://console.groq.com/keys (tokens=12)"
    assert redact(text) == text


@pytest.mark.parametrize("name", ["tta_dev_primitives.blocks.providers.client", "prefect.flow_runs"])
def test_from_the_first_key_on_our_logs_and_prefects_are_redacted(name: str) -> None:
    """Also in loggers and handlers that nobody has seen: a handler of another library, a child logger."""
    register_secret(KEY)
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    logger = logging.getLogger(f"{name}.made-later")
    logger.addHandler(handler)
    try:
        logger.error("sent with %s", KEY)
        try:
            raise ValueError(f"bad header {KEY}")
        except ValueError:
            logger.exception("failed")
    finally:
        logger.removeHandler(handler)
    assert KEY not in stream.getvalue()
    assert "sent with [redacted]" in stream.getvalue()
    assert "ValueError: bad header [redacted]" in stream.getvalue()


def test_the_logs_of_others_are_left_alone() -> None:
    """An application's own records are made as it wants them; guarding twice wraps nothing twice."""
    register_secret(KEY)
    made = logging.getLogRecordFactory()
    guard_logs()
    assert logging.getLogRecordFactory() is made
    assert made("app", logging.INFO, "app.py", 1, "%s", (KEY,), None).getMessage() == KEY
