"""Drift alarms: a Shiryaev-Roberts detector on yes/no events, for audits and free disagreement. Pure."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Watch", "watch"]

_WARM_UP = 30
_CAUTION = 1.5
_LEAST_CAUTION = 0.02
"""Standard errors, or this much, added to the old rate: a lucky start must not make the usual look like a rise."""
_LARGE = 0.15
"""The smallest rise of a rate that is worth an alarm."""


@dataclass(frozen=True, slots=True)
class Watch:
    """One watched rate: `k` bad events among `n`, and the detector's statistic."""

    n: int = 0
    k: int = 0
    statistic: float = 0.0


def watch(state: Watch, *, bad: bool, patience: float) -> tuple[Watch, bool]:
    """Take one event; True when the rate has risen beyond doubt.

    While the rate stays where it was, a false alarm comes once in about `patience` events at the
    earliest: the statistic grows by one an event in expectation. The old rate is what was seen so far
    plus one standard error, so that a lucky start does not alarm; the first events only teach it.

    Args:
        bad: Whether this event was a failure (or a disagreement).
        patience: The alarm level; larger is slower and calmer.
    """
    n, k = state.n, state.k
    statistic = state.statistic
    if n >= _WARM_UP:
        rate = (k + 1) / (n + 10)
        old = min(0.85, rate + max(_LEAST_CAUTION, _CAUTION * (rate * (1 - rate) / n) ** 0.5))
        new = min(0.97, max(old + _LARGE, 1.6 * old))
        likelihood = new / old if bad else (1 - new) / (1 - old)
        statistic = (1 + statistic) * likelihood
        if statistic >= patience:
            return Watch(), True
    return Watch(n + 1, k + bad, statistic), False
