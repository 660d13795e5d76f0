"""How long a job takes under the quotas, and which limit binds: for `tta estimate` and the ETA. Pure.

A model's supply is the number of tasks that its windows let through by a moment, day after day: what is left
of today, then each following day's quota, never faster than its minute limits. A job is done when the
supplies of its models together reach its tasks, provided that the work goes to whichever model has quota.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from tta_dev_primitives.blocks.quotas.windows import (
    DAY_SLACK_S,
    HOLD_S,
    KINDS,
    TICK_S,
    Kind,
    Windows,
    day_bounds,
)
from tta_dev_primitives.config.models.targets import Limits

_CYCLE_S = HOLD_S - TICK_S / 2
"""How long a grant blocks its place in the minute, on average."""
_PER_MINUTE: tuple[Kind, ...] = ("rpm", "tpm")
_PER_DAY: tuple[Kind, ...] = ("rpd", "tpd")
_LONGEST_DAYS = 366


class Binding(NamedTuple):
    """The limit whose lifting would shorten the job most."""

    model: str
    kind: Kind


@dataclass(frozen=True, slots=True)
class Plan:
    """What a job needs."""

    seconds: float
    """From now until the last task is done; infinite when the quotas do not allow it within a year."""
    binding: Binding | None
    """None: no quota binds, latency and concurrency do."""
    share: Mapping[str, int]
    """Tasks by model, in the order of the models."""


@dataclass(frozen=True, slots=True)
class _Model:
    """One model's limits in tasks instead of requests and tokens; an absent kind is no limit."""

    zone: str
    opens_at: float
    caps: Mapping[Kind, float]
    """Tasks a window."""
    left: Mapping[Kind, float]
    """Tasks still open now."""


class _Day(NamedTuple):
    start: float
    before: float
    """Tasks let through before it."""
    first: float
    """Tasks of its first minute."""
    store: float
    """Tasks that the day's limits let through in it."""


def time_needed(
    n_tasks: int,
    tokens_each: float,
    limits_by_model: Mapping[str, Limits],
    now: float,
    *,
    windows: Mapping[str, Windows] | None = None,
    blocked_until: Mapping[str, float] | None = None,
    latency_s: float = 0.0,
    concurrency: int = 50,
) -> Plan:
    """Estimate how long `n_tasks` take on these models together.

    Args:
        n_tasks: Requests still to send (for a job with retries: tasks times attempts).
        tokens_each: Mean tokens of one request, as counted against TPM and TPD.
        limits_by_model: The free models of the job, in order of preference.
        now: Epoch seconds.
        windows: What is used of each model's quota (`Quota.snapshot`), with what was learned of its limits.
        blocked_until: Models that are out until then (`Availability.blocked`).
        latency_s: Mean seconds of one request.
        concurrency: Requests in flight at most.
    """
    if n_tasks <= 0:
        return Plan(0.0, None, dict.fromkeys(limits_by_model, 0))
    models: dict[str, _Model] = {}
    pools: set[str] = set()
    for name, limits in limits_by_model.items():
        if limits.pool is None or limits.pool not in pools:
            book = (windows or {}).get(name) or Windows()
            book.advance(now, limits)
            opens_at = max(now, (blocked_until or {}).get(name, 0.0), book.closed_until())
            models[name] = _model(limits, book, opens_at, max(tokens_each, 1.0))
            pools.update([limits.pool] if limits.pool else [])
    supplies = {name: _Supply(n_tasks, model, now) for name, model in models.items()}
    seconds = _quota_time(n_tasks, supplies.values(), now)
    work_s = n_tasks * latency_s / max(1, concurrency)
    return Plan(
        seconds=max(seconds + latency_s, work_s),
        binding=_binding(n_tasks, models, supplies, now, seconds) if seconds > work_s else None,
        share=dict.fromkeys(limits_by_model, 0) | _share(n_tasks, supplies, now + seconds),
    )


def _model(limits: Limits, book: Windows, opens_at: float, tokens: float) -> _Model:
    caps: dict[Kind, float] = {}
    left: dict[Kind, float] = {}
    for kind in KINDS:
        cap, open_now = book.cap(kind, limits), book.left(kind, limits)
        if cap is None or open_now is None:
            continue
        # A provider that counts the asked maximum lets fewer through than what the replies use says.
        each = max(tokens, book.metered_each) if kind in ("tpm", "tpd") else 1.0
        # What a day keeps for interactive work is released before its end.
        whole = cap - (book.kept_for_people(cap) if kind in _PER_MINUTE else 0)
        # A request larger than the share for bulk work still passes through an empty window.
        caps[kind] = whole // each or cap // each
        left[kind] = open_now // each
    return _Model(limits.reset_zone, opens_at, caps, left)


class _Supply:
    """What one model lets through, day after day, until it alone would be done with `n` tasks."""

    def __init__(self, n: int, model: _Model, now: float, lifted: Kind | None = None) -> None:
        def lowest(figures: Mapping[Kind, float], kinds: Sequence[Kind]) -> float:
            return min((figures[k] for k in kinds if k in figures and k != lifted), default=math.inf)

        self._minute, of_day = lowest(model.caps, _PER_MINUTE), lowest(model.caps, _PER_DAY)
        self._days: list[_Day] = []
        self.end = now
        if min(self._minute, of_day) < 1:
            return
        start, total = model.opens_at, 0.0
        minute_is_new = start > now  # nothing is sent until then, and a provider that said so counts anew
        day_is_new = day_bounds(start - DAY_SLACK_S, model.zone)[0] > now
        first = self._minute if minute_is_new else lowest(model.left, _PER_MINUTE)
        store = of_day if day_is_new else lowest(model.left, _PER_DAY)
        for _ in range(_LONGEST_DAYS):
            self._days.append(_Day(start, total, first, store))
            self.end = day_bounds(start - DAY_SLACK_S, model.zone)[1] + DAY_SLACK_S
            total = self.by(self.end)
            if total >= n:
                return
            start, first, store = self.end, self._minute, of_day

    def by(self, t: float) -> float:
        """Tasks let through by `t`."""
        i = bisect_right(self._days, t, key=lambda day: day.start) - 1
        if i < 0:
            return 0.0
        day = self._days[i]
        minutes = (min(t, self.end) - day.start) // _CYCLE_S
        return day.before + min(day.store, day.first + (self._minute * minutes if minutes else 0))


def _quota_time(n: int, supplies: Collection[_Supply], now: float) -> float:
    """Seconds until the supplies add up to `n`, by bisection."""
    low, high = now, max((supply.end for supply in supplies), default=now)
    if sum(supply.by(high) for supply in supplies) < n:
        return math.inf
    if sum(supply.by(now) for supply in supplies) >= n:
        return 0.0
    while high - low > 0.5:
        middle = (low + high) / 2
        enough = sum(supply.by(middle) for supply in supplies) >= n
        low, high = (low, middle) if enough else (middle, high)
    return high - now


def _binding(
    n: int, models: Mapping[str, _Model], supplies: Mapping[str, _Supply], now: float, seconds: float
) -> Binding | None:
    """Try the job without each limit in turn: the one that saves most binds."""
    best, binding = seconds, None
    for name, model in models.items():
        for kind in model.caps:
            lifted = {**supplies, name: _Supply(n, model, now, lifted=kind)}
            shorter = _quota_time(n, lifted.values(), now)
            if shorter < best:
                best, binding = shorter, Binding(name, kind)
    return binding


def _share(n: int, supplies: Mapping[str, _Supply], end: float) -> dict[str, int]:
    left, share = n, {}
    for name, supply in supplies.items():
        share[name] = min(left, math.floor(min(supply.by(end), n)))
        left -= share[name]
    return share
