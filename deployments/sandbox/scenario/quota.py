"""Counts calls and tokens against a scenario's quotas."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

from tta_dev_primitives.deployments.sandbox.chat import Ask, ErrorKind, Failure
from tta_dev_primitives.deployments.sandbox.http_reply import RateLimit
from tta_dev_primitives.deployments.sandbox.scenario.scenario import Quota

_METRICS: dict[str, tuple[float, ErrorKind]] = {
    "rpm": (60.0, "rate_limit"), "rpd": (86_400.0, "daily_limit"),
    "tpm": (60.0, "token_limit"), "tpd": (86_400.0, "daily_limit"),
}  # fmt: skip
"""Seconds of each limit's window, and the error when it is full."""
_ZONES = {"utc-day": ZoneInfo("UTC"), "pacific-day": ZoneInfo("America/Los_Angeles")}


@dataclass(slots=True)
class _Window:
    """What was used in the last `length` seconds or, with a `zone`, since midnight there."""

    limit: int
    length: float
    zone: ZoneInfo | None = None
    used: int = 0
    entries: deque[tuple[float, int]] = field(default_factory=deque)
    midnight: float = 0.0
    """The coming one, epoch seconds."""

    def tidy(self, now: float) -> None:
        if self.zone is None:
            while self.entries and self.entries[0][0] <= now - self.length:
                self.used -= self.entries.popleft()[1]
        elif now >= self.midnight:
            tomorrow = datetime.fromtimestamp(now, self.zone).date() + timedelta(days=1)
            start = datetime(tomorrow.year, tomorrow.month, tomorrow.day, tzinfo=self.zone)
            self.used, self.midnight = 0, start.timestamp()

    def add(self, now: float, amount: int) -> None:
        self.used += amount
        if self.zone is None:
            self.entries.append((now, amount))

    def wait(self, now: float, amount: int) -> float:
        """Seconds until `amount` fits."""
        if self.zone is not None:
            return self.midnight - now
        over = self.used + amount - self.limit
        for at, used in self.entries:
            over -= used
            if over <= 0:
                return max(0.0, at + self.length - now)
        return self.length

    def full_in(self, now: float) -> float:
        """Seconds until nothing of it is used."""
        if self.zone is not None:
            return self.midnight - now if self.used else 0.0
        return max(0.0, self.entries[-1][0] + self.length - now) if self.entries else 0.0


def _window(quota: Quota, provider: str, metric: str, limit: int) -> _Window:
    reset = quota.reset or ("pacific-day" if provider == "google-ai-studio" else "sliding")
    return _Window(limit, _METRICS[metric][0], _ZONES.get(reset) if metric.endswith("d") else None)


class Quotas:
    """Windows per key and model."""

    def __init__(self, quotas: Sequence[Quota], *, clock: Callable[[], float]) -> None:
        self._quotas, self._clock = quotas, clock
        self._windows: dict[tuple[int, str, str, str], _Window] = {}

    def _of(self, key: str, ask: Ask) -> tuple[float, list[tuple[str, _Window]]]:
        """The time of the quotas, and each limit that counts `ask`."""
        now = self._clock()
        found = []
        for index, quota in enumerate(self._quotas):
            limits = [(metric, getattr(quota, metric)) for metric in _METRICS]
            for metric, limit in limits if quota.holds(ask.provider, ask.model) else ():
                if limit is not None:
                    place = (index, key, ask.model, metric)
                    if place not in self._windows:
                        self._windows[place] = _window(quota, ask.provider, metric, limit)
                    self._windows[place].tidy(now)
                    found.append((metric, self._windows[place]))
        return now, found

    def admit(self, key: str, ask: Ask) -> Failure | None:
        """Count the call, or name the limit that refuses it. Groq counts the tokens asked for before it runs."""
        tokens = ask.input_tokens + (ask.max_tokens or 0 if ask.provider == "groq" else 0)
        now, windows = self._of(key, ask)
        for metric, window in windows:
            amount = 1 if metric.startswith("r") else tokens
            if window.used + amount <= window.limit:
                continue
            alone = metric.startswith("t") and amount > window.limit
            return Failure(
                "request_over_limit" if alone else _METRICS[metric][1],
                retry_after=None if alone else round(window.wait(now, amount), 3),
                limit=window.limit,
                used=window.used,
                requested=amount,
                facts={"metric": metric, "model": ask.model},
            )
        for metric, window in windows:
            window.add(now, 1 if metric.startswith("r") else tokens)
        return None

    def limits(self, key: str, ask: Ask) -> list[RateLimit]:
        """What is left, for the rate-limit headers."""
        now, windows = self._of(key, ask)
        return [RateLimit(metric, w.limit, max(0, w.limit - w.used), w.full_in(now)) for metric, w in windows]
