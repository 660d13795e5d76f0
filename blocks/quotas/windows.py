"""How much of a key's quota is used, and when more is free: minute and day windows. Pure.

Minute limits (RPM, TPM) are kept as a sliding log of half seconds, a little longer than a minute. What passes
it passes every shape a provider may use: fixed minutes at any offset, a sliding minute, a bucket. Day
limits (RPD, TPD) reset at midnight of a time zone. Requests around that midnight count for both days, since
it is unknown on which side of it the provider's clock saw them.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Literal, NamedTuple
from zoneinfo import ZoneInfo

from tta_dev_primitives.config.models.targets import Limits

Kind = Literal["rpm", "tpm", "rpd", "tpd"]
Priority = Literal["interactive", "bulk"]
KINDS: tuple[Kind, ...] = ("rpm", "tpm", "rpd", "tpd")

MINUTE_S = 60.0
TICK_S = 0.5
"""Grain of the minute log; a grant counts from the start of its tick until a minute after its end."""
MARGIN_S = 0.75
"""How much longer than a minute a grant counts, for requests that travel unevenly fast."""
HOLD_S = MINUTE_S + TICK_S + MARGIN_S
KEEP_S = 3 * MINUTE_S
"""How long grants stay in the log, so that a late reply can be compared with what was live at its start."""
DAY_SLACK_S = 5.0
"""How far our clock and the provider's may differ around the day's reset."""
RELEASE_S = 3600.0
"""The share of a day's quota kept for interactive work is given to bulk work this long before the reset."""
RECENT_S = 600.0
LEARNED_FOR_S = 86_400.0
"""A limit that the provider reported is believed for a day; plans change."""
JUST_BEFORE_S = 2.0
"""Requests that left this long before another may reach the provider after it."""

_MINUTE: frozenset[Kind] = frozenset({"rpm", "tpm"})
_TOKENS: frozenset[Kind] = frozenset({"tpm", "tpd"})


@lru_cache(maxsize=4096)
def _day_of(hour: int, zone: str) -> tuple[float, float]:
    tz = ZoneInfo(zone)
    local = datetime.fromtimestamp(hour * 3600, tz)
    start = local.replace(hour=0, minute=0, second=0, microsecond=0, fold=0)
    following = (start + timedelta(days=1)).replace(fold=0)
    return start.timestamp(), following.timestamp()


def day_bounds(now: float, zone: str) -> tuple[float, float]:
    """Start and end, in epoch seconds, of the day that holds `now` in `zone` (23, 24 or 25 hours)."""
    start, end = _day_of(int(now // 3600), zone)
    if start <= now < end:
        return start, end
    return _day_of(int(now // 3600) + 1, zone)


@dataclass(frozen=True, slots=True)
class Observation:
    """What a provider said about one limit, in a header or an error."""

    kind: Kind
    limit: int | None = None
    remaining: int | None = None
    reset_at: float | None = None
    """Epoch seconds at which the limit has quota again; only meaningful when `remaining` is 0."""


class Free(NamedTuple):
    """When a request may go out: seconds from now, and the limit that makes it wait (None: no wait)."""

    wait_s: float
    kind: Kind | None


class _Cap(NamedTuple):
    """At most `limit`; `own` counts only our requests, else also what others used of the same key."""

    limit: int
    own: bool


@dataclass(slots=True)
class _Day:
    """One calendar day's count."""

    start: float = 0.0
    end: float = 0.0
    used: list[int] = field(default_factory=lambda: [0, 0])
    foreign: list[int] = field(default_factory=lambda: [0, 0])
    """What the provider counts beyond our own (others with the same key); below 0 when it counts less."""
    interactive: list[int] = field(default_factory=lambda: [0, 0])


def limited(limits: Limits) -> bool:
    """True when any limit is known, so that requests have to be counted."""
    return any(getattr(limits, kind) is not None for kind in KINDS)


class Windows:
    """All windows of one key and model (or pool of models). Not thread-safe; persisted as JSON text.

    Call `advance(now, limits)` first, then `free_in` and `take` for any number of requests of that moment.
    """

    def __init__(self) -> None:
        # tick -> [our requests, our tokens, others' requests, others' tokens]
        self._log: dict[int, list[int]] = {}
        self._live = [0, 0, 0, 0]
        self._day = _Day()
        self._interactive_at = 0.0
        self.learned: dict[Kind, tuple[int, float]] = {}
        self._closed: dict[Kind, float] = {}
        self._metered_at = 0.0
        """When a header last said how many tokens of the minute are left."""
        self.metered_each = 0.0
        """Tokens a request by that meter, which may count the asked maximum; 0 when there is no meter."""
        self._now = 0.0

    # -- persistence

    @classmethod
    def from_json(cls, text: str | None) -> Windows:
        """Read what `to_json` wrote; None is a scope without any use yet."""
        windows = cls()
        if text:
            data = json.loads(text)
            windows._log = {row[0]: row[1:] for row in data["log"]}
            windows._day = _Day(*data["day"])
            windows._interactive_at = data["interactive_at"]
            windows.learned = {k: (v[0], v[1]) for k, v in data["learned"].items()}
            windows._closed = data["closed"]
            windows._metered_at = data["metered_at"]
            windows.metered_each = data.get("metered_each", 0.0)
        return windows

    def to_json(self) -> str:
        """The state as compact JSON text."""
        day = self._day
        return json.dumps(
            {
                "log": [[tick, *counts] for tick, counts in self._log.items()],
                "day": [day.start, day.end, day.used, day.foreign, day.interactive],
                "interactive_at": self._interactive_at,
                "learned": self.learned,
                "closed": self._closed,
                "metered_at": self._metered_at,
                "metered_each": self.metered_each,
            },
            separators=(",", ":"),
        )

    # -- time

    def advance(self, now: float, limits: Limits) -> None:
        """Forget what has left the windows at `now`, and begin a new day when its reset has passed."""
        self._now = now
        oldest, newest = int((now - KEEP_S) / TICK_S), int((now + MINUTE_S) / TICK_S)
        # Entries far in the future come from a clock that was set back since: nothing can be said of them.
        self._log = {t: c for t, c in sorted(self._log.items()) if oldest <= t <= newest}
        self._live = self._since(now - HOLD_S)
        self._closed = {k: until for k, until in self._closed.items() if until > now}
        self.learned = {k: v for k, v in self.learned.items() if now - v[1] < LEARNED_FOR_S}
        start, end = day_bounds(now - DAY_SLACK_S, limits.reset_zone)
        if start > self._day.start:
            carried = self._since(start - DAY_SLACK_S)
            self._day = _Day(start, end, used=carried[:2])

    def _since(self, moment: float) -> list[int]:
        """Sums of the log from the tick after `moment` on."""
        total = [0, 0, 0, 0]
        for tick, counts in self._log.items():
            if tick * TICK_S > moment:
                for i in range(4):
                    total[i] += counts[i]
        return total

    # -- asking and taking

    def free_in(self, limits: Limits, tokens: int, priority: Priority) -> Free:
        """How long one request of `tokens` must wait, after `advance`. Infinite when it can never fit."""
        worst = Free(0.0, None)
        for kind in KINDS:
            wait = max(0.0, self._closed.get(kind, 0.0) - self._now)
            need = tokens if kind in _TOKENS else 1
            for cap in self._caps(kind, limits):
                ask = self._minute_wait if kind in _MINUTE else self._day_wait
                kept = self._kept(kind, cap) if priority == "bulk" else 0
                wait = max(wait, math.inf if need > cap.limit else ask(kind, cap, need, kept))
            if wait > worst.wait_s:
                worst = Free(wait, kind)
        return worst

    def take(self, tokens: int, priority: Priority) -> None:
        """Count one request of `tokens` as sent now, whether or not it fits."""
        counts = self._log.setdefault(int(self._now / TICK_S), [0, 0, 0, 0])
        for i, amount in ((0, 1), (1, tokens)):
            counts[i] += amount
            self._live[i] += amount
            self._day.used[i] += amount
            if priority == "interactive":
                self._day.interactive[i] += amount
        self.want(priority)

    def want(self, priority: Priority) -> None:
        """Note that somebody asked: bulk work leaves more headroom while people are about."""
        if priority == "interactive":
            self._interactive_at = self._now

    def _caps(self, kind: Kind, limits: Limits) -> list[_Cap]:
        declared: int | None = getattr(limits, kind)
        learned = self.learned.get(kind)
        caps: list[_Cap] = []
        if learned is not None:
            caps.append(_Cap(learned[0], own=False))
        if declared is not None and (limits.source == "config" or learned is None):
            # With nothing learned, what others used is unknown and 0, so one cap serves both meanings.
            caps.append(_Cap(declared, own=learned is not None))
        return caps

    def _used(self, kind: Kind, cap: _Cap) -> int:
        i = 1 if kind in _TOKENS else 0
        if kind in _MINUTE:
            return self._live[i] + (0 if cap.own else self._live[i + 2])
        return self._day.used[i] + (0 if cap.own else self._day.foreign[i])

    def _kept(self, kind: Kind, cap: _Cap) -> int:
        """What bulk work leaves to interactive work; of a day less what that has used, and nothing near its end."""
        kept = self.kept_for_people(cap.limit)
        if kind in _MINUTE:
            return kept
        if self._until_reset() <= RELEASE_S:
            return 0
        return max(0, kept - self._day.interactive[1 if kind in _TOKENS else 0])

    def _until_reset(self) -> float:
        return self._day.end + DAY_SLACK_S - self._now

    def _minute_wait(self, kind: Kind, cap: _Cap, need: int, kept: int) -> float:
        i, used, open_to_us = 1 if kind in _TOKENS else 0, self._used(kind, cap), cap.limit - kept
        if used + need <= open_to_us or used <= 0:
            return 0.0
        for tick in sorted(t for t in self._log if t * TICK_S > self._now - HOLD_S):
            counts = self._log[tick]
            used -= counts[i] + (0 if cap.own else counts[i + 2])
            if used + need <= open_to_us or used <= 0:
                return max(TICK_S, tick * TICK_S + HOLD_S - self._now)
        return HOLD_S

    def _day_wait(self, kind: Kind, cap: _Cap, need: int, kept: int) -> float:
        used = self._used(kind, cap)
        if used + need > cap.limit:
            return max(TICK_S, self._until_reset())
        return 0.0 if used + need <= cap.limit - kept or used <= 0 else self._until_reset() - RELEASE_S

    # -- what became of it

    def correct(
        self, sent_at: float, tokens: int, requests: int = 0, *, priority: Priority, unsent: bool = False
    ) -> None:
        """Change the count of the request granted at `sent_at`; negative amounts lower it."""
        tick = int(sent_at / TICK_S)
        counts = self._log.get(tick)
        # A provider that reports what is left of the minute may count the asked maximum: then it decides.
        metered = not unsent and self._now - self._metered_at < RECENT_S
        for i, amount in ((0, requests), (1, tokens)):
            if counts is not None and not (i == 1 and amount < 0 and metered):
                self._change(tick, i, max(amount, -counts[i]))
            if sent_at >= self._day.start - DAY_SLACK_S:
                self._day.used[i] = max(0, self._day.used[i] + amount)
                if priority == "interactive":
                    self._day.interactive[i] = max(0, self._day.interactive[i] + amount)

    def observe(self, seen: Observation, sent_at: float) -> None:
        """Learn from what the provider said in its answer to a request that was sent at `sent_at`."""
        if seen.limit is not None and seen.limit >= 0:
            self.learned[seen.kind] = (seen.limit, self._now)
        if seen.remaining is not None and seen.limit is not None:
            used_there = seen.limit - max(0, seen.remaining)
            i = 1 if seen.kind in _TOKENS else 0
            if seen.kind in _MINUTE:
                self._observe_minute(i, used_there, sent_at)
            else:
                self._observe_day(i, used_there, sent_at)
        if seen.kind == "tpm" and seen.remaining is not None:
            self._metered_at = self._now
            requests, tokens, more_requests, more_tokens = self._since(0.0)
            self.metered_each = (tokens + more_tokens) / max(1, requests + more_requests)
        if seen.remaining == 0 and seen.reset_at is not None:
            self.close(seen.kind, seen.reset_at)

    def close(self, kind: Kind, until: float) -> None:
        """The provider says that nothing is left of `kind` before `until` (epoch seconds)."""
        if until > self._now:
            self._closed[kind] = max(until, self._closed.get(kind, 0.0))

    def _change(self, tick: int, column: int, amount: int) -> None:
        self._log.setdefault(tick, [0, 0, 0, 0])[column] += amount
        if tick * TICK_S > self._now - HOLD_S:
            self._live[column] += amount

    def _observe_minute(self, i: int, used_there: int, sent_at: float) -> None:
        if sent_at - HOLD_S < self._now - KEEP_S:
            return
        # More there than all that was live when the request left: others use the key too.
        live_then = self._since(sent_at - HOLD_S)
        others = used_there - live_then[i] - live_then[i + 2]
        if others > 0:
            self._change(int(sent_at / TICK_S), i + 2, others)
            return
        # Less there than we count now, even with all that has left since: forget the oldest of ours.
        excess = self._live[i] + self._live[i + 2] - used_there
        since = self._since(sent_at - JUST_BEFORE_S)
        excess -= since[i] + since[i + 2]
        for tick in sorted(
            t for t in self._log if self._now - HOLD_S < t * TICK_S <= sent_at - JUST_BEFORE_S
        ):
            for column in (i + 2, i):
                back = min(max(excess, 0), self._log[tick][column])
                self._change(tick, column, -back)
                excess -= back

    def _observe_day(self, i: int, used_there: int, sent_at: float) -> None:
        old = sent_at - 2 * DAY_SLACK_S < self._now - KEEP_S
        if old or sent_at < self._day.start + DAY_SLACK_S:
            return
        # Whatever left after this request (or just before it) may not be in the provider's figure yet.
        possible = used_there + self._since(sent_at - 2 * DAY_SLACK_S)[i]
        known = self._day.used[i] + self._day.foreign[i]
        self._day.foreign[i] += min(max(known, used_there), possible) - known

    # -- figures for plans

    def kept_for_people(self, limit: int) -> int:
        """The part of `limit` that bulk work leaves to interactive work: more while people are about."""
        return limit // 5 if self._now - self._interactive_at < RECENT_S else limit // 30

    def cap(self, kind: Kind, limits: Limits) -> int | None:
        """The limit of `kind` that holds, declared or learned; None when none is known."""
        return min((cap.limit for cap in self._caps(kind, limits)), default=None)

    def left(self, kind: Kind, limits: Limits) -> int | None:
        """What is left of `kind` for bulk work now, after `advance`; None when no limit is known."""
        caps = self._caps(kind, limits)
        return min((max(0, c.limit - self._kept(kind, c) - self._used(kind, c)) for c in caps), default=None)

    def used_today(self, kind: Kind) -> int:
        """What the day has used of `rpd` or `tpd`, by us and by others with the same key, after `advance`."""
        i = 1 if kind in _TOKENS else 0
        return max(0, self._day.used[i] + self._day.foreign[i])

    def day_ends(self) -> float:
        """Epoch seconds at which the day's count begins again; 0 before the first use."""
        return self._day.end

    def closed_until(self) -> float:
        """The latest moment any kind is closed by the provider's word; 0 when none is."""
        return max(self._closed.values(), default=0.0)
