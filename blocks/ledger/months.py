"""Calendar months of a budget, as `YYYY-MM`."""

from __future__ import annotations

import re
from datetime import datetime
from functools import lru_cache
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from tta_dev_primitives.config.errors import LedgerConfigError

_MONTH = re.compile(r"[0-9]{4}-(0[1-9]|1[0-2])")


@lru_cache(maxsize=32)
def zone(name: str) -> ZoneInfo:
    """The time zone `name`, such as `UTC` or `Europe/Berlin`."""
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise LedgerConfigError(
            f"cost_tracking.timezone: no time zone '{name}' is known here; use a name such as UTC or "
            f"Europe/Berlin"
        ) from None


def month_of(moment: float, timezone: str = "UTC") -> str:
    """The calendar month of `moment` (seconds since 1970) in `timezone`."""
    return datetime.fromtimestamp(moment, zone(timezone)).strftime("%Y-%m")


def day_of(moment: float, timezone: str = "UTC") -> str:
    """The calendar day of `moment` (seconds since 1970) in `timezone`, as `YYYY-MM-DD`."""
    return datetime.fromtimestamp(moment, zone(timezone)).strftime("%Y-%m-%d")


def month_begin(month: str, timezone: str = "UTC") -> float:
    """The moment at which a month begins, seconds since 1970."""
    year, number = checked_month(month).split("-")
    return datetime(int(year), int(number), 1, tzinfo=zone(timezone)).timestamp()


def month_before(month: str) -> str:
    """The calendar month before `month`."""
    year, number = map(int, checked_month(month).split("-"))
    return f"{year - (number == 1):04d}-{(number - 2) % 12 + 1:02d}"


def checked_month(month: str) -> str:
    """`month` itself, when it is written `YYYY-MM`; else `LedgerConfigError`."""
    if not _MONTH.fullmatch(month):
        raise LedgerConfigError(f"Month '{month}': write it as YYYY-MM, such as 2026-11")
    return month
