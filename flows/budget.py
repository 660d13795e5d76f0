"""The budget check between the tasks: the month's money, its alerts, and what may still be spent."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Literal

from tta_dev_primitives.config.errors import BudgetExceededError
from tta_dev_primitives.flows.calling.runtime import Runtime
from tta_dev_primitives.flows.prefect_support import events
from tta_dev_primitives.flows.prefect_support.task_history import shown_step
from tta_dev_primitives.flows.tasks.item import Item
from tta_dev_primitives.flows.tasks.result import BudgetView

_LOG = logging.getLogger("tta_dev_primitives.budget")
_DELIVERY_S = 3.0
"""How long a run waits for Prefect to take an alert; a month has two."""


@dataclass(frozen=True, slots=True)
class BudgetState:
    """What the month allows. `left` is None when cost tracking is off."""

    month: str
    limit: Decimal | None
    spent: Decimal
    held: Decimal

    @property
    def left(self) -> Decimal | None:
        """USD that neither is spent nor held; None without a limit."""
        return None if self.limit is None else self.limit - self.spent - self.held

    @property
    def exhausted(self) -> bool:
        """True when settled spending alone has reached the limit."""
        return self.limit is not None and self.spent >= self.limit

    def words(self) -> str:
        """The state in a line, USD."""
        limit = "(no limit)" if self.limit is None else f"of {self.limit:f}"
        return f"{self.month}: {self.spent:f} spent and {self.held:f} held {limit} USD"

    def view(self) -> BudgetView:
        """The state as results show it."""
        return BudgetView(month=self.month, limit_usd=self.limit, spent_usd=self.spent, held_usd=self.held)

    def refusal(self, why: str | None = None) -> BudgetExceededError:
        """The error of a run that stops here; `why` no person raised the limit, if one was asked."""
        limit = self.limit or Decimal(0)
        return BudgetExceededError(
            why and f"Budget: month {self.month}: spent {self.spent:f} of {limit:f} USD; {why}.",
            month=self.month,
            limit=limit,
            spent=self.spent,
            held=self.held,
            needed=Decimal(0),
            reason="declined" if why else "exhausted",
        )


async def budget_state(runtime: Runtime) -> BudgetState:
    """Read the month's balance; sends the alert events that are due and sweeps holds of dead processes."""
    seen = await runtime.ledger.glance()
    if seen.lapsed:
        await runtime.ledger.sweep()
        seen = await runtime.ledger.glance()
    balance = seen.balance
    limit = balance.limit(runtime.services.limit)
    state = BudgetState(balance.month, limit, balance.spent, balance.held)
    spent_up = bool(limit) and state.exhausted
    if limit and spent_up:
        await runtime.ledger.alert_exhausted(state.month, state.spent, limit)
    if seen.alerts_due or spent_up:
        await send_alerts(runtime)
    return state


async def send_alerts(runtime: Runtime) -> None:
    """Emit `tta.budget.alert` and `tta.budget.exhausted` once per month and threshold, over all processes.

    An alert that Prefect did not take (its API is down, this process is killed) is sent again by a later check, with
    the same event id.
    """
    alerts, worker = await runtime.ledger.claim_alerts(), events.events_worker()
    for alert in alerts:
        name = "tta.budget.exhausted" if alert.threshold_bp >= 10_000 else "tta.budget.alert"
        payload = {
            "month": alert.month,
            "threshold": f"{Decimal(alert.threshold_bp) / 10_000:f}",
            "spent_usd": f"{alert.spent:f}",
            "limit_usd": f"{alert.limit:f}",
        }
        events.emit(name, payload, resource=f"tta.budget.{alert.month}", event_id=alert.event_id)
    if alerts and not await events.delivered(worker, _DELIVERY_S):
        _LOG.warning("Prefect has not taken the budget alert yet; it is sent again in a minute or later")
        return
    for alert in alerts:
        await runtime.ledger.alert_sent(alert)


async def check_budget(
    runtime: Runtime, items: Sequence[Item], then: Literal["execute", "validate"]
) -> BudgetState:
    """The budget check of the items before their next step, which Prefect shows as a task run of its own.

    Raises:
        BudgetExceededError: The month is spent and `cost_tracking.on_exhausted` is `stop`.
    """
    with shown_step("budget", items) as show:
        state = await budget_state(runtime)
        show(f"{state.words()}; next: {then}")
        if state.exhausted and runtime.services.safety.now.on_exhausted == "stop":
            raise state.refusal()
    return state
