"""The risk budget of one use case: all its deliveries, and the last 500 of them. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

WINDOW = 500
_PARTS = 10
Moments = tuple[float, float]
"""Mean and variance."""


@dataclass(frozen=True, slots=True)
class Part:
    """A tenth of the window, or all that was delivered before it."""

    items: int = 0
    """Accepted deliveries."""
    mean: float = 0.0
    variance: float = 0.0
    """Rejected deliveries expected of strata that were reset since."""
    unjudged: Mapping[int, int] = field(default_factory=dict)
    """Order of a stratum -> deliveries without a check."""


@dataclass(frozen=True, slots=True)
class Account:
    """What one use case has delivered, and what of it may have been rejected."""

    parts: tuple[Part, ...] = (Part(), Part())
    """All before the window; then the window, the oldest tenth first."""
    alarms: int = 0

    @property
    def items(self) -> int:
        """Accepted deliveries: the t of eps * t."""
        return sum(part.items for part in self.parts)

    @property
    def window_items(self) -> int:
        """Those of the window."""
        return sum(part.items for part in self.parts[1:])

    def delivered(self) -> Account:
        """The account after one accepted delivery; the oldest tenth leaves the window when it is full."""
        parts = self._with(items=self.parts[-1].items + 1).parts
        if parts[-1].items >= WINDOW // _PARTS:
            parts = (*parts, Part())
        if len(parts) > 1 + _PARTS:
            old, new, *rest = parts
            before = Part(
                old.items + new.items,
                old.mean + new.mean,
                old.variance + new.variance,
                Counter(old.unjudged) + Counter(new.unjudged),
            )
            parts = (before, *rest)
        return replace(self, parts=parts)

    def charge(self, order: int) -> Account:
        """The account after a delivery without a check was allowed."""
        return self._with(unjudged=Counter(self.parts[-1].unjudged) + Counter([order]))

    def spend(self, mean: float) -> Account:
        """The account with so many more rejected deliveries expected of what was delivered before."""
        return self._with(mean=self.parts[-1].mean + mean)

    def freeze(self, order: int, moments: Moments, worst: float, recent: int) -> Account:
        """The account after a reset: deliveries of `order` cost their rate, the latest ones `worst` each."""
        (rate, variance), parts = moments, list[Part]()
        spread = rate * (1 - rate) + variance * sum(part.unjudged.get(order, 0) for part in self.parts)
        for part in reversed(self.parts):
            count = part.unjudged.get(order, 0)
            dear = min(count, recent)
            recent -= dear
            parts.append(
                Part(
                    part.items,
                    part.mean + dear * worst + (count - dear) * rate,
                    part.variance + count * spread,
                    {o: n for o, n in part.unjudged.items() if o != order},
                )
            )
        return replace(self, parts=tuple(reversed(parts)))

    def expected(self, moments: Callable[[int], Moments], *, window: bool = False) -> Moments:
        """Mean and variance of the rejected deliveries, of all or of the window.

        Args:
            moments: Those of the failure rate of a stratum, by its order.
        """
        parts = self.parts[1:] if window else self.parts
        mean, variance = sum(part.mean for part in parts), sum(part.variance for part in parts)
        counts: Counter[int] = Counter()
        for part in parts:
            counts.update(part.unjudged)
        for order, count in counts.items():
            p, v = moments(order)
            mean, variance = mean + count * p, variance + count * count * v + count * p * (1 - p)
        return mean, variance

    def _with(self, **changes: object) -> Account:
        return replace(self, parts=(*self.parts[:-1], replace(self.parts[-1], **changes)))  # type: ignore[arg-type]
