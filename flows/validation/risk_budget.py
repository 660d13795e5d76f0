"""The risk budget of one use case: all its deliveries, and the last 500 of them. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

WINDOW = 500
_BUCKETS = 10
Moments = tuple[float, float]
"""Mean and variance."""


@dataclass(frozen=True, slots=True)
class Bucket:
    """A tenth of the window."""

    items: int = 0
    charged: float = 0.0
    mean: float = 0.0
    """Rejected deliveries expected of strata that were reset since."""
    unjudged: Mapping[int, int] = field(default_factory=dict)
    """Order of a stratum -> deliveries without a check."""


@dataclass(frozen=True, slots=True)
class Account:
    """What one use case has delivered, and what of it may have been rejected."""

    items: int = 0
    """Accepted deliveries: the t of eps * t."""
    charged: float = 0.0
    """Sum of upper bounds of un-judged deliveries (gate `strict`)."""
    mean: float = 0.0
    variance: float = 0.0
    """Rejected deliveries expected of strata that were reset (gate `balanced`)."""
    alarms: int = 0
    window: tuple[Bucket, ...] = (Bucket(),)

    def delivered(self) -> Account:
        """The account after one accepted delivery; the oldest tenth of the window leaves when it is full."""
        window = (*self.window[:-1], replace(self.window[-1], items=self.window[-1].items + 1))
        if window[-1].items >= WINDOW // _BUCKETS:
            window = (*window, Bucket())[-_BUCKETS:]
        return replace(self, items=self.items + 1, window=window)

    def charge(self, order: int, bound: float) -> Account:
        """The account after a delivery without a check was allowed."""
        last = self.window[-1]
        unjudged = {**last.unjudged, order: last.unjudged.get(order, 0) + 1}
        last = replace(last, charged=last.charged + bound, unjudged=unjudged)
        return replace(self, charged=self.charged + bound, window=(*self.window[:-1], last))

    def spend(self, mean: float) -> Account:
        """The account with so many more rejected deliveries expected of what was delivered before."""
        last = replace(self.window[-1], mean=self.window[-1].mean + mean)
        return replace(self, mean=self.mean + mean, window=(*self.window[:-1], last))

    def freeze(self, order: int, rate: float, worst: float, recent: int) -> Account:
        """The account after a reset: the window's deliveries of `order` cost `rate` each, the latest ones `worst`."""
        buckets: list[Bucket] = []
        for bucket in reversed(self.window):
            count = bucket.unjudged.get(order, 0)
            dear = min(count, recent)
            recent -= dear
            left = {o: n for o, n in bucket.unjudged.items() if o != order}
            mean = bucket.mean + dear * worst + (count - dear) * rate
            buckets.append(replace(bucket, mean=mean, unjudged=left))
        return replace(self, window=tuple(reversed(buckets)))

    @property
    def window_items(self) -> int:
        """Accepted deliveries of the window."""
        return sum(bucket.items for bucket in self.window)

    @property
    def window_charged(self) -> float:
        """Sum of upper bounds in the window."""
        return sum(bucket.charged for bucket in self.window)

    def window_expected(self, moments: Callable[[int], Moments]) -> Moments:
        """Mean and variance of the rejected deliveries of the window.

        Args:
            moments: Those of the failure rate of a stratum, by its order.
        """
        counts: dict[int, int] = {}
        mean = 0.0
        for bucket in self.window:
            mean += bucket.mean
            for order, count in bucket.unjudged.items():
                counts[order] = counts.get(order, 0) + count
        variance = 0.0
        for order, count in counts.items():
            p, v = moments(order)
            mean, variance = mean + count * p, variance + count * count * v + count * p * (1 - p)
        return mean, variance
