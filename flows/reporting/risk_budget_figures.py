"""The risk budget of each use case in figures, and use cases whose checks nothing can pay for. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from tta_dev_primitives.config import OrchestrationConfig
from tta_dev_primitives.config.models.targets import Target, Usage
from tta_dev_primitives.flows.routing.candidates import configured_use_cases
from tta_dev_primitives.flows.validation.case import Policy
from tta_dev_primitives.flows.validation.risk_state import RiskState

_CHECK = Usage(input_tokens=1000, output_tokens=20)
"""A verdict on a short task, the smallest check."""


@dataclass(frozen=True, slots=True)
class AccountLine:
    """One use case: what was delivered, and which share of it the orchestrator is expected to reject."""

    use_case: str
    deliveries: int
    labels: int
    rejected: int
    budget: float
    """The allowed share."""
    share: float
    """The expected share (gate `strict`: its upper bound)."""
    window: int
    window_share: float
    alarms: int

    def to_json(self) -> dict[str, Any]:
        """The line as JSON values."""
        return {name: getattr(self, name) for name in self.__slots__}


def accounts_of(state: RiskState, policy: Policy) -> tuple[AccountLine, ...]:
    """The accounts of all use cases that have delivered something."""
    found = []
    for name, account in sorted(state.accounts.items()):
        strict = policy.gate == "strict"
        total, window = (state.expected(name, window=last, strict=strict)[0] for last in (False, True))
        strata = [stratum for _, stratum in state.of(name)]
        found.append(
            AccountLine(
                name,
                account.items,
                sum(s.labelled for s in strata),
                sum(s.rejected for s in strata),
                policy.eps,
                total / max(1, account.items),
                account.window_items,
                window / max(1, account.window_items),
                account.alarms,
            )
        )
    return tuple(found)


def use_cases_without_audits(
    config: OrchestrationConfig, orchestrator: Target, left: Decimal | None
) -> list[str]:
    """Use cases whose free answers cannot be checked with what is left of the month, so that none is accepted.

    Args:
        left: USD left of the month; None: no limit.
    """
    if not config.enabled or config.validation.mode != "adaptive" or left is None:
        return []
    if orchestrator.price is None or orchestrator.price.cost(_CHECK) <= left:
        return []
    return list(configured_use_cases(config))
