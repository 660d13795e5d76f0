"""What the ledger takes and gives: calls, holds, balances, alerts, stored answers, journal entries."""

from __future__ import annotations

import json
import re
import uuid
from dataclasses import asdict, dataclass, field
from decimal import Decimal
from typing import Any, Literal, Self

from tta_dev_primitives.blocks.ledger.money import MAX_USD
from tta_dev_primitives.config.models.targets import Billing, Target, Usage

SWEPT = "lost"
"""Outcome of a call that the sweep charged, because its process did not report its end."""
ExtraKind = Literal["savings", "credit", "choice"]
"""`savings`: a verdict or plan; `credit`: a paid executor; `choice`: what the user asked for at any price."""
_MOST_TOKENS = 10**15
_QUERY = re.compile(r"(https?://[^\s?]+)\?\S+")


def provider_key(target: Target) -> str:
    """Identity of a provider account behind a target: provider and address."""
    return f"{target.provider}|{target.base_url or ''}"


@dataclass(frozen=True, slots=True, kw_only=True)
class CallInfo:
    """Who calls what, and for whom: one provider attempt. Every attempt has an id of its own."""

    provider: str
    model: str
    role: str
    """`plan`, `execute` or `validate`."""
    use_case: str | None = None
    billing: Billing = "paid"
    model_key: str = ""
    provider_key: str = ""
    step_key: str | None = None
    flow_run_id: str | None = None
    task_run_id: str | None = None
    extra: ExtraKind | None = None
    """The call goes beyond what the orchestrator alone would cost, and what pays for it."""
    credit: Decimal = Decimal(0)
    """USD that an extra call may go below the month's savings."""
    deadline_s: float = 120.0
    """Seconds after which the call is cut off; the hold's lease lasts 60 s longer."""
    id: str = field(default_factory=lambda: str(uuid.uuid4()))

    @classmethod
    def of(cls, target: Target, *, role: str, **more: Any) -> Self:
        """A new attempt at `target`; `more` are other fields."""
        return cls(
            provider=target.provider,
            model=target.name,
            role=role,
            billing=target.billing,
            model_key=target.key,
            provider_key=provider_key(target),
            deadline_s=target.timeout_s,
            **more,
        )


@dataclass(frozen=True, slots=True)
class Hold:
    """Money set aside for one call; it ends settled, released or presumed, once."""

    id: str
    month: str
    bound: Decimal


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a call ended, as its row keeps it."""

    outcome: str = "ok"
    """`ok`, or the error class."""
    usage: Usage | None = None
    status: int | None = None
    request_id: str | None = None
    list_value: Decimal | None = None
    """What the tokens would have cost at list price (for free models: what was saved)."""
    baseline: Decimal | None = None
    """What the orchestrator model alone would have cost."""
    flag: str | None = None
    note: str | None = None
    """Why, for people; cut to 500 characters, query strings dropped."""
    raw_usage: str | None = None
    """The provider's own figures, when they cannot be trusted."""

    def usage_text(self) -> str | None:
        """The usage as JSON, for the row."""
        if self.raw_usage is not None:
            return self.raw_usage[:2000]
        return None if self.usage is None else json.dumps(asdict(self.usage), default=str)[:2000]

    def tokens(self) -> tuple[int | None, int | None, int | None]:
        """Input tokens, those of them read from a cache, and output tokens; None when unknown."""
        if self.usage is None or self.usage.flag is not None:
            return None, None, None
        counts = (self.usage.total_input, self.usage.cache_read_tokens, self.usage.output_tokens)
        read_in, cached, out = (min(count, _MOST_TOKENS) for count in counts)
        return read_in, cached, out

    def note_text(self) -> str | None:
        """The note as the row keeps it."""
        return None if self.note is None else _QUERY.sub(r"\1?...", self.note)[:500]


@dataclass(frozen=True, slots=True)
class MonthBalance:
    """A month's money in USD. `spent` includes `presumed`; the limit of the month is raised by `approved`."""

    month: str
    spent: Decimal
    held: Decimal
    presumed: Decimal
    approved: Decimal

    def limit(self, configured: Decimal | None) -> Decimal | None:
        """The configured limit and what people approved for the month; None (no limit) stays None."""
        return None if configured is None else min(configured + self.approved, MAX_USD)

    def left(self, configured: Decimal | None) -> Decimal | None:
        """USD neither spent nor held; None without a limit. Below 0 when the limit was lowered."""
        limit = self.limit(configured)
        return None if limit is None else limit - self.spent - self.held


@dataclass(frozen=True, slots=True)
class Glance:
    """The month's money, and whether the ledger waits for somebody to tidy up."""

    balance: MonthBalance
    lapsed: bool
    """Calls are still held after their lease: `sweep` charges them."""
    alerts_due: bool
    """`claim_alerts` would take some."""


@dataclass(frozen=True, slots=True)
class Alert:
    """A budget line was crossed. `event_id` is the same wherever and whenever the alert is sent."""

    scope: str
    month: str
    threshold_bp: int
    """The line in hundredths of a percent: 8000 is 80 %."""
    spent: Decimal
    limit: Decimal

    @property
    def event_id(self) -> uuid.UUID:
        """The id that lets receivers drop a repeated alert."""
        return uuid.uuid5(
            uuid.NAMESPACE_URL, f"tta-budget-alert|{self.scope}|{self.month}|{self.threshold_bp}"
        )


@dataclass(frozen=True, slots=True)
class StoredAnswer:
    """An answer that was paid for, kept under its content key."""

    step_key: str
    call_id: str
    body: bytes


Question = Literal["ask", "decline", "unanswered"]
"""What the journal keeps of a question to a person, besides an approval."""


@dataclass(frozen=True, slots=True)
class Kept:
    """The stored answers in sum."""

    answers: int
    size: int
    """Bytes."""
    oldest: float | None
    """Seconds since 1970; None without any."""


@dataclass(frozen=True, slots=True)
class KeptAnswer:
    """One stored answer, without its text."""

    step_key: str
    at: float
    size: int
    provider: str | None
    model: str | None
    role: str | None
    use_case: str | None


@dataclass(frozen=True, slots=True)
class JournalEntry:
    """One line of the append-only journal; amounts in USD, signed."""

    month: str
    call_id: str | None
    what: str
    spent: Decimal
    held: Decimal
    approved: Decimal
    who: str | None
    note: str | None
    at: float


@dataclass(frozen=True, slots=True)
class OpenCall:
    """A call whose cost is not known for certain: held in flight, or presumed; with what finds it on a bill."""

    id: str
    state: Literal["held", "presumed"]
    at: float
    """When it was reserved, seconds since 1970."""
    provider: str
    model: str
    role: str
    amount: Decimal
    """USD set aside, or charged at the bound."""
    request_id: str | None
    note: str | None


@dataclass(frozen=True, slots=True)
class Quarantine:
    """A model or provider that is closed for paid calls, and why."""

    key: str
    reason: str
    call_id: str
    at: float


@dataclass(frozen=True, slots=True)
class ReportRow:
    """Calls of one month that agree in all the text fields, summed."""

    provider: str
    model: str
    role: str
    use_case: str | None
    billing: Billing
    state: Literal["held", "settled", "released", "presumed"]
    outcome: str
    calls: int
    input_tokens: int
    cache_read_tokens: int
    """Those of `input_tokens` that the provider read from its prompt cache."""
    output_tokens: int
    charged: Decimal
    held: Decimal
    list_value: Decimal
    """USD at list price; for free calls this was saved."""
    baseline: Decimal
