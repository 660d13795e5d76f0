"""How often a stratum fails, from n labels with k failures: an any-time bound, and a posterior."""

from __future__ import annotations

import math
from functools import lru_cache

__all__ = ["posterior", "upper_bound"]

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


def posterior(n: int, k: int, prior: tuple[float, float]) -> tuple[float, float]:
    """Mean and variance of a failure rate after k failures in n labels, from a Beta prior (bad, good)."""
    a, b = prior[0] + k, prior[1] + n - k
    mean = a / (a + b)
    return mean, mean * (1 - mean) / (a + b + 1)


def _log_beta(a: float, b: float) -> float:
    return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)
