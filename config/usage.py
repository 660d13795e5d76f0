"""Token usage of one call in disjoint classes, as every wire format is translated to it."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

__all__ = ["Usage"]


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one call; the classes do not overlap, their sum is what was billed.

    `thinking_tokens` is information only: it is already inside `output_tokens`.
    """

    input_tokens: int = 0
    """Fresh prompt tokens (neither read from nor written to a cache)."""
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    output_tokens: int = 0
    """Everything generated, thoughts included."""
    thinking_tokens: int = 0
    reported_cost_usd: Decimal | None = None
    """What the provider itself says it charged (OpenRouter `usage.cost`); preferred over any price."""
    flag: str | None = None
    """`usage_missing` or `usage_invalid` when the figures cannot be trusted; then the call is presumed."""

    @property
    def total_input(self) -> int:
        """All prompt tokens, cached or not."""
        return self.input_tokens + self.cache_read_tokens + self.cache_write_tokens
