"""USD as `Decimal` outside, integer pico-USD (1e-12) inside the ledger."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import ROUND_CEILING, ROUND_FLOOR, Context, Decimal
from typing import Any

from tta_dev_primitives.config.errors import LedgerError

MAX_PICO = 10**18
"""One million USD; above it sums could leave a 64-bit integer."""
MAX_USD = Decimal(1_000_000)
_SCALE = Decimal(10) ** 12
# 50 digits hold any amount in range exactly, whatever the caller's decimal context is.
_WIDE = Context(prec=50)


def to_pico(amount: Decimal, *, what: str = "amount") -> int:
    """`amount` in pico-USD, exactly.

    Raises:
        LedgerError: Not a finite `Decimal` within 0 and 1,000,000 USD, or finer than 1e-12 USD.
    """
    scaled = _scaled(amount, what)
    whole = int(scaled)
    if whole != scaled:
        raise LedgerError(f"Ledger: {what} {amount} is finer than 1e-12 USD")
    return whole


def pico_ceiling(amount: Decimal, *, what: str = "amount") -> int:
    """`amount` in pico-USD, a finer part rounded up (for bounds and charges). Raises as `to_pico`."""
    return int(_scaled(amount, what).to_integral_value(ROUND_CEILING))


def pico_floor(amount: Decimal, *, what: str = "limit") -> int:
    """`amount` in pico-USD, a finer part dropped (for limits). Raises as `to_pico`."""
    return int(_scaled(amount, what).to_integral_value(ROUND_FLOOR))


def from_pico(pico: int) -> Decimal:
    """USD for `pico`, exactly; 10,000,000,000 pico is `Decimal('0.01')`."""
    if pico == 0:
        return Decimal(0)
    amount = _WIDE.divide(Decimal(pico), _SCALE)
    normal = amount.normalize(_WIDE)
    # normalize writes 100 as 1E+2; money is shown in plain digits.
    return normal.quantize(Decimal(1), context=_WIDE) if normal.as_tuple().exponent > 0 else normal  # type: ignore[operator]


def in_usd(row: Mapping[str, Any], *names: str) -> dict[str, Any]:
    """A row with these of its amounts in USD."""
    return {**row, **{name: from_pico(row[name]) for name in names}}


def _scaled(amount: Decimal, what: str) -> Decimal:
    if not isinstance(amount, Decimal):
        raise LedgerError(f"Ledger: {what} must be a Decimal in USD, not {type(amount).__name__}")
    if not amount.is_finite():
        raise LedgerError(f"Ledger: {what} {amount} is not a finite amount")
    if amount < 0 or amount > MAX_USD:
        raise LedgerError(f"Ledger: {what} {amount} USD is not within 0 and {MAX_USD:,} USD")
    return _WIDE.multiply(amount, _SCALE)
