"""Exact money, calendar months, and a bound that no tokenizer passes."""

from __future__ import annotations

import unicodedata
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tta_dev_primitives.blocks.ledger.cost_bound import bound_usd, input_token_bound, plausible_usd
from tta_dev_primitives.blocks.ledger.money import MAX_PICO, from_pico, pico_ceiling, pico_floor, to_pico
from tta_dev_primitives.blocks.ledger.months import checked_month, month_of
from tta_dev_primitives.blocks.wire.types import ChatRequest, Message
from tta_dev_primitives.config.errors import LedgerError
from tta_dev_primitives.config.models.targets import Price, Target


@given(st.integers(0, MAX_PICO))
def test_money_survives_the_way_in_and_out(pico: int) -> None:
    """Every amount the ledger can hold comes back as it went in; whole dollars are written as such."""
    assert to_pico(from_pico(pico)) == pico
    assert "E+" not in str(from_pico(pico))


@given(st.decimals(0, 1_000_000, allow_nan=False))
def test_finer_amounts_round_against_the_spender(amount: Decimal) -> None:
    """Charges and bounds round up, limits down, by less than one pico-USD."""
    exact = Fraction(amount) * 10**12
    assert 0 <= pico_ceiling(amount) - exact < 1
    assert 0 <= exact - pico_floor(amount) < 1


@pytest.mark.parametrize(
    "amount",
    [Decimal("NaN"), Decimal("sNaN"), Decimal("Infinity"), Decimal("-0.01"), Decimal("1000000.000000000001"),
     Decimal("1E+30"), 0.1, 1, True, "1", None],
)  # fmt: skip
def test_what_is_not_an_amount_is_refused(amount: object) -> None:
    """No NaN, infinity, negative or huge amount, and nothing but a Decimal, enters the ledger."""
    for convert in (to_pico, pico_ceiling, pico_floor):
        with pytest.raises(LedgerError, match="Ledger: "):
            convert(amount)  # type: ignore[arg-type]


def test_a_month_is_the_calendar_month_of_the_zone() -> None:
    """One second before midnight and midnight itself, at the turn of a year."""
    midnight = 1_798_761_600.0
    assert [month_of(midnight - 1), month_of(midnight)] == ["2026-12", "2027-01"]
    assert month_of(midnight, "America/Los_Angeles") == "2026-12"
    assert month_of(midnight - 3600, "Europe/Berlin") == "2027-01"


@pytest.mark.parametrize("text", ["2026-13", "2026-1", "26-01", "2026-00", "", "2026-01-01", "２０２６-01"])
def test_a_month_is_written_one_way(text: str) -> None:
    """`YYYY-MM`, with a month that exists."""
    with pytest.raises(LedgerError, match="YYYY-MM"):
        checked_month(text)


def test_an_unknown_time_zone_is_named() -> None:
    """The key of the configuration stands in the message."""
    with pytest.raises(LedgerError, match=r"cost_tracking\.timezone: no time zone 'Mars/Base'"):
        month_of(0.0, "Mars/Base")


def target(**prices: Decimal | int) -> Target:
    fields: dict[str, Any] = {"input_usd_per_mtok": Decimal(1), "output_usd_per_mtok": Decimal(2), **prices}
    return Target("m", "anthropic", "m", "paid", "K", "x", Price(**fields))


@given(st.text(), st.text())
def test_the_bound_counts_at_least_every_byte_of_either_spelling(prompt: str, system: str) -> None:
    """A byte-level vocabulary makes at most one token a byte, one that normalises first counts NFKC bytes."""
    request = ChatRequest((Message("user", prompt),), system=system)
    for form in (str, lambda text: unicodedata.normalize("NFKC", text)):
        data = form(prompt + "\n" + system).encode("utf-8", "surrogatepass")
        assert input_token_bound(request) >= len(data)


def test_the_bound_written_out() -> None:
    """256 + 16 a message and one for the system + bytes, at 1 USD; 100 output tokens at 2 USD a million."""
    request = ChatRequest(
        (Message("user", "abc"), Message("assistant", "ä")), system="s", max_output_tokens=100
    )
    assert input_token_bound(request) == 256 + 3 * 16 + 3 + 2 + 1
    assert bound_usd(target(), request) == Decimal("0.000310") + Decimal("0.000200")


def test_one_sign_may_be_many_tokens() -> None:
    """U+FDFA is 3 bytes and becomes 33 when normalised; the longer spelling counts."""
    short = input_token_bound(ChatRequest((Message("user", ""),)))
    assert input_token_bound(ChatRequest((Message("user", "\ufdfa"),))) - short == 33


def test_the_bound_takes_the_dearest_tier() -> None:
    """Long-context and cache-write prices count, since nobody knows beforehand which will apply."""
    request = ChatRequest((Message("user", "x"),), max_output_tokens=1_000_000)
    dear = target(
        cache_write_usd_per_mtok=Decimal(5),
        long_output_usd_per_mtok=Decimal(9),
        long_input_usd_per_mtok=Decimal(3),
    )
    assert bound_usd(dear, request) == input_token_bound(request) * Decimal(5) / 1_000_000 + 9


def test_the_price_of_a_long_prompt_counts_only_where_it_can_be_reached() -> None:
    """A short request to a model with a dearer tier holds no more than the short one can cost."""
    request = ChatRequest((Message("user", "x"),), max_output_tokens=1_000_000)
    tokens = input_token_bound(request)
    tiers: dict[str, Decimal] = {
        "long_input_usd_per_mtok": Decimal(3),
        "long_output_usd_per_mtok": Decimal(9),
    }
    below, above = target(long_context_above=tokens, **tiers), target(long_context_above=tokens - 1, **tiers)
    assert bound_usd(below, request) == (tokens * Decimal(1) + 1_000_000 * Decimal(2)) / 1_000_000
    assert bound_usd(above, request) == (tokens * Decimal(3) + 1_000_000 * Decimal(9)) / 1_000_000


@given(st.text(max_size=50), st.integers(1, 10**6))
def test_the_bound_is_below_what_is_plausible_at_all(prompt: str, output: int) -> None:
    """A bill within the bound is never taken for an impossible one."""
    request = ChatRequest((Message("user", prompt),), max_output_tokens=output)
    assert bound_usd(target(), request) <= plausible_usd(target(), request)


def test_a_schema_counts_with_its_hidden_overhead() -> None:
    """Structured output sends the schema and a preamble of the provider's own."""
    plain = ChatRequest((Message("user", "x"),))
    asked = ChatRequest((Message("user", "x"),), json_schema={"type": "object", "properties": {}})
    assert input_token_bound(asked) > input_token_bound(plain) + 1024
