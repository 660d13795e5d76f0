"""Providers as the tests imagine them: limiters that know nothing of the scheduler, on a virtual clock."""

from __future__ import annotations

import heapq
import random
from collections import Counter, deque
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal
from zoneinfo import ZoneInfo

from tta_dev_primitives.config.models.targets import Limits, Target
from tta_dev_primitives.config.provider_errors import ErrorClass, ProviderError

Shape = Literal["fixed", "sliding", "bucket"]


def target_of(name: str, provider: str, limits: Limits, **more: object) -> Target:
    """A free model with these limits."""
    options = {
        "api_model": name,
        "billing": "free",
        "api_key_env": f"{provider.upper()}_KEY",
        "family": "any",
        "price": None,
    }
    return Target(name=name, provider=provider, limits=limits, **{**options, **more})  # type: ignore[arg-type]


@dataclass
class VirtualClock:
    """Time that only moves when told."""

    now: float

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.now += seconds


@dataclass
class Minute:
    """One minute limit of a provider, in one of the shapes that providers use."""

    limit: float
    shape: Shape
    offset: float = 0.0
    _fixed: tuple[int, float] = (0, 0.0)
    _log: deque[tuple[float, float]] = field(default_factory=deque)
    _level: tuple[float, float] | None = None

    def used(self, now: float) -> float:
        """What is used at `now`."""
        if self.shape == "fixed":
            return self._fixed[1] if self._fixed[0] == int((now - self.offset) // 60) else 0.0
        if self.shape == "sliding":
            while self._log and self._log[0][0] <= now - 60:
                self._log.popleft()
            return sum(amount for _, amount in self._log)
        at, level = self._level or (now, 0.0)
        return max(0.0, level - (now - at) * self.limit / 60)

    def take(self, now: float, amount: float) -> None:
        """Count `amount` at `now`."""
        used = self.used(now)
        self._fixed = (int((now - self.offset) // 60), used + amount)
        self._log.append((now, amount))
        self._level = (now, used + amount)


@dataclass
class ProviderModel:
    """One model behind one key: answers 429 when a limit would be passed, and keeps the books of its days."""

    target: Target
    shape: Shape
    rpm: int | None = None
    tpm: int | None = None
    rpd: int | None = None
    tpd: int | None = None
    zone: str = "UTC"
    skew_s: float = 0.0
    counts: int | None = None
    """Tokens counted for each request whatever it used (its asked maximum); None: what it used."""
    served: Counter[str] = field(default_factory=Counter)
    tokens: Counter[str] = field(default_factory=Counter)
    refused: int = 0

    def __post_init__(self) -> None:
        self._minutes = [
            None if limit is None else Minute(limit, self.shape, 17.0) for limit in (self.rpm, self.tpm)
        ]

    def day(self, now: float) -> str:
        """The day that the provider books `now` under."""
        return datetime.fromtimestamp(now + self.skew_s, ZoneInfo(self.zone)).date().isoformat()

    def answer(self, now: float, tokens: int) -> ProviderError | None:
        """Serve or refuse a request that arrives at `now`."""
        tokens = self.counts or tokens
        day = self.day(now)
        amounts = (1, tokens)
        for limit, used, amount in (
            (self.rpd, self.served[day], 1),
            (self.tpd, self.tokens[day], tokens),
        ):
            if limit is not None and used + amount > limit:
                return self._refuse(f"limit per day reached ({limit})", ErrorClass.QUOTA)
        for minute, amount in zip(self._minutes, amounts, strict=True):
            if minute is not None and minute.used(now) + amount > minute.limit + 1e-6:
                return self._refuse("limit per minute reached", ErrorClass.RATE_LIMIT, retry_after_s=20.0)
        for minute, amount in zip(self._minutes, amounts, strict=True):
            if minute is not None:
                minute.take(now, amount)
        self.served[day] += 1
        self.tokens[day] += tokens
        return None

    def headers(self, now: float) -> dict[str, str]:
        """Groq's headers; the others send none with good replies."""
        if self.target.provider != "groq" or self.rpd is None or self._minutes[1] is None:
            return {}
        left = self._minutes[1].limit - self._minutes[1].used(now)
        return {
            "x-ratelimit-limit-requests": str(self.rpd),
            "x-ratelimit-remaining-requests": str(self.rpd - self.served[self.day(now)]),
            "x-ratelimit-reset-requests": "2m59.56s",
            "x-ratelimit-limit-tokens": str(self.tpm),
            "x-ratelimit-remaining-tokens": str(int(left)),
            "x-ratelimit-reset-tokens": "7.66s",
        }

    def used_of_day(self, day: str) -> float:
        """The share of the day's quota that was used: of the limit that was nearest."""
        shares = [0.0]
        if self.rpd:
            shares.append(self.served[day] / self.rpd)
        if self.tpd:
            # The last request that still fits leaves on average half a request unused.
            shares.append(self.tokens[day] / self.tpd)
        return max(shares)

    def _refuse(
        self, text: str, error_class: ErrorClass, *, retry_after_s: float | None = None
    ) -> ProviderError:
        self.refused += 1
        return ProviderError(
            text,
            provider=self.target.provider,
            model=self.target.name,
            error_class=error_class,
            status=429,
            retry_after_s=retry_after_s,
        )


class Wire:
    """Requests on their way: a heap of moments, so that a day passes in seconds."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self._heap: list[tuple[float, int, object]] = []
        self._count = 0

    def at(self, moment: float, what: object) -> None:
        """Let `what` happen at `moment`."""
        self._count += 1
        heapq.heappush(self._heap, (moment, self._count, what))

    @property
    def next_at(self) -> float:
        """When something happens next; infinite when nothing is on its way."""
        return self._heap[0][0] if self._heap else float("inf")

    def due(self, now: float) -> list[tuple[float, object]]:
        """All that has happened by `now`, in order."""
        out = []
        while self._heap and self._heap[0][0] <= now:
            moment, _, what = heapq.heappop(self._heap)
            out.append((moment, what))
        return out

    def clear(self) -> None:
        """Forget all that is on its way: the process was killed."""
        self._heap.clear()
