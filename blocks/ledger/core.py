"""What every part of a `Ledger` needs: its database, scope, clock and month."""

from __future__ import annotations

import os
import socket
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import replace
from decimal import Decimal
from typing import Any, Self

from tta_dev_primitives.blocks.ledger import savings_account, tables  # noqa: F401 - declare the tables
from tta_dev_primitives.blocks.ledger.clocks import LARGEST_SKEW_S, ProviderClocks
from tta_dev_primitives.blocks.ledger.database.protocol import Database, Tx, database_for, default_ledger_url
from tta_dev_primitives.blocks.ledger.money import pico_ceiling
from tta_dev_primitives.blocks.ledger.month_evidence import (
    MachineClock,
    keep_anchor,
    machine_now,
    new_month_refusal,
    read_anchor,
)
from tta_dev_primitives.blocks.ledger.months import month_of, zone
from tta_dev_primitives.blocks.ledger.settle import Terms, insert_month, latest_month
from tta_dev_primitives.config.errors import LedgerError, WrongClockError

AskDate = Callable[[], Awaitable[tuple[str, str | None, float]]]
"""Asks a provider for the time: its name, its `Date`, and how many seconds that took."""
_ANCHOR_EVERY_S = 600.0
EXHAUSTED_BP = 10_000
"""The alert line of a spent budget, in hundredths of a percent."""


class LedgerCore:
    """One budget's ledger.

    Args:
        database: Where it is kept.
        scope: Whose budget it is; several may share a database.
        timezone: The zone whose calendar months count.
        alert_threshold: Share of the limit whose crossing raises an alert, besides 100 %; 0: the first spending.
        clock: Seconds since 1970, whose word counts, for tests; default is the database's own clock.
        machine: The kernel's clock, which a new month of a SQLite ledger must agree with.
    """

    def __init__(
        self,
        database: Database,
        *,
        scope: str = "default",
        timezone: str = "UTC",
        alert_threshold: Decimal | None = Decimal("0.8"),
        clock: Callable[[], float] | None = None,
        machine: MachineClock | None = None,
    ) -> None:
        zone(timezone)
        self.database = database
        self.scope = scope
        self.timezone = timezone
        self._clock = clock
        self._machine: MachineClock = machine or (machine_now if clock is None else lambda: None)
        self._trusts_clock = clock is not None and machine is None
        self._anchored_at = float("-inf")
        self.clocks = ProviderClocks()
        self._terms = Terms(
            scope,
            f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:8]}",
            _alert_lines(alert_threshold),
            timezone,
        )

    def alert_at(self, threshold: Decimal | None) -> None:
        """Let another share of the limit raise an alert from now on; a line that was reported is not again."""
        self._terms = replace(self._terms, thresholds_bp=_alert_lines(threshold))

    @classmethod
    def open(cls, url: str | None = None, **options: Any) -> Self:
        """The ledger at `url` (default: `default_ledger_url()`); `options` as for the class."""
        return cls(database_for(url or default_ledger_url()), **options)

    async def check_clock(self) -> None:
        """Compare the clock that decides the month with the providers'.

        Raises:
            WrongClockError: It is wrong by more than five minutes, as all of them say.
        """
        if self.clocks.silent:
            return
        refusal = self.clocks.refusal(await self._time())
        if refusal is not None:
            raise WrongClockError(refusal)

    async def keep_time(self) -> None:
        """Let the ledger know the time that a provider has just confirmed, every ten minutes at most."""
        machine = self._machine() if self.database.dialect == "sqlite" else None
        if machine is None or machine.uptime - self._anchored_at < _ANCHOR_EVERY_S:
            return
        now = await self._time()
        provider = self.clocks.agreeing(now)
        if provider is None:
            return
        self._anchored_at = machine.uptime

        await self.database.transact(
            lambda tx: keep_anchor(tx, machine, now, provider), idempotent=True, label="clock"
        )

    async def begin_month(self, latest: str | None, month: str, ask_date: AskDate | None = None) -> None:
        """Begin a month that the clock says has come, when more than this process agrees.

        Args:
            latest: The month that the ledger is in; None: it is new.
            ask_date: Asks a provider for its `Date`, without a key; called only when nothing else can confirm it.

        Raises:
            WrongClockError: The clock is contradicted; no month has begun.
        """
        now, machine = await self._time(), self._machine()
        if latest is not None and not self._trusts_clock:
            refusal, doubtful = await self.database.read(
                lambda tx: self._contradiction(tx, now, latest, month)
            )
            if doubtful:
                if ask_date is not None:
                    self.clocks.hear(*await ask_date())
                refusal = None if self.clocks.agreeing(now) else self.clocks.refusal(now) or refusal
            if refusal is not None:
                raise WrongClockError(
                    f"{refusal}. No paid call is made. Set the clock; if {month} is right: tta ledger set-month {month}"
                )

        async def work(tx: Tx) -> None:
            await insert_month(tx, self.scope, month)
            if self.database.dialect == "sqlite":
                await keep_anchor(tx, machine, now, self.clocks.agreeing(now) or "")

        await self.database.transact(work, idempotent=True, label="month")

    def _now(self, tx: Tx) -> float:
        return tx.now() if self._clock is None else self._clock()

    async def _time(self) -> float:
        return await self.database.now() if self._clock is None else self._clock()

    def _month(self, at: float) -> str:
        return month_of(at, self.timezone)

    async def _current(self, tx: Tx) -> str:
        """The month that is charged now: it never goes back, and no contradicted clock moves it on."""
        at = self._now(tx)
        month, latest = self._month(at), await latest_month(tx, self.scope)
        if latest is None or month == latest or self._trusts_clock:
            return max(month, latest or "")
        if month < latest or (await self._contradiction(tx, at, latest, month))[0] is not None:
            return latest
        return month

    async def _contradiction(self, tx: Tx, at: float, latest: str, month: str) -> tuple[str | None, bool]:
        """Why `month` may not follow `latest`; and whether a provider's clock would say more."""
        if self.clocks.agreeing(at) is not None:
            return None, False
        machine, shared = self._machine(), self.database.dialect == "postgresql"
        anchor = None if shared else await read_anchor(tx, machine)
        refusal = new_month_refusal(
            now=at, latest=latest, month=month, machine=machine, anchor=anchor, shared_clock=shared
        )
        confirmed = refusal is None and (shared or anchor is not None)
        return refusal, not confirmed and not self._misread(at)

    async def _clock_problems(self, tx: Tx) -> list[str]:
        """What is wrong with the clock or the ledger's month, as far as it can be seen from here."""
        at, latest = self._now(tx), await latest_month(tx, self.scope)
        if self._trusts_clock or latest is None:
            return []
        month = self._month(at)
        if month > latest:
            refusal, _ = await self._contradiction(tx, at, latest, month)
            return [] if refusal is None else [refusal]
        if self._month(at + LARGEST_SKEW_S) < latest:
            return [
                f"month {latest} has begun, the clock says {month}: it is behind, or another was ahead. "
                f"Set the clock; if it is right: tta ledger set-month {month}"
            ]
        return []

    def _misread(self, at: float) -> bool:
        """Whether this process's clock is not this machine's: it may not say that a lease has ended."""
        if self._trusts_clock or self.database.dialect == "postgresql":
            return False
        machine = self._machine()
        return machine is not None and abs(at - machine.wall) > LARGEST_SKEW_S


def closed_text(key: str, reason: str) -> str:
    """What is said about a model or provider in quarantine."""
    return f"'{key}' is closed: {reason}. Compare the provider's bill, then run `tta ledger resolve`."


def pico_or_none(amount: Decimal | None) -> int | None:
    """An optional amount in pico-USD."""
    return None if amount is None else pico_ceiling(amount, what="value")


def _alert_lines(threshold: Decimal | None) -> tuple[int, ...]:
    """The shares of the limit that raise an alert, in hundredths of a percent."""
    if threshold is None:
        return (EXHAUSTED_BP,)
    if not 0 <= threshold <= 1:
        raise LedgerError(f"cost_tracking.alert_threshold {threshold} is not between 0 and 1")
    return tuple(sorted({int(threshold * 10_000), EXHAUSTED_BP}))
