"""How long a provider asks to wait: `Retry-After` in all its forms, Go durations, and when quotas reset.

Order of the headers as the official SDKs read them: `retry-after-ms`, `retry-after` in seconds, `retry-after`
as an HTTP date; a Go duration ("7.66s") is taken, too. A wait is honoured on error replies only (Anthropic sends
`retry-after` on many good ones).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any
from zoneinfo import ZoneInfo

MAX_WAIT_S = 30.0
"""A longer wait counts as an exhausted quota: the next model is tried at once."""
NONSENSE = math.inf
"""A wait that no server can mean (negative, not a number, over 31 days): do not wait at all."""
_LONGEST = 31 * 86_400.0
_NUMBER = re.compile(r"[0-9]{1,18}(\.[0-9]{1,18})?([eE][+-]?[0-9]{1,3})?")
_NUMBER_LIKE = re.compile(r"[+-]?(nan|inf(inity)?|[0-9._]+([eE][+-]?[0-9]+)?)", re.IGNORECASE)
_GO_PART = re.compile(r"([0-9]{1,12}(?:\.[0-9]{1,12})?)(h|ms|us|µs|ns|m|s)")
_GO_UNIT = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}
_TRY_AGAIN = re.compile(r"(?:try again|retry) in\s+((?:[0-9.]+\s*(?:h|ms|m|s)\s*)+)", re.IGNORECASE)


def seconds_of(text: Any) -> float | None:
    """Read a plain number of seconds. None: not a number at all; `NONSENSE`: one that cannot be meant."""
    if isinstance(text, bool) or text is None:
        return None
    raw = str(text).strip()[:64]
    if _NUMBER.fullmatch(raw):
        value = float(raw)
        return value if value <= _LONGEST else NONSENSE
    return NONSENSE if _NUMBER_LIKE.fullmatch(raw) else None


def go_duration(text: Any) -> float | None:
    """Read a Go duration (`2m59.56s`, `7.66s`, `120ms`) or a protobuf one (`26s`); None if it is none."""
    raw = text.strip()[:64].replace(" ", "") if isinstance(text, str) else ""
    end, total = 0, 0.0
    for part in _GO_PART.finditer(raw):
        if part.start() != end:
            return None
        end, total = part.end(), total + float(part[1]) * _GO_UNIT[part[2]]
    if not raw or end != len(raw):
        return None
    return total if total <= _LONGEST else NONSENSE


def parse_instant(text: Any) -> float | None:
    """Read an HTTP date or an RFC 3339 time as epoch seconds; None if it is neither."""
    raw = text.strip()[:64] if isinstance(text, str) else ""
    for read in (datetime.fromisoformat, parsedate_to_datetime):
        try:
            moment = read(raw)
            return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
        except (ValueError, TypeError, OverflowError, IndexError):
            continue
    return None


def header_wait(headers: Mapping[str, str], now: float) -> float | None:
    """Return the wait in seconds that the headers ask for, None when they ask for none, or `NONSENSE`.

    A date is measured against the reply's own `Date`, so that a skewed local clock does no harm; a date
    that is past means 0.
    """
    millis = seconds_of(headers.get("retry-after-ms"))
    if millis is not None:
        return millis / 1000
    raw = headers.get("retry-after")
    if raw is None or not raw.strip():
        return None
    seconds = seconds_of(raw)
    if seconds is not None:
        return seconds
    moment = parse_instant(raw)
    if moment is None and go_duration(raw) is not None:
        return go_duration(raw)
    if moment is None:
        return NONSENSE if raw.strip().startswith("-") else None
    server_now = parse_instant(headers.get("date"))
    wait = max(0.0, moment - (now if server_now is None else server_now))
    return wait if wait <= _LONGEST else NONSENSE


def try_again_in(message: str) -> float | None:
    """Find "try again in 7m12.5s" (Groq, OpenAI) or "retry in 26.4s" (Gemini) in a message."""
    found = _TRY_AGAIN.search(message[:4000])
    return go_duration(found[1].rstrip(". ")) if found else None


def epoch_millis(text: str | None, now: float) -> float | None:
    """Read epoch milliseconds as epoch seconds; a figure beyond the coming two days is none."""
    raw = (text or "").strip()
    if not (raw.isascii() and raw.isdigit() and len(raw) < 16):
        return None
    seconds = int(raw) / 1000
    return seconds if now - 60 <= seconds <= now + 2 * 86_400 else None


def next_midnight(zone: str, now: float) -> float:
    """Epoch seconds of the next midnight in `zone` (Gemini's days end at midnight US Pacific)."""
    today = datetime.fromtimestamp(now, ZoneInfo(zone))
    tomorrow = (today + timedelta(days=1)).date()
    return datetime(tomorrow.year, tomorrow.month, tomorrow.day, tzinfo=ZoneInfo(zone)).timestamp()


def next_month(now: float) -> float:
    """Epoch seconds of the first of the next UTC month (spend limits)."""
    today = datetime.fromtimestamp(now, UTC)
    year, month = (today.year + 1, 1) if today.month == 12 else (today.year, today.month + 1)
    return datetime(year, month, 1, tzinfo=UTC).timestamp()
