"""Keep keys out of everything a person or a database may read: logs, errors, artifacts, answers.

    redact(text)       # of ours: every registered key, and what looks like a key
    mask_keys(answer)  # of a provider: registered keys only; an answer without one stays as it came

A registered key is found raw, reversed, as base64 or hex, broken by white space, and in text whose percent signs,
backslash escapes or HTML entities are undone. `redact` also finds its first and last 12 characters.
"""

from __future__ import annotations

import base64
import html
import logging
import re
import threading
from collections.abc import Callable
from typing import Any
from urllib.parse import unquote

from pydantic import SecretStr

MASK = "[redacted]"
_EDGE = 12
_SHORTEST = 8
"""Shorter values (sandbox keys such as `x`) are not searched for: they would blank out ordinary words."""
_SHORTEST_IN_ANSWER = 12
"""Servers on this machine take `lm-studio` or `not-needed`, which are words of answers."""
_OCTAL = re.compile(r"\\([0-7]{3})")
_ESCAPE = re.compile(r"(?:(?<!\\)\\++(?:u\{?|x\{?)|%u)0*([0-9a-f]{2})\}?|\\([0-9a-f]{2}) ?", re.IGNORECASE)
_QUOTED = re.compile(r"\\([^\w\s]|_)")
_UNDOINGS: tuple[Callable[[str], str], ...] = (
    unquote,
    html.unescape,
    lambda text: _OCTAL.sub(lambda found: chr(int(found[1], 8)), text),
    lambda text: _ESCAPE.sub(lambda found: chr(int(found[1] or found[2], 16)), text),
    lambda text: _QUOTED.sub(r"\1", text),
)
_MOST_TIMES = 3
_secrets: set[str] = set()
_NOTHING = re.compile(r"(?!)")
_nets = (_NOTHING, _NOTHING, _NOTHING)
"""Of the registered keys: those that are masked in answers, all of them, and their ends."""
_lock = threading.Lock()

_PATTERNS = re.compile(
    r"""
    (?P<url>[?&](?:key|api[-_]?key|access[-_]?token|token|auth)=)[^&\s"'<>]+       # ?key=...
  | (?P<userinfo>[a-z][a-z0-9+.-]{1,20}://[^/\s:@]{0,80}:)[^\s"'<>]{1,200}(?=@)      # scheme://user:password@
  | (?P<header>\b(?:authorization|x-api-key|x-goog-api-key|api[-_]?key)["']?\s*[:=]\s*["']?
      (?:bearer\s+|basic\s+)?)
      [A-Za-z0-9._~+/=-]{8,}
  | (?P<bearer>\bbearer\s+)[A-Za-z0-9._~+/=-]{8,}
  | \bsk-[A-Za-z0-9_-]{16,}                                      # Anthropic, OpenAI, OpenRouter
  | \bgsk_[A-Za-z0-9]{16,}                                                         # Groq
  | \bAIza[A-Za-z0-9_-]{30,}                                                       # Google
  | \bAQ\.[A-Za-z0-9_-]{30,}                                                       # Google, newer
    """,
    re.IGNORECASE | re.VERBOSE,
)


def register_secret(secret: SecretStr | str) -> None:
    """Remember a key for the rest of the process: `redact` finds it in any of its forms, and logs are guarded."""
    _remember(secret.get_secret_value() if isinstance(secret, SecretStr) else secret)
    guard_logs()


def _remember(value: str) -> None:
    global _nets
    value = value.strip()
    if len(value) < _SHORTEST:
        return
    with _lock:
        if value not in _secrets:
            _secrets.add(value)
            _nets = (_net(_forms_in_answers), _net(_forms), _net(_ends))


def forget_secrets() -> None:
    """Drop all registered keys (tests; rotation of a key keeps the old one redacted on purpose)."""
    global _nets
    with _lock:
        _secrets.clear()
        _nets = (_NOTHING, _NOTHING, _NOTHING)


def _forms(value: str) -> set[str]:
    """The key in the encodings that are found without undoing them."""
    data = value.encode("utf-8", "surrogatepass")
    forms = {value, value[::-1], data.hex(), data.hex().upper()}
    # Base64 depends on where the key starts within the encoded text: three alignments.
    for offset in range(3):
        encoded = base64.b64encode(b"\0" * offset + data).decode().rstrip("=")
        inner = encoded[(0, 2, 3)[offset] : len(encoded) - 1]
        forms |= {inner, inner.replace("+", "-").replace("/", "_")}
    return forms


def _forms_in_answers(value: str) -> set[str]:
    return _forms(value) if len(value) >= _SHORTEST_IN_ANSWER else set()


def _ends(value: str) -> set[str]:
    return {value[:_EDGE], value[-_EDGE:]} if len(value) >= 2 * _EDGE else set()


def _net(forms: Callable[[str], set[str]]) -> re.Pattern[str]:
    """A pattern of all registered keys; each form may be broken into lines."""
    longest_first = sorted(set().union(*map(forms, _secrets)), key=len, reverse=True)
    whole = (r"[\s:]*".join(map(re.escape, form)) for form in longest_first if len(form) >= _SHORTEST)
    return re.compile("|".join(whole) or _NOTHING.pattern)


def _mask(found: re.Match[str]) -> str:
    for name in ("url", "userinfo", "header", "bearer"):
        if found[name]:
            return found[name] + MASK
    return MASK


def redact(text: str) -> str:
    """Return `text` without keys: registered ones exactly, others by their looks."""
    _, keys, ends = _nets
    return _PATTERNS.sub(_mask, ends.sub(MASK, _without(text, keys)))


def mask_keys(answer: str) -> str:
    """Return what a provider wrote without the keys that this process has loaded; else exactly as it came."""
    return _without(answer, _nets[0])


def _without(text: str, keys: re.Pattern[str]) -> str:
    text = plain = keys.sub(MASK, text)
    for _ in range(_MOST_TIMES):
        before = plain
        for undo in _UNDOINGS:
            plain = undo(plain)
            if plain != before and keys.search(plain):
                return keys.sub(MASK, plain)
        if plain == before:
            break
    return text


_GUARDED = ("tta_dev_primitives", "prefect")


class _RedactingFactory:
    """Makes log records as before; those of the guarded loggers hold no key in message, arguments and traceback."""

    def __init__(self, make: Callable[..., logging.LogRecord]) -> None:
        self._make = make

    def __call__(self, *args: Any, **kwargs: Any) -> logging.LogRecord:
        record = self._make(*args, **kwargs)
        if record.name.partition(".")[0] in _GUARDED:
            _clean(record)
        return record


def _clean(record: logging.LogRecord) -> None:
    try:
        message = record.getMessage()
    except (TypeError, ValueError):
        return  # wrong arguments: logging reports the mistake itself when the handler formats it
    clean = redact(message)
    if clean != message:
        record.msg, record.args = clean, None
    if record.exc_info and not record.exc_text:
        record.exc_text = logging.Formatter().formatException(record.exc_info)
    if record.exc_text:
        record.exc_text = redact(record.exc_text)


def guard_logs() -> None:
    """Redact what this package and Prefect log, whichever handler writes it; calling it again changes nothing.

    A filter on a logger does not see its children's records, and handlers come and go with each flow run: the
    place where records are made sees them all.
    """
    make = logging.getLogRecordFactory()
    if not isinstance(make, _RedactingFactory):
        logging.setLogRecordFactory(_RedactingFactory(make))


STEERING = re.compile(
    r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]"  # controls; escape sequences begin with one
    r"|\r(?!\n)"  # goes back and overwrites the line
    r"|[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]"  # changes the direction of reading
    r"|[\u2028\u2029\ufff9-\ufffb\U000e0000-\U000e007f]"  # breaks a line, or is seen by models only
    r"|[\ud800-\udfff]"  # half a character
)
"""What a text may not hold when it is shown."""


def visible(text: str) -> str:
    """The text with a symbol for each character that would act instead of being seen."""
    return STEERING.sub(_symbol, text)


def _symbol(found: re.Match[str]) -> str:
    code = ord(found[0])
    if code < 0x20:
        return chr(0x2400 + code)
    return "␡" if code == 0x7F else f"⟨U+{code:04X}⟩"
