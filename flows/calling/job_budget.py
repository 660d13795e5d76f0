"""Layer: a job's own ceiling, on top of the month's budget. Money is set aside before each paid call.

What earlier runs of the job cost is read from the ledger, so a job that was killed and goes on keeps its ceiling.
"""

from __future__ import annotations

import asyncio
from decimal import Decimal

from tta_dev_primitives.blocks.ledger.cost_bound import bound_usd
from tta_dev_primitives.config.errors import BudgetExceededError, OrchestrationError, UnknownPriceError
from tta_dev_primitives.flows.calling.call import Call, Layer, Outcome, refused

_LOOK_AGAIN_S = 0.05
"""How often a call that waits for others looks again."""


class JobBudget:
    """What one job may spend.

    Args:
        limit: USD; None is no ceiling.
        spent: USD that earlier runs of the job cost.
    """

    def __init__(self, limit: Decimal | None, spent: Decimal = Decimal(0)) -> None:
        self.limit = limit
        self.spent = spent
        self.held = Decimal(0)

    async def hold(self, bound: Decimal) -> None:
        """Set `bound` USD aside, waiting while only calls in flight stand in the way.

        Raises:
            BudgetExceededError: The ceiling does not allow the call.
        """
        while not self.may_hold(bound):  # noqa: ASYNC110 - calls and batches end holds, by many ways
            await asyncio.sleep(_LOOK_AGAIN_S)
        self.held += bound

    def settle(self, bound: Decimal, cost: Decimal) -> None:
        """End a hold of `bound` USD with what its call cost."""
        self.held -= bound
        self.spent += cost

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
            self._budget.spent += outcome.charged_usd
            return outcome
        try:
            # Whatever cuts the call off costs the whole bound.
            cost = bound = bound_usd(call.target, call.request)
            await self._budget.hold(bound)
        except (BudgetExceededError, UnknownPriceError) as refusal:
            return refused(call.target, refusal)
        try:
            outcome = await self._then(call)
            cost = outcome.charged_usd
        except OrchestrationError:  # raised before anything is sent
            cost = Decimal(0)
            raise
        finally:
            self._budget.settle(bound, cost)
        return outcome
