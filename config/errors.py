"""The one taxonomy of errors: what a caller would handle differently is a branch of its own.

OrchestrationError
├── ConfigError (also ValueError)          you set it up wrong: file, key or variable, and the remedy
│   ├── MissingKeyError                    a key's environment variable is not set
│   ├── UntrustedConfigError               a file of the working folder asks for more than it may
│   ├── UnknownModelError                  a model that nothing defines
│   ├── UnknownPriceError                  a paid model without a known price
│   ├── LedgerConfigError (also LedgerError)         the ledger's address, or what it is asked, is wrong
│   └── PrefectConfigError (also PrefectServerError) the address or the access of the Prefect API is wrong
├── BudgetExceededError                    the money is gone, or this call would pass the limit
├── LedgerError                            the ledger cannot answer: no paid call is made
│   ├── LedgerBusyError                    only in-flight holds block; try again later
│   ├── QuarantinedError                   a model or provider is closed after a wrong bill
│   └── WrongClockError                    the clock that decides the month is wrong
├── SavingsShortError                      the month's savings do not cover a call beyond the baseline
├── ProviderError (provider_errors.py)      one attempt at one provider failed, with its class
├── AllModelsFailedError                   every candidate failed, with each attempt in order
├── RunCancelledError                      somebody ended the flow run in Prefect
└── PrefectServerError                     the Prefect API cannot be started or reached

Every error carries fields, survives pickling and never holds a key.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any, Self


class OrchestrationError(Exception):
    """Root of all errors of this package. Fields are keyword arguments and survive pickling."""

    def __init__(self, message: str, **fields: Any) -> None:
        super().__init__(message)
        self.message = message
        self._fields = fields
        for name, value in fields.items():
            setattr(self, name, value)

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.message, self._fields)

    def __str__(self) -> str:
        return self.message

    def add(self, **fields: Any) -> None:
        """Add what became known after the error was made; it survives pickling like the rest."""
        self._fields = {**self._fields, **fields}
        for name, value in fields.items():
            setattr(self, name, value)


def _rebuild(cls: type[OrchestrationError], message: str, fields: Mapping[str, Any]) -> OrchestrationError:
    error = cls.__new__(cls)
    OrchestrationError.__init__(error, message, **fields)
    return error


class ConfigError(OrchestrationError, ValueError):
    """The configuration is wrong. The message names the file and the key, or the variable."""


class MissingKeyError(ConfigError):
    """No API key: `variables` names the environment variables to set."""

    variables: tuple[str, ...]

    def __init__(self, message: str, *, variables: Sequence[str] = ()) -> None:
        super().__init__(message, variables=tuple(variables))


class UntrustedConfigError(ConfigError):
    """A configuration that came with the working folder asks for what needs trust; nothing was sent."""


class UnknownModelError(ConfigError):
    """A model that no executor, orchestrator or catalogue entry defines."""


class UnknownPriceError(ConfigError):
    """A paid model whose price is not known: refused, never taken as 0."""


class BudgetExceededError(OrchestrationError):
    """A paid call was refused. Amounts are USD; `month` is `YYYY-MM`; `reason` is `exhausted` or `too_big`."""

    month: str
    limit: Decimal
    spent: Decimal
    held: Decimal
    needed: Decimal
    reason: str

    def __init__(
        self,
        message: str | None = None,
        *,
        month: str,
        limit: Decimal,
        spent: Decimal,
        held: Decimal,
        needed: Decimal,
        reason: str = "exhausted",
    ) -> None:
        needs = f"; this call needs up to {needed:f}" if needed else ""
        text = message or (
            f"Budget: month {month}: spent {spent:f} of {limit:f} USD, {held:f} held{needs}. "
            "Raise cost_tracking.budget_limit_usd or wait for the next month."
        )
        super().__init__(text, month=month, limit=limit, spent=spent, held=held, needed=needed, reason=reason)


class RunCancelledError(OrchestrationError):
    """The state of the flow run was set from outside: nothing more was sent, and what was open is settled."""


class LedgerError(OrchestrationError):
    """The spend ledger cannot be used; no paid call is made until it is fixed."""


class LedgerConfigError(LedgerError, ConfigError):
    """The ledger's address, or what the ledger is asked, is written wrong; trying again does not help."""


class LedgerBusyError(LedgerError):
    """Only calls in flight block this one: money may come back when they settle."""


class QuarantinedError(LedgerError):
    """The model or provider `key` billed more than it could: closed until `tta ledger resolve`."""

    key: str


class SavingsShortError(OrchestrationError):
    """The month's savings do not cover a call that goes beyond the baseline. Amounts in USD."""

    month: str
    left: Decimal
    needed: Decimal


class WrongClockError(LedgerError):
    """Every provider's clock says that ours is wrong: no paid call is made, its month could be the wrong one."""


class AllModelsFailedError(OrchestrationError):
    """Every candidate failed. `attempts` holds each attempt in order, with its class and reason."""

    attempts: tuple[Any, ...]
    reasons: tuple[tuple[str, str], ...]
    """Each model with what went wrong, in the order of the attempts."""

    def __init__(
        self, message: str, *, attempts: Sequence[Any] = (), reasons: Sequence[tuple[str, str]] = ()
    ) -> None:
        super().__init__(message, attempts=tuple(attempts), reasons=tuple(reasons))

    @classmethod
    def of(cls, attempts: Sequence[Any], reasons: Sequence[str]) -> Self:
        """Build the error from the attempts and one line `model: reason` for each."""
        lines = "; ".join(reasons) or "no candidate was left to try"
        by_model: dict[str, list[str]] = {}
        for line in reasons:
            model, _, reason = line.partition(": ")
            by_model.setdefault(model, []).append(reason)
        rows = [(model, "; ".join(dict.fromkeys(said))) for model, said in by_model.items()]
        return cls(f"All models failed: {lines}", attempts=attempts, reasons=rows)


class PrefectServerError(OrchestrationError):
    """The Prefect API cannot be started or reached; the message says at which address and why."""


class PrefectConfigError(PrefectServerError, ConfigError):
    """The address of the Prefect API, or the access to it, is written wrong; trying again does not help."""
