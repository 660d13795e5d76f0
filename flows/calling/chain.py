"""The layers of a provider call, put together in their one order."""

from __future__ import annotations

import random
from collections.abc import Sequence
from contextlib import nullcontext

from tta_dev_primitives.blocks.quotas.windows import Priority
from tta_dev_primitives.blocks.wire.types import ChatRequest
from tta_dev_primitives.config.models.targets import Target
from tta_dev_primitives.flows.calling.admission import Admission, Admitted
from tta_dev_primitives.flows.calling.attempts import Attempts
from tta_dev_primitives.flows.calling.batched import Batched, Batches
from tta_dev_primitives.flows.calling.call import Call, Result
from tta_dev_primitives.flows.calling.hold import LedgerHold
from tta_dev_primitives.flows.calling.job_budget import JobBudget, WithinJobBudget
from tta_dev_primitives.flows.calling.prefix_cache import PrefixCache
from tta_dev_primitives.flows.calling.provider_limit import WithinProviderLimit
from tta_dev_primitives.flows.calling.quota import QuotaSlots
from tta_dev_primitives.flows.calling.services import Services
from tta_dev_primitives.flows.calling.stored_answers import StoredAnswers


class Calls:
    """Admission, attempts of one model, stored answer, prompt cache, quota, job budget, ledger hold, client."""

    def __init__(
        self,
        services: Services,
        admission: Admission,
        job_budget: JobBudget,
        *,
        priority: Priority,
        waits_for_quota: bool,
        rng: random.Random,
        fresh: bool = False,
        batches: Batches | None = None,
    ) -> None:
        hold = LedgerHold(services)
        polite = WithinProviderLimit(hold) if services.config.prefect_limits else hold
        budget = WithinJobBudget(polite, job_budget)
        quota = QuotaSlots(budget, services, priority=priority, waits=waits_for_quota)
        self._prefixes = PrefixCache(quota, services) if priority == "bulk" else None
        self._stored = StoredAnswers(self._prefixes or quota, services, fresh=fresh)
        sent = self._stored if batches is None else Batched(self._stored, batches)
        self._first = Admitted(Attempts(sent, services, rng=rng), services, admission)
        self._batches = batches

    async def __call__(self, call: Call) -> Result:
        """Ask one model of the call, the first that may be asked now.

        Raises:
            PostponedError: The job has stopped; nothing is sent.
            ConfigError: The address answers with a redirect, or breaks a rule, or the key cannot be sent.
        """
        with self._batches.counted() if self._batches is not None else nullcontext():
            return await self._first(call)

    async def look_ahead(self, asked: Sequence[tuple[Target, ChatRequest]]) -> None:
        """Look up the stored answers of many requests at once."""
        unanswered = await self._stored.look_ahead(asked)
        if self._prefixes is not None:
            self._prefixes.announce(unanswered)
