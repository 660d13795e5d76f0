"""What every part of a `Ledger` needs: its database, scope, clock and month."""

from __future__ import annotations

import hashlib
import os
import socket
import uuid
from collections.abc import Callable
from decimal import Decimal
from typing import Any, Self

from tta_dev_primitives.blocks.ledger import tables  # noqa: F401 - declares the tables
from tta_dev_primitives.blocks.ledger.clocks import ProviderClocks
from tta_dev_primitives.blocks.ledger.database.protocol import Database, Tx, database_for, default_ledger_url
from tta_dev_primitives.blocks.ledger.money import pico_ceiling
from tta_dev_primitives.blocks.ledger.months import month_of, zone
from tta_dev_primitives.blocks.ledger.settle import Answer, Terms, latest_month
from tta_dev_primitives.config.errors import LedgerError, WrongClockError

__all__ = ["EXHAUSTED_BP", "LedgerCore", "answer_of", "closed_text", "pico_or_none"]

EXHAUSTED_BP = 10_000
"""The alert line of a spent budget, in hundredths of a percent."""


class LedgerCore:
    """One budget's ledger.

    Args:
        database: Where it is kept.
        scope: Whose budget it is; several may share a database.
        timezone: The zone whose calendar months count.
        alert_threshold: Share of the limit whose crossing raises an alert, besides 100 %; 0: the first spending.
        clock: Seconds since 1970, for tests; default is the database's own clock.
    """

    def __init__(
        self,
        database: Database,
        *,
        scope: str = "default",
        timezone: str = "UTC",
        alert_threshold: Decimal | None = Decimal("0.8"),
        clock: Callable[[], float] | None = None,
    ) -> None:
        zone(timezone)
        self.database = database
        self.scope = scope
        self.timezone = timezone
        self._clock = clock
        self._latch = ""
        self.clocks = ProviderClocks()
        lines = {EXHAUSTED_BP}
        if alert_threshold is not None:
            if not 0 <= alert_threshold <= 1:
                raise LedgerError(f"cost_tracking.alert_threshold {alert_threshold} is not between 0 and 1")
            lines.add(int(alert_threshold * 10_000))
        self._terms = Terms(scope, _owner(), tuple(sorted(lines)))

    @classmethod
    def open(cls, url: str | None = None, **options: Any) -> Self:
        """The ledger at `url` (default: `default_ledger_url()`); `options` as for the class."""
        return cls(database_for(url or default_ledger_url()), **options)

    async def check_clock(self) -> None:
        """Compare the clock that decides the month with the providers'.

        Raises:
            WrongClockError: It is wrong by more than five minutes, as all of them say.
            LedgerError: The ledger cannot be used.
        """
        if self.clocks.silent:
            return
        refusal = self.clocks.refusal(await self.database.now() if self._clock is None else self._clock())
        if refusal is not None:
            raise WrongClockError(refusal)

    def _now(self, tx: Tx) -> float:
        return tx.now() if self._clock is None else self._clock()

    def _month(self, at: float) -> str:
        return max(month_of(at, self.timezone), self._latch)

    async def _current(self, tx: Tx) -> str:
        """The month that is charged now: months never go back, whatever a clock does."""
        return max(self._month(self._now(tx)), await latest_month(tx, self.scope) or "")


def _owner() -> str:
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            boot = file.read().strip()[:8]
    except OSError:
        boot = "?"
    return f"{socket.gethostname()}:{os.getpid()}:{boot}:{uuid.uuid4().hex[:8]}"


def closed_text(key: str, reason: str) -> str:
    """What is told about a model or provider in quarantine."""
    return f"'{key}' is closed: {reason}. Compare the provider's bill, then run `tta ledger resolve`."


def answer_of(step_key: str, body: bytes | str) -> Answer:
    """A body with its checksum, ready to be stored."""
    raw = body.encode() if isinstance(body, str) else body
    return Answer(step_key, raw, hashlib.sha256(raw).hexdigest())


def pico_or_none(amount: Decimal | None) -> int | None:
    """An optional amount in pico-USD."""
    return None if amount is None else pico_ceiling(amount, what="value")
