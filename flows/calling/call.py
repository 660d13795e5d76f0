"""A call on its way through the layers, and how it can end.

Every layer has the same signature: a `Call` in, an `Answered` or a `Failed` out. What ends the whole run (a wrong
configuration, a ledger that cannot be used) is raised.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import TYPE_CHECKING

from pydantic import SecretStr

from tta_dev_primitives.blocks.ledger.stored_replies import GuardedReply
from tta_dev_primitives.blocks.quotas.quota import Slot
from tta_dev_primitives.blocks.wire.types import ChatRequest
from tta_dev_primitives.config.errors import (
    BudgetExceededError,
    LedgerBusyError,
    MissingKeyError,
    OrchestrationError,
    QuarantinedError,
    SavingsShortError,
    UnknownPriceError,
    WrongClockError,
)
from tta_dev_primitives.config.models.targets import Target
from tta_dev_primitives.config.provider_errors import ErrorClass, LedgerAction, ProviderError
from tta_dev_primitives.flows.tasks.result import Attempt, PaidFrom, Role

if TYPE_CHECKING:
    from tta_dev_primitives.flows.calling.admission import Permit


def _baseline(target: Target) -> PaidFrom:
    return "free" if target.billing == "free" else "baseline"


def _ignore(*_: object) -> None:
    return None


@dataclass(slots=True, kw_only=True, eq=False)
class Call:
    """One question to the first of `targets` that may be asked now. The second group of fields is set by the layers."""

    targets: Sequence[Target]
    """Models in order of preference; at least one."""
    request_of: Callable[[Target], ChatRequest]
    """What each would be asked."""
    role: Role
    use_case: str
    pays: Callable[[Target], PaidFrom] = _baseline
    """What pays for the call of a model."""
    max_calls: int = 3
    """How often the model that is chosen may be called."""
    may_spend: bool = True
    """Whether a paid model would be asked if no free one has quota."""
    accept_cut: bool = False
    """Take an answer that the token limit cut (a verdict may still be read)."""
    on_attempt: Callable[[Attempt], None] = _ignore
    """Receives each attempt as it ends, so that no cost is lost whatever happens later."""
    on_failure: Callable[[Target, Attempt, ProviderError], None] = _ignore
    note: Callable[[str], None] = _ignore
    """Receives sentences for the result's warnings."""

    permit: Permit = field(init=False)
    target: Target = field(init=False)
    """The model as it is called: with the capabilities that its provider taught us."""
    request: ChatRequest = field(init=False)
    slot: Slot | None = field(init=False, default=None)
    """A place in the model's quota that nothing has used yet."""
    key: SecretStr = field(init=False)
    step_key: str = field(init=False)
    """The content key of the request."""
    batched: bool = field(init=False, default=False)
    """The last answer came in a batch."""
    until: float = field(init=False)
    """`time.monotonic()` until which this call may wait for quota."""


@dataclass(frozen=True, slots=True)
class Answered:
    """A usable reply with what it cost."""

    target: Target
    reply: GuardedReply
    tries: int = 1

    @property
    def charged_usd(self) -> Decimal:
        """USD charged for the last call."""
        return self.reply.cost_usd


@dataclass(frozen=True, slots=True)
class Failed:
    """No usable reply: the provider failed, or the call was refused before it was sent."""

    target: Target
    error: ProviderError
    refusal: BudgetExceededError | None = None
    """The budget's own words, when it was the budget."""
    savings_short: SavingsShortError | None = None
    """The month's savings did not cover the call: nothing was sent, and it is no attempt."""
    tries: int = 0

    @property
    def charged_usd(self) -> Decimal:
        """USD charged for the last call."""
        return self.error.charged_usd or Decimal(0)


@dataclass(frozen=True, slots=True)
class NotAdmitted:
    """No model of the call has free quota, and the job neither waits nor spends."""


Outcome = Answered | Failed
Layer = Callable[[Call], Awaitable[Outcome]]
Result = Outcome | NotAdmitted

_CLASSES: dict[type[OrchestrationError], ErrorClass] = {
    MissingKeyError: ErrorClass.AUTH,
    UnknownPriceError: ErrorClass.UNPRICED,
    BudgetExceededError: ErrorClass.BUDGET,
    LedgerBusyError: ErrorClass.BUDGET,
    QuarantinedError: ErrorClass.BUDGET,
    WrongClockError: ErrorClass.BUDGET,
    SavingsShortError: ErrorClass.BUDGET,
}
REFUSALS = tuple(_CLASSES)
"""Errors that refuse one model's call before anything is sent: the next model may still be asked."""


def refused(target: Target, why: OrchestrationError) -> Failed:
    """The outcome of a call that one of `REFUSALS` stopped."""
    error = ProviderError(
        str(why),
        provider=target.provider,
        model=target.name,
        error_class=_CLASSES[type(why)],
        ledger_action=LedgerAction.RELEASE,
        sent=False,
    )
    return Failed(
        target,
        error,
        why if isinstance(why, BudgetExceededError) else None,
        savings_short=why if isinstance(why, SavingsShortError) else None,
    )
