"""Whether the clock that decides the month agrees with what providers write into the `Date` of their replies.

A month that begins too early or too late lets more be spent than its limit. Which clock is wrong cannot be known
from one: paid calls stop only while every provider that has sent its time disagrees with ours by more than five
minutes, and go on by themselves once the clock is set. A server on this machine has its clock, a reply in clear text
can be changed on its way: neither counts.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from email.utils import parsedate_to_datetime
from urllib.parse import urlsplit

from tta_dev_primitives.blocks.providers.address_rules import address_of, is_private_host
from tta_dev_primitives.config.models.targets import Target

LARGEST_SKEW_S = 300.0
_SHOWN = (("days", 86_400.0), ("hours", 3_600.0), ("minutes", 60.0))


def _steady() -> float:
    """Seconds that no setting of the clock changes, and that a sleeping machine counts as well."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


class ProviderClocks:
    """What providers have said of the time, kept against a clock that cannot be set."""

    def __init__(self, steady: Callable[[], float] = _steady) -> None:
        self._steady = steady
        self._heard: dict[str, tuple[float, float]] = {}
        """Earliest and latest of: the provider's clock less the steady one."""

    def hear(self, provider: str, date: str | None, took_s: float) -> None:
        """Keep the `Date` of a reply that has just been read; what is no date says nothing.

        Args:
            provider: Whose clock it is: its name, or `name|address`.
            date: The header, such as `Tue, 24 Nov 2026 01:00:00 GMT`.
            took_s: Seconds from asking to here; the header was written somewhere within them.
        """
        try:
            theirs = parsedate_to_datetime(date or "").timestamp()
        except (ValueError, OverflowError, OSError):
            return
        offset = theirs - self._steady()
        self._heard[provider] = (offset, offset + took_s)

    @property
    def silent(self) -> bool:
        """No provider has sent its time."""
        return not self._heard

    def agreeing(self, now: float) -> str | None:
        """A provider whose clock agrees with `now` (seconds since 1970); None when none does."""
        steady = self._steady()
        agree = (n for n, span in self._heard.items() if abs(_outside(now - steady, *span)) <= LARGEST_SKEW_S)
        return next(agree, None)

    def refusal(self, now: float) -> str | None:
        """Why no paid call may be made at `now` (seconds since 1970), as the ledger's clock has it."""
        steady = self._steady()
        skews = {name: _outside(now - steady, *span) for name, span in self._heard.items()}
        if not skews or any(abs(skew) <= LARGEST_SKEW_S for skew in skews.values()):
            return None
        name, skew = min(skews.items(), key=lambda item: abs(item[1]))
        host = name.partition("|")[0]
        return (
            f"The clock is {skew_text(skew)} that of {host}: "
            "no paid call is made, its month could be the wrong one. Set the clock."
        )


def vouches(target: Target) -> bool:
    """Whether the time that comes from a target is another clock's: by TLS, from no private address."""
    parts = urlsplit(address_of(target) or "")
    return parts.scheme == "https" and not is_private_host(parts.hostname or "")


def skew_text(skew: float) -> str:
    """A difference in words, such as `40 days ahead of`."""
    unit, seconds = next(((u, s) for u, s in _SHOWN if abs(skew) >= 2 * s), _SHOWN[-1])
    return f"{abs(skew) / seconds:.0f} {unit} {'ahead of' if skew > 0 else 'behind'}"


def _outside(ours: float, earliest: float, latest: float) -> float:
    """How far our clock lies outside of what the provider's may be."""
    return ours - latest if ours > latest else min(0.0, ours - earliest)
