"""What a model name of the configuration means on the wire: provider, API id, price, limits, capabilities."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, fields, replace
from decimal import Decimal
from typing import Any, Literal

Billing = Literal["free", "paid"]


def default_billing(provider: str, model: str) -> Billing | None:
    """What a key of this provider costs when the file does not say; None if the file must say."""
    if provider == "anthropic":
        return "paid"
    if provider in ("google-ai-studio", "groq"):
        return "free"
    if provider == "openrouter":
        return "free" if model.endswith(":free") or model == "openrouter/free" else "paid"
    if provider == "openai-compatible":
        return None
    from tta_dev_primitives.config.models.providers import load_providers

    entry = load_providers().get(provider)
    return entry.billing if entry is not None else None  # type: ignore[return-value]


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


_ENDPOINT = re.compile(
    r"/chat/completions$|/messages$|(?:/v1|/v1beta)?/models/[^/]+:(?:generateContent|streamGenerateContent)$"
)
_MTOK = Decimal(1_000_000)


@dataclass(frozen=True, slots=True)
class Price:
    """List price in USD per million tokens, with its source. All amounts are exact decimals."""

    input_usd_per_mtok: Decimal
    output_usd_per_mtok: Decimal
    cache_read_usd_per_mtok: Decimal | None = None
    cache_write_usd_per_mtok: Decimal | None = None
    long_context_above: int | None = None
    """Prompt tokens above which the `long_*` prices hold for the whole call (Gemini 2.5 Pro: 200,000)."""
    long_input_usd_per_mtok: Decimal | None = None
    long_output_usd_per_mtok: Decimal | None = None
    long_cache_read_usd_per_mtok: Decimal | None = None
    source: str = ""
    cache_write_1h_usd_per_mtok: Decimal | None = None
    """For what is kept an hour; None: as any cache write."""
    long_cache_write_usd_per_mtok: Decimal | None = None
    long_cache_write_1h_usd_per_mtok: Decimal | None = None

    def cost(self, usage: Usage) -> Decimal:
        """USD for `usage`, exact. Cache classes without a price of their own cost what fresh input costs."""
        long = self.long_context_above is not None and usage.total_input > self.long_context_above
        fresh = self._rate("input", self.input_usd_per_mtok, long=long)
        write = self._rate("cache_write", fresh, long=long)
        hour = min(usage.cache_write_1h_tokens, usage.cache_write_tokens)
        total = (
            usage.input_tokens * fresh
            + usage.cache_read_tokens * self._rate("cache_read", fresh, long=long)
            + (usage.cache_write_tokens - hour) * write
            + hour * self._rate("cache_write_1h", write, long=long)
            + usage.output_tokens * self._rate("output", self.output_usd_per_mtok, long=long)
        )
        return total / _MTOK

    def caching_saves(self, calls: int) -> bool:
        """Whether so many calls with the same beginning cost less when the first writes it to the cache."""
        write, read = self.cache_write_usd_per_mtok, self.cache_read_usd_per_mtok
        if write is None or read is None:
            return False
        return write + (calls - 1) * read < calls * self.input_usd_per_mtok

    def scaled(self, factor: Decimal, source: str) -> Price:
        """Every amount times `factor` (a provider's batch rate)."""
        amounts = {
            field.name: amount * factor
            for field in fields(self)
            if field.name.endswith("_usd_per_mtok") and (amount := getattr(self, field.name)) is not None
        }
        return replace(self, **amounts, source=f"{self.source}, times {factor} ({source})")

    def _rate(self, token_class: str, fallback: Decimal, *, long: bool) -> Decimal:
        """The price of a token class; one that a long prompt makes dearer is never taken as cheaper."""
        base: Decimal | None = getattr(self, f"{token_class}_usd_per_mtok")
        if not long:
            return fallback if base is None else base
        dear: Decimal | None = getattr(self, f"long_{token_class}_usd_per_mtok")
        return dear if dear is not None else max(fallback, base or fallback)

    def most(self, prompt_tokens: int, output_tokens: int) -> Decimal:
        """USD that a call of at most so many tokens can cost, whether its prompt is cached or not.

        No request of ours asks for a cache that lasts an hour: its price does not count here.
        """
        p_in, p_out = self.highest_input, self.highest_output
        if self.long_context_above is not None and prompt_tokens <= self.long_context_above:
            p_in = max(self.input_usd_per_mtok, self.cache_write_usd_per_mtok or self.input_usd_per_mtok)
            p_out = self.output_usd_per_mtok
        return (prompt_tokens * p_in + output_tokens * p_out) / _MTOK

    @property
    def highest_input(self) -> Decimal:
        """The dearest a prompt token can be, over all tiers and cache writes (for the bound of a call)."""
        return max(
            p
            for p in (
                self.input_usd_per_mtok,
                self.long_input_usd_per_mtok,
                self.cache_write_usd_per_mtok,
                self.long_cache_write_usd_per_mtok,
            )
            if p is not None
        )

    @property
    def highest_output(self) -> Decimal:
        """The dearest an output token can be, over all tiers (for the bound of a call)."""
        return max(p for p in (self.output_usd_per_mtok, self.long_output_usd_per_mtok) if p is not None)


@dataclass(frozen=True, slots=True)
class Limits:
    """Free-tier or plan limits of one key and model; None means unknown or none."""

    rpm: int | None = None
    rpd: int | None = None
    tpm: int | None = None
    tpd: int | None = None
    reset_zone: str = "UTC"
    """Time zone of the day's reset: `UTC` or `America/Los_Angeles`."""
    source: Literal["config", "catalogue"] = "config"
    """Who says so: the user's own limits always hold, the catalogue's give way to what the provider reports."""
    pool: str | None = None
    """Models of one key that name the same pool draw from it together (OpenRouter: all `:free` models)."""
    tokens_counted: Literal["total", "input"] = "total"
    """What the provider counts against TPM and TPD: prompt and output together, or the prompt only (Gemini)."""


@dataclass(frozen=True, slots=True)
class Capabilities:
    """Wire facts of one model; catalogue data, never `if provider ==` in the work."""

    temperature: bool = True
    json_mode: Literal["none", "json_object", "json_schema", "tool"] = "none"
    thinking: Literal[
        "none", "gemini_budget", "gemini_level", "anthropic_adaptive", "groq_effort", "openrouter_effort"
    ] = "none"
    min_thinking_budget: int = 0
    max_tokens_field: Literal["max_tokens", "max_completion_tokens", "maxOutputTokens"] = "max_tokens"
    system_role: bool = True
    """False: the system text is sent at the head of the user's turn."""
    stop: bool = True
    cache_min_tokens: int = 0
    """A prompt's beginning of at least so many tokens is kept by the provider when the request marks it; 0: never."""

    @property
    def room_to_think(self) -> int:
        """Output tokens for thoughts that no request can switch off; 0 where `thinking: low` ends them."""
        if self.thinking in ("none", "anthropic_adaptive"):
            return 0
        return (
            0
            if self.thinking == "gemini_budget" and not self.min_thinking_budget
            else 1024 + self.min_thinking_budget
        )


@dataclass(frozen=True, slots=True)
class Target:
    """One model as a run may call it: configuration and catalogue brought together."""

    name: str
    """As the configuration names it; what results show as `model`."""
    provider: str
    api_model: str
    billing: Billing
    api_key_env: str
    family: str
    """Who trained it (claude, gemini, llama, gpt-oss ...): agreement counts only across families."""
    price: Price | None
    """List price; None is unknown: a paid target without a price is refused."""
    base_url: str | None = None
    """None: the provider's own address."""
    max_output_tokens: int = 2048
    """Asked for; a cut answer is asked for once more with twice as many."""
    timeout_s: float = 120.0
    context_tokens: int | None = None
    most_output_tokens: int | None = None
    """What the model can write at most; None: not known."""
    limits: Limits = field(default_factory=Limits)
    capabilities: Capabilities = field(default_factory=Capabilities)
    fixed_capabilities: frozenset[str] = frozenset()
    """Capabilities that the configuration sets: what a provider answers does not change them."""
    allow_private_hosts: bool = False
    replaces: str | None = None
    """The configured name that this target stands in for, when it is a replacement."""

    @property
    def key(self) -> str:
        """Identity of the model behind the name: provider, address and API id."""
        return f"{self.provider}|{self.base_url or ''}|{self.api_model}"

    def asked_with(self, **capabilities: Any) -> Target:
        """The same target with other values of some capabilities."""
        return replace(self, capabilities=replace(self.capabilities, **capabilities))


def endpoint_in(address: str) -> str:
    """The endpoint path that a `base_url` ends in by mistake ("" if none): what stands before it is the base."""
    found = _ENDPOINT.search(address.rstrip("/"))
    return found[0] if found else ""
