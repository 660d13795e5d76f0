"""Arguments of a job as people write them: amounts, waits, moments, counts. Pure; the command line shares it.

Each function takes the argument's name, for the message, and its value; it raises a `ConfigError` that names the forms.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime, tzinfo
from decimal import Decimal, InvalidOperation
from functools import partial
from typing import Any, NoReturn

from tta_dev_primitives.config.errors import ConfigError

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_ENDLESS = ("inf", "infinity", "forever", "never")


def usd_amount(name: str, value: object) -> Decimal:
    """An amount of USD, 0 or more, from `2`, `"2.50"`, `"$2.50"` or a Decimal."""
    amount = Decimal(-1)
    if isinstance(value, (int, float, Decimal, str)) and not isinstance(value, bool):
        # A float counts as it is written: 0.1 is ten cents. A whole number of thousands of digits has no text.
        with suppress(InvalidOperation, ValueError):
            amount = Decimal(str(value).strip().removeprefix("$").replace("_", " "))
    if not amount.is_finite() or not 0 <= amount < 10**12:
        _refuse(name, value, 'USD such as 2.50 or "2.50"')
    return amount


def duration(name: str, value: object) -> float:
    """Seconds, 0 or more, from a number or `90s`, `30m`, `4h`, `2d`; `inf` is without end."""
    seconds = -1.0
    with suppress(ValueError, OverflowError):
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            seconds = float(value)
        elif isinstance(value, str):
            word = value.strip().lower()
            unit = _UNITS.get(word[-1:], 0)
            seconds = math.inf if word in _ENDLESS else float(word[:-1]) * unit if unit else float(word)
    if not (0 <= seconds < 10**9 or seconds == math.inf):
        _refuse(name, value, "0, 90s, 30m, 4h, 2d or inf")
    return seconds


def moment(name: str, value: object, *, zone: tzinfo | None = UTC) -> datetime:
    """A moment from an ISO text or a datetime.

    Args:
        zone: For a moment without a zone; None: the local one.
    """
    found = None
    # The first and the last day of the calendar are not there in every zone.
    with suppress(ValueError, OverflowError):
        given = datetime.fromisoformat(value.strip()) if isinstance(value, str) else value
        if isinstance(given, datetime) and given.tzinfo is None:
            found = given.astimezone() if zone is None else given.replace(tzinfo=zone)
        elif isinstance(given, datetime):
            found = given
    if found is None:
        _refuse(name, value, "a moment such as 2026-11-30T18:00 or 2026-11-30T18:00+00:00")
    return found


def whole(name: str, value: object, *, most: int = 1000) -> int:
    """A whole number from 1 to `most`, also as text."""
    number = (
        int(value) if isinstance(value, str) and value.strip().isdecimal() and len(value) < 100 else value
    )
    if type(number) is not int or not 1 <= number <= most:
        _refuse(name, value, f"a whole number from 1 to {most:,}")
    return number


def choice(name: str, value: object, choices: Sequence[str]) -> str:
    """One of `choices`."""
    if not isinstance(value, str) or value not in choices:
        _refuse(name, value, " or ".join(choices))
    return value


def flag(name: str, value: object) -> bool:
    """True or False."""
    if not isinstance(value, bool):
        _refuse(name, value, "True or False")
    return value


def patience(name: str, value: object) -> float | None:
    """How long a job waits for free quota, seconds; None is without end."""
    seconds = math.inf if value is None else duration(name, value)
    return None if math.isinf(seconds) else seconds


_READ: Mapping[str, Callable[[str, object], Any]] = {
    "concurrency": whole,
    "max_cost": usd_amount,
    "until": partial(moment, zone=None),
    "patience_s": patience,
    "chunk_size": whole,
    "detail": partial(choice, choices=("chunk", "item")),
    "keep_going": flag,
    "allow_extra": flag,
    "batch": flag,
}
_OPTIONAL = ("max_cost", "until", "patience_s", "chunk_size")


def job_options(given: Mapping[str, Any]) -> dict[str, Any]:
    """The options of `execute_bulk`, each checked and in the form that a job takes.

    Args:
        given: Options by name; a moment without a zone is local time.

    Raises:
        ConfigError: An option is unknown or wrong; the message names it and the forms it may have.
    """
    unknown = sorted(set(given) - set(_READ))
    if unknown:
        raise ConfigError(f"execute_bulk: unknown option {unknown[0]!r}. Known: {', '.join(sorted(_READ))}.")
    return {
        name: value if value is None and name in _OPTIONAL else _READ[name](name, value)
        for name, value in given.items()
    }


def _refuse(name: str, value: object, expected: str) -> NoReturn:
    shown = "that number" if isinstance(value, int) and abs(value) >= 10**80 else f"{value!r:.80}"
    raise ConfigError(f"{name}: {shown} is not accepted. Expected {expected}.")
