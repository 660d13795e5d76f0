"""Rates of failure from labels: an any-time bound, posteriors, coins that cannot be drawn again, a drift detector.

Sources: Beta-mixture confidence sequences (Robbins 1970; Howard, Ramdas, McAuliffe, Sekhon 2021), inverse-probability
weights (Horvitz and Thompson 1952), Ville's inequality (1939), Shiryaev-Roberts e-detectors (Shin et al. 2022).
"""

from __future__ import annotations

import hmac
import math
from dataclasses import dataclass
from decimal import Decimal
from functools import lru_cache

_MIX_A, _MIX_B = 0.5, 3.0


@lru_cache(maxsize=4096)
def upper_bound(n: float, k: float, delta: float) -> float:
    """The time-uniform upper bound on a failure rate: ever wrong with probability `delta` at most.

    The largest q with log B(a+k, b+n-k)/B(a, b) - k log q - (n-k) log(1-q) < log(1/delta): the Beta
    mixture over rates is a martingale under q, so Ville's inequality bounds its whole path.
    """
    limit = math.log(1.0 / delta) - _log_beta(_MIX_A + k, _MIX_B + n - k) + _log_beta(_MIX_A, _MIX_B)

    def excess(q: float) -> float:
        return -(k * math.log(q) if k else 0.0) - (n - k) * math.log1p(-q) - limit

    low, high = max(k / n if n else 0.0, 1e-12), 1.0 - 1e-12
    if k >= n or excess(high) < 0:
        return 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if excess(middle) < 0 else (low, middle)
    return high


Prior = tuple[tuple[float, float, float], ...]
"""A mixture of Beta distributions of a failure rate: of each its weight, failures and successes."""


@lru_cache(maxsize=4096)
def posterior(n: float, k: float, prior: Prior) -> tuple[float, float]:
    """Mean and variance of a failure rate after k failures in n labels."""
    parts = [(_log_beta(a + k, b + n - k) - _log_beta(a, b), w, a + k, a + b + n) for w, a, b in prior]
    most = max(log for log, *_ in parts)
    weights = [w * math.exp(log - most) for log, w, *_ in parts]
    total, mean, square = sum(weights), 0.0, 0.0
    for weight, (_, _, bad, all_) in zip(weights, parts, strict=True):
        mean += weight / total * bad / all_
        square += weight / total * bad * (bad + 1) / (all_ * (all_ + 1))
    return mean, max(0.0, square - mean * mean)


@lru_cache(maxsize=4096)
def exceeds(n: float, k: float, rate: float) -> float:
    """The probability that a failure rate is above `rate` after k failures in n labels, from a flat prior."""
    draws = int(n) + 1
    return sum(
        math.comb(draws, i) * rate**i * (1 - rate) ** (draws - i) for i in range(min(int(k), draws) + 1)
    )


def coin(secret: str, *parts: str) -> float:
    """A number in [0, 1) that is the same whenever it is drawn: HMAC-SHA256 of `parts` under the ledger's secret."""
    digest = hmac.digest(secret.encode(), "\x1f".join(parts).encode(), "sha256")
    return int.from_bytes(digest[:7]) / 2**56


def price_class(verdict: Decimal, answer: Decimal) -> str:
    """The class of what a check costs against an answer, both in USD: tasks whose labels are missing alike share it."""
    if answer <= 0:
        return ""
    classes = (("v<.3", Decimal("0.3")), ("v<1", Decimal(1)))
    return next((name for name, most in classes if verdict < most * answer), "v>1")


def _log_beta(a: float, b: float) -> float:
    return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)


_WARM_UP = 30
_CAUTION = 1.0
_LEAST_CAUTION = 0.02
"""Standard errors, or this much, added to the old rate: a lucky start must not make the usual look like a rise."""
_LARGE = 0.18
"""The smallest rise of a rate that is worth an alarm."""


@dataclass(frozen=True, slots=True)
class Watch:
    """One watched rate: `k` bad events among `n`, and the detector's statistic."""

    n: int = 0
    k: int = 0
    statistic: float = 0.0


def watch(state: Watch, *, bad: bool, patience: float) -> tuple[Watch, bool]:
    """Take one event; True when the rate has risen beyond doubt (Shiryaev-Roberts).

    While the rate is at most the assumed old one, the statistic grows by one an event in expectation. So a false
    alarm comes once in `patience` events at the earliest. The old rate is what was seen plus a standard error.

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
