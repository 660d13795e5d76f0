"""Keep keys out of everything a person or a database may read: logs, errors, artifacts.

Two nets. The exact one knows every key this process has loaded, in the forms it can travel in (raw,
URL-encoded, base64, its first and last 12 characters). The loose one knows what keys look like.
"""

from __future__ import annotations

import base64
import logging
import re
import threading
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

from pydantic import SecretStr

MASK = "[redacted]"
_EDGE = 12
_SHORTEST = 8
"""Shorter values (sandbox keys such as `x`) are not searched for: they would blank out ordinary words."""
_ESCAPE = re.compile(r"%[0-9A-F]{2}")
_secrets: set[str] = set()
_exact: re.Pattern[str] | None = None
_lock = threading.Lock()

_PATTERNS = re.compile(
    r"""
    (?P<url>[?&](?:key|api[-_]?key|access[-_]?token|token|auth)=)[^&\s"'<>]+       # ?key=...
  | (?P<userinfo>[a-z][a-z0-9+.-]{1,20}://[^/\s:@]{0,80}:)[^/\s@]{1,200}(?=@)      # scheme://user:password@
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
    global _exact
    value = value.strip()
    if len(value) < _SHORTEST:
        return
    with _lock:
        if value not in _secrets:
            _secrets.add(value)
            _exact = _compile()


def forget_secrets() -> None:
    """Drop all registered keys (tests; rotation of a key keeps the old one redacted on purpose)."""
    global _exact
    with _lock:
        _secrets.clear()
        _exact = None


def _compile() -> re.Pattern[str]:
    forms: set[str] = set()
    for value in _secrets:
        forms.add(value)
        for coded in _quoted(value):
            forms |= {coded, _ESCAPE.sub(lambda found: found[0].lower(), coded)}
        # Base64 depends on where the key starts within the encoded text: three alignments.
        for offset in range(3):
            encoded = (
                base64.b64encode(b"\0" * offset + value.encode("utf-8", "surrogatepass")).decode().rstrip("=")
            )
            inner = encoded[(0, 2, 3)[offset] : len(encoded) - 1]
            forms |= {inner, inner.replace("+", "-").replace("/", "_")}
        if len(value) >= 2 * _EDGE:
            forms |= {value[:_EDGE], value[-_EDGE:]}
    longest_first = sorted((f for f in forms if len(f) >= _SHORTEST), key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first)))


def _quoted(value: str) -> tuple[str, str, str]:
    # Never an error: it would carry the key along.
    whole = quote(value, safe="", errors="surrogatepass")
    return quote(value, errors="surrogatepass"), whole, whole.replace("%20", "+")


def _mask(found: re.Match[str]) -> str:
    for name in ("url", "userinfo", "header", "bearer"):
        if found[name]:
            return found[name] + MASK
    return MASK


def redact(text: str) -> str:
    """Return `text` without keys: registered ones exactly, others by their looks."""
    exact = _exact
    if exact is not None:
        text = exact.sub(MASK, text)
    return _PATTERNS.sub(_mask, text)


class RedactingFilter(logging.Filter):
    """A logging filter that redacts message, arguments and traceback text; add it to handlers."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Rewrite the record in place; it is never dropped."""
        try:
            message = record.getMessage()
        except (TypeError, ValueError):
            # A record with wrong arguments: logging reports the mistake itself when the handler formats it.
            return True
        clean = redact(message)
        if clean != message:
            record.msg, record.args = clean, None
        if record.exc_info and not record.exc_text:
            record.exc_text = logging.Formatter().formatException(record.exc_info)
        if record.exc_text:
            record.exc_text = redact(record.exc_text)
        return True


_GUARDED = ("tta_dev_primitives", "prefect")


class _RedactingFactory:
    """Makes log records as before, those of the guarded loggers without keys."""

    def __init__(self, make: Callable[..., logging.LogRecord]) -> None:
        self._make = make
        self._filter = RedactingFilter()

    def __call__(self, *args: Any, **kwargs: Any) -> logging.LogRecord:
        record = self._make(*args, **kwargs)
        if record.name.partition(".")[0] in _GUARDED:
            self._filter.filter(record)
        return record


def guard_logs() -> None:
    """Redact what this package and Prefect log, whichever handler writes it; calling it again changes nothing.

    A filter on a logger does not see its children's records, and handlers come and go with each flow run: the
    place where records are made sees them all.
    """
    make = logging.getLogRecordFactory()
    if not isinstance(make, _RedactingFactory):
        logging.setLogRecordFactory(_RedactingFactory(make))
