"""Layer: a job's own ceiling, on top of the month's budget. Money is set aside before each paid call.

What earlier runs of the job cost is read from the ledger, so a job that was killed and goes on keeps its ceiling.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from decimal import Decimal

from tta_dev_primitives.blocks.ledger.cost_bound import bound_usd
from tta_dev_primitives.config.errors import BudgetExceededError, OrchestrationError, UnknownPriceError
from tta_dev_primitives.flows.calling.call import Call, Layer, Outcome, refused


class JobHold:
    """Money set aside for one call. Set `cost` to what it cost; else the whole bound counts as spent."""

    __slots__ = ("bound", "cost")

    def __init__(self, bound: Decimal) -> None:
        self.bound = bound
        self.cost: Decimal | None = None


class JobBudget:
    """What one job may spend.

    Args:
        limit: USD; None is no ceiling.
        spent: USD that earlier runs of the job cost.
        look_again_s: How often a call that waits for others looks again.
    """

    def __init__(
        self, limit: Decimal | None, spent: Decimal = Decimal(0), *, look_again_s: float = 0.05
    ) -> None:
        self.limit = limit
        self.spent = spent
        self.held = Decimal(0)
        self._look_again_s = look_again_s

    @asynccontextmanager
    async def hold(self, bound: Decimal) -> AsyncGenerator[JobHold]:
        """Set `bound` USD aside for the body, waiting while only calls in flight stand in the way.

        Raises:
            BudgetExceededError: The ceiling does not allow the call.
        """
        await self._take(bound)
        hold = JobHold(bound)
        try:
            yield hold
        finally:
            self.held -= bound
            self.spent += bound if hold.cost is None else hold.cost

    def may_hold(self, bound: Decimal) -> bool:
        """Whether the ceiling leaves room for `bound` beside what is held now.

        Raises:
            BudgetExceededError: It never will: what is spent, or nothing that is held, stands in the way.
        """
        if self.limit is None or self.spent + self.held + bound <= self.limit:
            return True
        if self.spent + bound > self.limit or not self.held:
            raise self._refusal(bound)
        return False

    def charge(self, cost: Decimal) -> None:
        """Count money that was spent without a hold (a free model that billed)."""
        self.spent += cost

    async def _take(self, bound: Decimal) -> None:
        while True:
            if self.may_hold(bound):
                break
            await asyncio.sleep(self._look_again_s)
        self.held += bound

    def _refusal(self, bound: Decimal) -> BudgetExceededError:
        limit = self.limit or Decimal(0)
        return BudgetExceededError(
            f"Job: spent {self.spent:f} of its ceiling of {limit:f} USD, {self.held:f} held; this call needs up to "
            f"{bound:f}. Raise --max-cost (max_cost) and run it again.",
            month="",
            limit=limit,
            spent=self.spent,
            held=self.held,
            needed=bound,
            reason="max_cost",
        )


class WithinJobBudget:
    """Sets the cost bound of a paid call aside from the job's budget for as long as the call runs."""

    def __init__(self, then: Layer, budget: JobBudget) -> None:
        self._then, self._budget = then, budget

    async def __call__(self, call: Call) -> Outcome:
        """What the next layer returns, or a refusal by the job's ceiling."""
        if call.target.billing == "free" or self._budget.limit is None:
            outcome = await self._then(call)
            self._budget.charge(outcome.charged_usd)
            return outcome
        try:
            async with self._budget.hold(bound_usd(call.target, call.request)) as hold:
                try:
                    outcome = await self._then(call)
                except OrchestrationError:
                    # Raised before anything is sent; whatever else cuts the call off costs the whole bound.
                    hold.cost = Decimal(0)
                    raise
                hold.cost = outcome.charged_usd
                return outcome
        except (BudgetExceededError, UnknownPriceError) as refusal:
            return refused(call.target, refusal)
