"""A bound on disowned deliveries for any tasks and any drift: only the audit coins are random. Pure.

Every trusted item is audited with a known probability p; an audit that fails is mended (the paid answer
goes out), so a failure counts only when the coin spared it. For a rate r > 0 let c(r, p) = -log((1 -
(1-p) e^r) / p). Then exp(r * missed - sum of c over found failures) is a supermartingale whatever the
items are, for every r below -log(1-p). By Ville's inequality missed <= (log(1/alpha) + sum c) / r at
every moment; a union over a grid of r picks the best one afterwards.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

__all__ = ["Certificate"]

_GRID = (0.1, 0.25, 0.5, 0.75, 0.9, 0.97, 0.995)


@dataclass(frozen=True, slots=True)
class Certificate:
    """What the certificate needs to remember. `least` is the lowest audit probability ever used."""

    least: float = 0.02
    trusted: int = 0
    """Items that the gate trusted, audited or not."""
    found: int = 0
    """Failures that audits found (and mended)."""
    unaudited: int = 0
    """Trusted items without an audit coin (no paid call was possible); each counts as a failure."""
    costs: tuple[float, ...] = (0.0,) * len(_GRID)

    def spared(self, *, audited: bool) -> Certificate:
        """After a trusted item whose coin was (`audited`) or could not be thrown."""
        return Certificate(
            self.least, self.trusted + 1, self.found, self.unaudited + (not audited), self.costs
        )

    def failed(self, probability: float) -> Certificate:
        """After an audit, thrown with `probability`, that found a failure."""
        costs = tuple(
            spent - math.log((1 - (1 - probability) * math.exp(rate)) / probability)
            for spent, rate in zip(self.costs, self._rates, strict=True)
        )
        return Certificate(self.least, self.trusted, self.found + 1, self.unaudited, costs)

    @property
    def _rates(self) -> tuple[float, ...]:
        return tuple(part * -math.log1p(-self.least) for part in _GRID)

    def missed(self, alpha: float = 0.05) -> float:
        """With confidence 1 - alpha, at most so many delivered un-judged answers would have been disowned."""
        need = math.log(len(_GRID) / alpha)
        bound = min((need + spent) / rate for spent, rate in zip(self.costs, self._rates, strict=True))
        return min(float(self.trusted), bound + self.unaudited)
