"""Why a provider call failed: the classes of failure, and what becomes of the money that was held."""

from __future__ import annotations

from decimal import Decimal
from enum import StrEnum
from typing import Any

from tta_dev_primitives.config.errors import OrchestrationError


class ErrorClass(StrEnum):
    """Why an attempt failed; the value is what results, events and reports show."""

    CONNECT = "connect"
    """Nothing was sent: refused, DNS, TLS, connect or pool timeout."""
    TIMEOUT = "timeout"
    """Sent, but no whole reply before the deadline or the read timeout."""
    TRANSPORT = "transport"
    """Sent, then reset or cut short."""
    TRANSIENT = "transient"
    """The provider had a passing fault: 408, 409, 500, 502, 504, 52x."""
    OVERLOADED = "overloaded"
    """503, 529 or a capacity 429: the model did not run."""
    MALFORMED = "malformed"
    """A reply that cannot be read: HTML, garbage, wrong shape, too large."""
    RATE_LIMIT = "rate_limit"
    """A short limit: wait, then the same model."""
    QUOTA = "quota_exhausted"
    """A long limit (day, month, credits): the next model at once, remembered until it resets."""
    MODEL_GONE = "model_gone"
    """The provider no longer serves this model."""
    AUTH = "auth"
    """The key is missing, wrong or not allowed: the provider is out for this run."""
    CONTENT = "content_filter"
    """Refused or filtered by the provider."""
    TRUNCATED = "truncated"
    """The token limit cut the answer."""
    EMPTY = "empty"
    """A reply without answer text."""
    MODEL_SLIP = "model_slip"
    """The model broke the asked format (invalid JSON, malformed tool call)."""
    CONTEXT = "context_length"
    """The request does not fit this model's window or its per-minute token limit."""
    INVALID_REQUEST = "invalid_request"
    """The provider rejected the request itself: our bug or a wrong option."""
    REDIRECT = "redirect"
    """A 3xx answer; redirects are never followed."""
    BUDGET = "budget"
    """No paid call was made because the budget does not allow it."""
    QUALITY = "quality"
    """The answer failed the local checks or the validation."""
    UNPRICED = "unpriced"
    """A paid model whose price is unknown: refused before any call."""


class LedgerAction(StrEnum):
    """What becomes of a hold when an attempt fails (LEDGER: release, presume or settle)."""

    RELEASE = "release"
    """The request provably did not reach the model, or was refused unbilled."""
    CHARGE_AT_BOUND = "presume"
    """It may have been billed: the full bound is charged."""
    SETTLE = "settle"
    """The provider reported usage: that is charged."""


class ProviderError(OrchestrationError):
    """One attempt failed."""

    provider: str
    model: str
    error_class: ErrorClass
    status: int | None = None
    retry_after_s: float | None = None
    """The provider's wait in seconds; None: it gave none, use your own back-off."""
    request_id: str | None = None
    ledger_action: LedgerAction = LedgerAction.CHARGE_AT_BOUND
    usage: Any = None
    scope: str = "model"
    """What is out: `model`, `provider`, or `provider_free` (every free model of this provider's key)."""
    reset_at: float | None = None
    """Epoch seconds at which an exhausted quota comes back, when that is known."""
    retryable: bool | None = None
    """What the provider itself said (`x-should-retry`, `availability.retryable`); None: it said nothing."""
    code: str | None = None
    """The provider's own error code or type."""
    sent: bool = True
    """False when provably no byte of the request left this machine."""
    charged_usd: Decimal | None = None
    """What the ledger charges for the attempt, USD; None while it is not decided."""

    def __init__(
        self, message: str, *, provider: str, model: str, error_class: ErrorClass, **more: Any
    ) -> None:
        super().__init__(message, provider=provider, model=model, error_class=error_class, **more)

    @property
    def short(self) -> str:
        """The class and what was said, without provider and model."""
        kind = self.error_class.value
        _, sign, rest = self.message.partition(f": {kind}")
        return f"{kind}{rest}" if sign else f"{kind}: {self.message}"
