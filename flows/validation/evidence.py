"""Evidence: what speaks for one answer, and the name under which a result shows it. `next_step.py` decides on it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

EvidenceName = Literal["checks", "agreement", "judge", "audit", "paid", "none"]
"""Why an answer was delivered, as `OrchestrationResult.evidence` shows it."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """What speaks for one answer before anything was paid."""

    use_case: str
    signal: str
    """Such as `agree2of3`, `split2`, `single`, `judged`."""
    answer: int = 0
    """Which answer of the case it speaks for."""
    models: tuple[str, ...] = ()
    """Identities of all models that took part, sorted."""
    pair: tuple[str, ...] = ()
    """The first two answerers, whose disagreement rate is watched; empty when there is nothing to compare."""
    disagreed: bool = False
    strong: bool = False
    """Agreement or a judge's yes: the stratum starts with a friendlier prior."""
    auditable: bool = True
    """A paid check of this item is possible and affordable now."""
    checks_saved: bool = True
    """The month has saved what a verdict needs; where it has not, comparisons alone may open deliveries."""
    price_class: str = ""
    """What a verdict costs against an answer (`statistics.price_class`); empty where the check is a solution."""

    schema: str = ""
    """Digest of the schema of a typed object, whose fields have accounts of their own; empty: no such object."""

    @property
    def stratum(self) -> str:
        """The key of the stratum."""
        return "|".join((self.use_case, self.signal, self.price_class, *self.models))

    @property
    def group(self) -> str | None:
        """The key of the watched disagreement rate."""
        return "|".join((self.use_case, *self.pair)) if self.pair else None
