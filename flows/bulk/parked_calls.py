"""A paid call that waits for its batch: built, bounded, and put with others into the batches that a provider takes."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal

from pydantic import SecretStr

from tta_dev_primitives.blocks.ledger.cost_bound import bound_usd
from tta_dev_primitives.blocks.ledger.types import CallInfo
from tta_dev_primitives.blocks.wire.batches.formats import at_batch_price, batch_format, batch_line
from tta_dev_primitives.blocks.wire.batches.types import BatchLine, dumps
from tta_dev_primitives.config.errors import BudgetExceededError
from tta_dev_primitives.config.models.targets import Target
from tta_dev_primitives.flows.calling.call import Call, Outcome, refused
from tta_dev_primitives.flows.calling.hold import call_info
from tta_dev_primitives.flows.calling.job_budget import JobBudget
from tta_dev_primitives.flows.calling.prefix_cache import shared_prefix
from tta_dev_primitives.flows.calling.services import Services

_LEAST_SHARED = 10
"""Requests of a batch that share a text before it is marked. They run side by side, so some write it again: providers
speak of 30 to 98 % that read it, and caching saves from 22 % on. Among a few requests perhaps none does."""


class InStore(Exception):
    """The answer is in the store by now: the call goes on there."""


class OneByOne(Exception):
    """The call's address has no batch API: the call is sent alone."""


@dataclass(slots=True, eq=False)
class ParkedCall:
    """A call that waits."""

    call: Call
    target: Target
    key: SecretStr
    info: CallInfo
    line: BatchLine
    bound: Decimal
    size: int
    future: asyncio.Future[Outcome]

    @property
    def step_key(self) -> str:
        """Its content key."""
        return self.info.step_key or ""

    def give(self, outcome: Outcome) -> None:
        """The call ends so, if it still waits."""
        if not self.future.done():
            self.future.set_result(outcome)

    def fail(self, error: Exception) -> None:
        """The call ends with an error, if it still waits."""
        if not self.future.done():
            self.future.set_exception(error)


async def park(services: Services, call: Call, step_key: str) -> ParkedCall:
    """The call, built and bounded before any money is held for it.

    Raises:
        MissingKeyError: There is no key.
        UnknownPriceError: The model has no price.
        ProviderError: The request cannot be built.
    """
    key = call.key = await services.keys.key_of(call.target)
    services.client.prepare(call.target, call.request, key=key)
    call.step_key = step_key
    info = call_info(call, services.safety.learning_credit)
    line = batch_line(call.target, call.request, info.id)
    bound = bound_usd(at_batch_price(call.target), call.request)
    future: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
    return ParkedCall(call, call.target, key, info, line, bound, len(dumps(dict(line.body))) + 200, future)


def parts(group: Sequence[ParkedCall], job_budget: JobBudget) -> Iterator[list[ParkedCall]]:
    """The calls of one batch each: equal requests once, within the provider's limits, within the job's budget."""
    form = batch_format(group[0].target)
    assert form is not None
    part: list[ParkedCall] = []
    size, total, keys = 0, Decimal(0), set[str]()
    for parked in group:
        if parked.step_key in keys:
            continue
        try:
            if not job_budget.may_hold(total + parked.bound):
                continue
        except BudgetExceededError as refusal:
            if not part:
                parked.give(refused(parked.target, refusal))
            continue
        if part and (len(part) >= form.most_lines or size + parked.size > form.most_bytes):
            yield part
            part, size, total = [], 0, Decimal(0)
        part.append(parked)
        keys.add(parked.step_key)
        size, total = size + parked.size, total + parked.bound
    if part:
        yield part


def mark_shared(part: Sequence[ParkedCall]) -> None:
    """Let requests that share a long system text read it from the provider's prompt cache, where enough share it."""
    prefixes = [shared_prefix(parked.target, parked.call.request) for parked in part]
    counts = Counter(prefixes)
    for parked, prefix in zip(part, prefixes, strict=True):
        if prefix is not None and counts[prefix] >= _LEAST_SHARED:
            request = replace(parked.call.request, cache_system=True)
            parked.line = batch_line(parked.target, request, parked.info.id)
