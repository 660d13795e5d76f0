"""What learned routing knows, shared by all runs of one configuration: read once a run, added to when tasks end."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from tta_dev_primitives.blocks.ledger.database.protocol import Database
from tta_dev_primitives.blocks.ledger.risk_tables import DocumentStore
from tta_dev_primitives.flows.prompts import versions
from tta_dev_primitives.flows.routing.model_scores import ModelScores, Outcome, learned


class ModelScoreStore:
    """The scores of one scope, in the document store beside the spend ledger; safe under concurrent runs.

    Args:
        orchestrator_key: Whose word counts: what one model accepts says nothing of what another would.
        threshold: From which score a verdict accepts.
    """

    def __init__(self, database: Database, orchestrator_key: str, threshold: float) -> None:
        parts = ("routing/2", orchestrator_key, versions(), f"{threshold:.6f}")
        self._documents = DocumentStore(database)
        self._scope = hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]

    async def learn(self, outcomes: Sequence[Outcome]) -> None:
        """Record what ended tasks showed, in one transaction."""

        def work(text: str | None) -> tuple[str, None]:
            return learned(ModelScores.from_json(text), outcomes).to_json(), None

        if outcomes:
            await self._documents.change(self._scope, work)

    async def state(self) -> ModelScores:
        """Everything that is known now."""
        return ModelScores.from_json(await self._documents.read(self._scope))
