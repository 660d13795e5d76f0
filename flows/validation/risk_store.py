"""The risk ledger of one configuration, shared by all its runs: decide and record in one transaction.

trust = TrustLedger(database, scope_of(orchestrator.key, policy))
rulings = await trust.rule(evidence, risk_policy, coins)     # many items, one transaction
alarms = await trust.learn(labels, risk_policy)
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from tta_dev_primitives.blocks.ledger.database.protocol import Database
from tta_dev_primitives.blocks.ledger.shared_document import Strata
from tta_dev_primitives.flows.prompts import versions
from tta_dev_primitives.flows.validation.case import Policy
from tta_dev_primitives.flows.validation.risk import (
    Evidence,
    Label,
    RiskPolicy,
    RiskState,
    Ruling,
    learn,
    rule,
)

__all__ = ["TrustLedger", "scope_of"]


def scope_of(orchestrator_key: str, policy: Policy) -> str:
    """What all trust depends on besides the answering models: who endorses, by which prompts, at which threshold.

    The answering models' identities are part of each stratum's own key.
    """
    parts = ("risk/1", orchestrator_key, versions(), f"{policy.threshold:.6f}", policy.gate)
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]


class TrustLedger:
    """Rulings and labels of one scope, safe under concurrent runs and processes."""

    def __init__(self, database: Database, scope: str) -> None:
        self._strata = Strata(database)
        self._scope = scope

    async def rule(
        self, evidence: Sequence[Evidence], policy: RiskPolicy, coins: Sequence[float]
    ) -> list[Ruling]:
        """Decide on many items in order, each seeing the decisions before it.

        Args:
            coins: One number in [0, 1) for each item, drawn before: the transaction may have to be repeated.
        """

        def work(text: str | None) -> tuple[str, list[Ruling]]:
            state = RiskState.from_json(text)
            rulings = []
            for item, coin in zip(evidence, coins, strict=True):
                ruling, state = rule(state, item, policy, coin)
                rulings.append(ruling)
            return state.to_json(), rulings

        return await self._strata.change(self._scope, work) if evidence else []

    async def learn(self, labels: Sequence[Label], policy: RiskPolicy) -> list[str]:
        """Record what ended items showed; returns the strata whose failures raised a drift alarm."""

        def work(text: str | None) -> tuple[str, list[str]]:
            state = RiskState.from_json(text)
            alarms = []
            for label in labels:
                state, alarm = learn(state, label, policy)
                if alarm and label.ruling is not None:
                    alarms.append(label.ruling.evidence.stratum)
            return state.to_json(), alarms

        return await self._strata.change(self._scope, work) if labels else []

    async def state(self) -> RiskState:
        """Everything the ledger knows, for reports."""
        return RiskState.from_json(await self._strata.read(self._scope))
