"""What a provider's headers and errors say about its limits. Pure.

Headers (sources: Groq "Rate limits", Anthropic "Rate limits", OpenRouter "Limits", all read November 2026):

- Groq `x-ratelimit-{limit,remaining,reset}-requests` count the **day**, `-tokens` the **minute**; resets are
  Go durations (`2m59.56s`).
- Other OpenAI-like servers send the same names for the minute.
- Anthropic `anthropic-ratelimit-{requests,tokens}-{limit,remaining,reset}`: the minute; resets are RFC 3339.
- OpenRouter `x-ratelimit-{limit,remaining,reset}`: the reset is epoch milliseconds and separates day from minute.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Literal

from tta_dev_primitives.blocks.quotas.windows import KINDS, Kind, Observation, day_bounds
from tta_dev_primitives.blocks.wire.retry_after import (
    epoch_millis,
    go_duration,
    next_month,
    parse_instant,
    seconds_of,
)
from tta_dev_primitives.config.models.targets import Limits
from tta_dev_primitives.config.provider_errors import ErrorClass, ProviderError

Period = Literal["minute", "day", "month"]
_OPENAI_NAMES: Mapping[str, Mapping[str, Kind]] = {"groq": {"requests": "rpd", "tokens": "tpm"}}
_MINUTE_NAMES: Mapping[str, Kind] = {"requests": "rpm", "tokens": "tpm"}
_DAY_FROM_S = 150.0
"""A reset farther away than this cannot be a minute's."""
_KIND_WORD = re.compile(r"\b(RPM|TPM|RPD|TPD)\b")
_GROQ_LIMIT = re.compile(r"\b(RPM|TPM|RPD|TPD)\b\)?:? *Limit ([0-9]{1,15})")
_GEMINI_LIMIT = re.compile(r"metric: ([a-z0-9_./-]{1,120}), limit: ([0-9]{1,15})", re.IGNORECASE)
_MONTH = re.compile(r"per[ _-]?month|monthly|spend limit|spend_limit|usage limits", re.IGNORECASE)
_DAY = re.compile(r"per[ _-]?day|daily|\b[RT]PD\b", re.IGNORECASE)
_MINUTE = re.compile(r"per[ _-]?min|\b[RT]PM\b", re.IGNORECASE)
_PERIODS: tuple[tuple[Period, re.Pattern[str]], ...] = (("month", _MONTH), ("day", _DAY), ("minute", _MINUTE))
_MOST = 10**15
_KINDS: Mapping[str, Kind] = {kind: kind for kind in KINDS}


def learn(
    provider: str, headers: Mapping[str, str], now: float, *, period: Period | None = None
) -> list[Observation]:
    """Read the limits in a reply's headers (lower-case names). Unreadable headers teach nothing.

    Args:
        provider: As the configuration names it; says whether "requests" means a minute's or a day's.
        period: The window that an error in the same reply speaks of, when there is one.
    """
    found: list[Observation] = []
    if not any("ratelimit" in name for name in headers):
        return found
    for name, kind in _OPENAI_NAMES.get(provider, _MINUTE_NAMES).items():
        limit = _count(headers.get(f"x-ratelimit-limit-{name}"))
        remaining = _count(headers.get(f"x-ratelimit-remaining-{name}"))
        wait = go_duration(headers.get(f"x-ratelimit-reset-{name}"))
        found += _seen(kind, limit, remaining, None if wait is None else now + wait)
    for name, kind in _MINUTE_NAMES.items():
        prefix = f"anthropic-ratelimit-{name}"
        limit, remaining = _count(headers.get(f"{prefix}-limit")), _count(headers.get(f"{prefix}-remaining"))
        found += _seen(kind, limit, remaining, parse_instant(headers.get(f"{prefix}-reset")))
    limit, remaining = _count(headers.get("x-ratelimit-limit")), _count(headers.get("x-ratelimit-remaining"))
    reset_at = epoch_millis(headers.get("x-ratelimit-reset"), now)
    if limit is not None and reset_at is not None:
        day = period == "day" if period else reset_at - now > _DAY_FROM_S
        kind = "rpd" if day else "rpm"
        found += _seen(kind, limit, remaining, reset_at)
    return found


def _count(text: str | None) -> int | None:
    value = seconds_of(text)
    return int(value) if value is not None and 0 <= value <= _MOST else None


def _seen(kind: Kind, limit: int | None, remaining: int | None, reset_at: float | None) -> list[Observation]:
    if limit is None and remaining is None:
        return []
    return [Observation(kind, limit, remaining, reset_at)]


def period_of(error: ProviderError) -> Period | None:
    """Which window an error speaks of, by its code and words: `minute`, `day`, `month`, or None."""
    said = f"{error.code or ''} {error.message[:2000]}"
    return next((period for period, words in _PERIODS if words.search(said)), None)


def learn_from_error(error: ProviderError, now: float) -> list[Observation]:
    """Read the limits that the text of a 429 names (Groq "Limit 200000, Used ...", Gemini "limit: 250")."""
    if error.status not in (413, 429):
        return []
    message = error.message[:2000]
    found = [Observation(_KINDS[word.lower()], int(limit)) for word, limit in _GROQ_LIMIT.findall(message)]
    for metric, limit in _GEMINI_LIMIT.findall(message):
        unit = "t" if "token" in metric.lower() else "r"
        window = "d" if error.error_class is ErrorClass.QUOTA else "m"
        found.append(Observation(_KINDS[f"{unit}p{window}"], int(limit)))
    return found


def closed_by(error: ProviderError, limits: Limits, now: float) -> tuple[Kind, float] | None:
    """Which window a refusal for lack of quota closes, and until when (epoch seconds); None for other errors.

    A refusal for the day that comes within two minutes after the day's reset is a matter of clocks, not of
    quota: it closes the window for a minute, not for a day.
    """
    if error.error_class not in (ErrorClass.RATE_LIMIT, ErrorClass.QUOTA):
        return None
    period = period_of(error)
    named = _KIND_WORD.search(error.message[:2000])
    day = error.error_class is ErrorClass.QUOTA if period is None else period != "minute"
    kind = _KINDS[named[1].lower()] if named else ("rpd" if day else "rpm")
    until = _until(error, limits, now, period=period, day=day)
    return (kind, until) if until is not None else None


def _until(
    error: ProviderError, limits: Limits, now: float, *, period: Period | None, day: bool
) -> float | None:
    start, end = day_bounds(now, limits.reset_zone)
    if (
        day
        and period == "day"
        and now - start < 120
        and (error.reset_at is None or error.reset_at - now > 3600)
    ):
        return now + 60
    wait = error.retry_after_s
    if error.reset_at is not None and math.isfinite(error.reset_at) and error.reset_at > now:
        return error.reset_at
    if wait is not None and math.isfinite(wait) and 0 <= wait <= 31 * 86_400:
        return now + max(wait, 0.5)
    if not day:
        return None
    return next_month(now) if period == "month" else end
