"""How long a job takes under the quotas, and which limit binds: for `tta estimate` and the ETA. Pure.

A model's supply is the number of tasks that its windows let through by a moment, day after day: what is left
of today, then each following day's quota, never faster than its minute limits. A job is done when the
supplies of its models together reach its tasks, provided that the work goes to whichever model has quota.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from tta_dev_primitives.blocks.quotas.windows import (
    DAY_SLACK_S,
    HOLD_S,
    KINDS,
    RELEASE_S,
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


_Steps = Sequence[tuple[float, float]]
"""(seconds from the start, tasks): what comes free then, and again each cycle."""


@dataclass(frozen=True, slots=True)
class _Model:
    """One model's limits in tasks instead of requests and tokens; an absent kind is no limit."""

    zone: str
    opens_at: float
    caps: Mapping[Kind, float]
    """Tasks a window, without what is kept for interactive work."""
    left: Mapping[Kind, float]
    """Tasks still open now."""
    kept: Mapping[Kind, float]
    """Tasks of a day that are released before its end."""
    opening: Mapping[Kind, _Steps]
    """How the present minute comes free."""

    def without(self, kind: Kind) -> _Model:
        """The same model with one limit lifted."""
        return replace(self, caps={k: v for k, v in self.caps.items() if k != kind})

    def lowest(self, figures: Mapping[Kind, float], kinds: Sequence[Kind]) -> float:
        """The lowest of the figures whose limit is known."""
        return min((figures[k] for k in kinds if k in self.caps), default=math.inf)


class _Span(NamedTuple):
    """A stretch of time with its own store of tasks."""

    start: float
    end: float
    store: float
    """Tasks that the day's limits let through in it."""
    steps: Sequence[_Steps]
    """For each minute limit, how it comes free."""

    def supply(self, t: float) -> float:
        """Tasks let through from the start of the span to `t`."""
        elapsed = min(t, self.end) - self.start
        if elapsed < 0:
            return 0.0
        flow = (
            sum(tasks * (1 + (elapsed - at) // _CYCLE_S) for at, tasks in steps if elapsed >= at)
            for steps in self.steps
        )
        return min(self.store, min(flow, default=math.inf))


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
    seconds = _quota_time(n_tasks, [_Supply(n_tasks, model, now) for model in models.values()], now)
    work_s = n_tasks * latency_s / max(1, concurrency)
    return Plan(
        seconds=max(seconds + latency_s, work_s),
        binding=_binding(n_tasks, models, now, seconds) if seconds > work_s else None,
        share=dict.fromkeys(limits_by_model, 0) | _share(n_tasks, models, now, seconds),
    )


def _model(limits: Limits, book: Windows, opens_at: float, tokens: float) -> _Model:
    caps: dict[Kind, float] = {}
    left: dict[Kind, float] = {}
    kept: dict[Kind, float] = {}
    opening: dict[Kind, _Steps] = {}
    for kind in KINDS:
        cap, open_now = book.cap(kind, limits), book.left(kind, limits)
        if cap is None or open_now is None:
            continue
        # A provider that counts the asked maximum lets fewer through than what the replies use says.
        each = max(tokens, book.metered_each) if kind in ("tpm", "tpd") else 1.0
        kept[kind] = 0.0 if kind in _PER_MINUTE else book.kept_for_people(cap) // each
        whole = cap - (book.kept_for_people(cap) if kind in _PER_MINUTE else 0)
        # A request larger than the share for bulk work still passes through an empty window.
        caps[kind] = whole // each or cap // each
        left[kind] = open_now // each
        opening[kind] = [(0.0, left[kind]), *((at, amount / each) for at, amount in book.comes_free(kind))]
    return _Model(limits.reset_zone, opens_at, caps, left, kept, opening)


def _quota_time(n: int, supplies: Sequence[_Supply], now: float) -> float:
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


class _Supply:
    """One model's spans, until it alone would be done with `n` tasks, and what they let through."""

    def __init__(self, n: int, model: _Model, now: float) -> None:
        self._spans: list[_Span] = []
        self._before: list[float] = []
        total = 0.0
        for span in _spans(model, now):
            self._spans.append(span)
            self._before.append(total)
            total += span.supply(span.end)
            if total >= n:
                break
        self.end = self._spans[-1].end if self._spans else now

    def by(self, t: float) -> float:
        """Tasks let through by `t`."""
        i = bisect_right(self._spans, t, key=lambda span: span.start) - 1
        return self._before[i] + self._spans[i].supply(t) if i >= 0 else 0.0


def _spans(model: _Model, now: float) -> Iterator[_Span]:
    """Each day twice: until the share kept for interactive work is released, and from then to the reset."""
    fresh = [[(0.0, model.caps[k])] for k in _PER_MINUTE if k in model.caps]
    fast_start = model.opens_at > now + _CYCLE_S
    steps: Sequence[_Steps] = (
        fresh if fast_start else [model.opening[k] for k in _PER_MINUTE if k in model.caps]
    )
    start, full = model.opens_at, model.lowest(model.caps, _PER_DAY)
    if min(full, model.lowest(model.caps, _PER_MINUTE)) < 1:
        return
    if math.isinf(full):
        yield _Span(start, start + _LONGEST_DAYS * 86_400.0, full, steps)
        return
    kept = model.lowest(model.kept, _PER_DAY)
    today = day_bounds(start - DAY_SLACK_S, model.zone)[0] <= now
    early = model.lowest(model.left, _PER_DAY) if today else full - kept
    for _ in range(_LONGEST_DAYS):
        end = day_bounds(start - DAY_SLACK_S, model.zone)[1] + DAY_SLACK_S
        release = max(start, end - RELEASE_S)
        late = kept
        if release > start:
            span = _Span(start, release, early, steps)
            yield span
            late += early - span.supply(release)
            steps = fresh
        elif today:
            late = early
        yield _Span(release, end, late, steps)
        start, steps, early, today = end, fresh, full - kept, False


def _binding(n: int, models: Mapping[str, _Model], now: float, seconds: float) -> Binding | None:
    """Try the job without each limit in turn: the one that saves most binds."""
    best, binding = seconds, None
    supplies = {name: _Supply(n, model, now) for name, model in models.items()}
    for name, model in models.items():
        for kind in model.caps:
            lifted = {**supplies, name: _Supply(n, model.without(kind), now)}
            shorter = _quota_time(n, list(lifted.values()), now)
            if shorter < best:
                best, binding = shorter, Binding(name, kind)
    return binding


def _share(n: int, models: Mapping[str, _Model], now: float, seconds: float) -> dict[str, int]:
    left, share = n, {}
    for name, model in models.items():
        share[name] = min(left, math.floor(min(_Supply(n, model, now).by(now + seconds), n)))
        left -= share[name]
    return share
