"""Counts calls and tokens against a scenario's quotas, on a clock that may run fast."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

from tta_dev_primitives.deployments.sandbox.chat import Ask, ErrorKind, Failure
from tta_dev_primitives.deployments.sandbox.scenario import Quota
from tta_dev_primitives.deployments.sandbox.wire import Room

__all__ = ["Quotas"]

_WINDOWS = {"rpm": 60.0, "rpd": 86_400.0, "tpm": 60.0, "tpd": 86_400.0}
_KINDS: dict[str, ErrorKind] = {
    "rpm": "rate_limit",
    "rpd": "daily_limit",
    "tpm": "token_limit",
    "tpd": "daily_limit",
}
_ZONES = {"utc-day": ZoneInfo("UTC"), "pacific-day": ZoneInfo("America/Los_Angeles")}


@dataclass(slots=True)
class _Window:
    """What was used in the last `length` seconds."""

    limit: int
    length: float
    used: int = 0
    entries: deque[tuple[float, int]] = field(default_factory=deque)

    def tidy(self, now: float) -> None:
        while self.entries and self.entries[0][0] <= now - self.length:
            self.used -= self.entries.popleft()[1]

    def add(self, now: float, amount: int) -> None:
        self.entries.append((now, amount))
        self.used += amount

    def wait(self, now: float, amount: int) -> float:
        """Seconds until `amount` fits."""
        over = self.used + amount - self.limit
        for at, used in self.entries:
            over -= used
            if over <= 0:
                return max(0.0, at + self.length - now)
        return self.length

    def full_in(self, now: float) -> float:
        """Seconds until nothing of it is used."""
        return max(0.0, self.entries[-1][0] + self.length - now) if self.entries else 0.0


@dataclass(slots=True)
class _Day:
    """What was used since midnight in `zone`."""

    limit: int
    zone: ZoneInfo
    used: int = 0
    midnight: float = 0.0
    """The coming one, epoch seconds."""

    def tidy(self, now: float) -> None:
        if now >= self.midnight:
            tomorrow = datetime.fromtimestamp(now, self.zone).date() + timedelta(days=1)
            start = datetime(tomorrow.year, tomorrow.month, tomorrow.day, tzinfo=self.zone)
            self.used, self.midnight = 0, start.timestamp()

    def add(self, now: float, amount: int) -> None:
        self.used += amount

    def wait(self, now: float, amount: int) -> float:
        """Seconds until `amount` fits."""
        return self.midnight - now

    def full_in(self, now: float) -> float:
        """Seconds until nothing of it is used."""
        return self.midnight - now if self.used else 0.0


def _window(quota: Quota, provider: str, metric: str, limit: int) -> _Window | _Day:
    reset = quota.reset or ("pacific-day" if provider == "google-ai-studio" else "sliding")
    if metric.endswith("d") and reset in _ZONES:
        return _Day(limit, _ZONES[reset])
    return _Window(limit, _WINDOWS[metric])


class Quotas:
    """Windows per key and model; `speed` seconds of a quota pass in one second of `clock` (epoch seconds)."""

    def __init__(self, quotas: Sequence[Quota], *, clock: Callable[[], float], speed: float = 1.0) -> None:
        self._quotas = quotas
        self._clock = clock
        self._speed = speed
        self._began = clock()
        self._windows: dict[tuple[int, str, str, str], _Window | _Day] = {}

    def _now(self) -> float:
        return self._began + (self._clock() - self._began) * self._speed

    def _of(self, key: str, ask: Ask) -> list[tuple[str, _Window | _Day]]:
        found = []
        for index, quota in enumerate(self._quotas):
            if not quota.holds(ask.provider, ask.model):
                continue
            model = "*" if quota.shared else ask.model
            for metric in _WINDOWS:
                limit = getattr(quota, metric)
                if limit is not None:
                    place = (index, key, model, metric)
                    if place not in self._windows:
                        self._windows[place] = _window(quota, ask.provider, metric, limit)
                    found.append((metric, self._windows[place]))
        return found

    def admit(self, key: str, ask: Ask) -> Failure | None:
        """Count the call, or say which limit refuses it. Groq counts the tokens asked for before it runs."""
        now = self._now()
        tokens = ask.input_tokens + (ask.max_tokens or 0 if ask.provider == "groq" else 0)
        windows = self._of(key, ask)
        for metric, window in windows:
            window.tidy(now)
            amount = 1 if metric.startswith("r") else tokens
            if window.used + amount <= window.limit:
                continue
            alone = metric.startswith("t") and amount > window.limit
            return Failure(
                "request_over_limit" if alone else _KINDS[metric],
                retry_after=None if alone else round(window.wait(now, amount) / self._speed, 3),
                limit=window.limit,
                used=window.used,
                requested=amount,
                facts={"metric": metric, "model": ask.model},
            )
        for metric, window in windows:
            window.add(now, 1 if metric.startswith("r") else tokens)
        return None

    def rooms(self, key: str, ask: Ask) -> list[Room]:
        """What is left, for the rate-limit headers."""
        now = self._now()
        rooms = []
        for metric, window in self._of(key, ask):
            window.tidy(now)
            left = max(0, window.limit - window.used)
            rooms.append(Room(metric, window.limit, left, window.full_in(now) / self._speed))
        return rooms
