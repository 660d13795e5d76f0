"""A bound on rejected deliveries for any tasks and any drift: only the audit coins are random. Pure.

Every trusted item is audited with a known probability p. A failed audit is replaced by the paid answer, so a failure
counts only when the coin spared it. For a rate r > 0 let c(r, p) = -log((1 - (1-p) e^r) / p). Then
exp(r * missed - sum of c over found failures) is a supermartingale whatever the items are, for every r below
-log(1-p). Ville's inequality: missed <= (log(1/alpha) + sum c) / r at every moment. A union over a grid of r picks the
best one afterwards. An audit that is open counts as a found failure: it may be cut off because of what it finds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

_GRID = (0.1, 0.25, 0.5, 0.75, 0.9, 0.97, 0.995)
LEAST = 0.05
"""The lowest audit probability ever used; the grid of rates rests on it."""
_RATES = tuple(part * -math.log1p(-LEAST) for part in _GRID)


@dataclass(frozen=True, slots=True)
class AuditBound:
    """What the certificate needs to remember."""

    trusted: int = 0
    """Items that were trusted and delivered, audited or not."""
    found: int = 0
    """Failures that audits found (and replaced)."""
    unaudited: int = 0
    """Audits that were not done, their answer delivered; each counts as a failure."""
    costs: tuple[float, ...] = (0.0,) * len(_GRID)

    def opened(self, probability: float) -> AuditBound:
        """After an audit, drawn with `probability`, has begun: a failure until it shows otherwise."""
        return self._plus(probability, 1)

    def passed(self, probability: float) -> AuditBound:
        """After that audit has found no failure."""
        return self._plus(probability, -1)

    def _plus(self, probability: float, sign: int) -> AuditBound:
        costs = tuple(
            spent - sign * math.log((1 - (1 - probability) * math.exp(rate)) / probability)
            for spent, rate in zip(self.costs, _RATES, strict=True)
        )
        return replace(self, costs=costs)

    def missed(self, alpha: float = 0.05) -> float:
        """With confidence 1 - alpha, at most so many un-judged answers would have been rejected."""
        need = math.log(len(_GRID) / alpha)
        bound = min((need + spent) / rate for spent, rate in zip(self.costs, _RATES, strict=True))
        return min(float(self.trusted), bound + self.unaudited)
