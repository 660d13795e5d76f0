"""A job's own ceiling, on top of the month's budget: money is set aside before each paid call, under any concurrency.

What earlier runs of the job cost is read from the ledger, so a job that was killed and goes on keeps its ceiling.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from decimal import Decimal

from tta_dev_primitives.config.errors import BudgetExceededError

__all__ = ["Purse", "PurseHold"]


class PurseHold:
    """Money set aside for one call. Set `cost` to what it cost; else the whole bound counts as spent."""

    __slots__ = ("bound", "cost")

    def __init__(self, bound: Decimal) -> None:
        self.bound = bound
        self.cost: Decimal | None = None


class Purse:
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
    async def hold(self, bound: Decimal) -> AsyncGenerator[PurseHold]:
        """Set `bound` USD aside for the body, waiting while only calls in flight stand in the way.

        Raises:
            BudgetExceededError: The ceiling does not allow the call.
        """
        await self._take(bound)
        hold = PurseHold(bound)
        try:
            yield hold
        finally:
            self.held -= bound
            self.spent += bound if hold.cost is None else hold.cost

    def charge(self, cost: Decimal) -> None:
        """Count money that was spent without a hold (a free model that billed)."""
        self.spent += cost

    async def _take(self, bound: Decimal) -> None:
        while self.limit is not None and self.spent + self.held + bound > self.limit:
            if self.spent + bound > self.limit or not self.held:
                raise self._refusal(bound)
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
