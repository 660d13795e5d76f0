"""Token usage of one call in disjoint classes, as every wire format is translated to it."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

IMPLAUSIBLE = "usage_implausible"


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one call; the classes do not overlap, their sum is what was billed.

    `cache_write_1h_tokens` and `thinking_tokens` are no classes of their own: they are already inside
    `cache_write_tokens` and `output_tokens`.
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
    """`usage_missing` or `usage_invalid` when the figures cannot be used: the call is charged at its bound.
    `usage_implausible` when a part cannot be right: that part is charged from the length of the text."""
    cache_write_1h_tokens: int = 0
    """Those of `cache_write_tokens` that are kept for an hour (Anthropic): they have a price of their own."""

    @property
    def total_input(self) -> int:
        """All prompt tokens, cached or not."""
        return self.input_tokens + self.cache_read_tokens + self.cache_write_tokens
