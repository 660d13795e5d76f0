"""From a provider's raw usage to dollars, exact: over 200 cases against fractions worked out by hand.

The second reader here prices the raw figures of each format directly, with `Fraction`; the code under test
goes through the disjoint token classes and `Decimal`. Both must agree to the last digit, not to a tolerance.
"""

from __future__ import annotations

import json
from dataclasses import replace
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
from wire_samples import ask, target

from tta_dev_primitives.blocks.ledger.billing import bill_of, free_bill_of, list_value_of
from tta_dev_primitives.blocks.wire.formats import wire_format
from tta_dev_primitives.config.models.targets import Price, Target, Usage

PRICES = {
    "sonnet": {"input": "3", "output": "15", "read": "0.3", "write": "3.75"},
    "flash-lite": {"input": "0.3", "output": "2.5", "read": "0.03"},
    "gpt-oss": {"input": "0.15", "output": "0.6", "read": "0.075"},
    "odd digits": {"input": "0.333333", "output": "7.000001", "read": "0.000001", "write": "0.0833"},
    "tiered": {
        "input": "1.25",
        "output": "10",
        "read": "0.31",
        "long_input": "2.5",
        "long_output": "15",
        "long_read": "0.625",
    },
    "no cache price": {"input": "0.59", "output": "0.79"},
}
# prompt, read from cache, written to cache, answer, thoughts
FIGURES = [
    (1, 0, 0, 1, 0),
    (10, 0, 0, 5, 0),
    (7, 7, 0, 3, 0),
    (781, 0, 0, 74, 0),
    (1_189, 0, 0, 0, 0),
    (1_189, 0, 0, 266, 0),
    (48, 0, 0, 8, 3),
    (3_520, 3_512, 0, 2, 51),
    (2_572, 0, 2_569, 63, 0),
    (3_329, 3_211, 115, 53, 0),
    (200_000, 0, 0, 1_000, 7),
    (200_001, 0, 0, 1_000, 7),
    (250_000, 200_000, 0, 4_096, 1_024),
    (999_999, 333_333, 111_111, 65_535, 32_768),
]
FORMATS = ("anthropic", "google-ai-studio", "openai-compatible")


def price_of(name: str) -> Price:
    rates = {key: Decimal(text) for key, text in PRICES[name].items()}
    return Price(
        rates["input"],
        rates["output"],
        cache_read_usd_per_mtok=rates.get("read"),
        cache_write_usd_per_mtok=rates.get("write"),
        long_context_above=200_000 if "long_input" in rates else None,
        long_input_usd_per_mtok=rates.get("long_input"),
        long_output_usd_per_mtok=rates.get("long_output"),
        long_cache_read_usd_per_mtok=rates.get("long_read"),
    )


def by_hand(name: str, prompt: int, read: int, write: int, output: int) -> Fraction:
    """USD: each token class times its rate, over a million."""
    rates = {key: Fraction(text) for key, text in PRICES[name].items()}
    tier = "long_" if "long_input" in rates and prompt > 200_000 else ""
    fresh_rate, out_rate = rates[tier + "input"], rates[tier + "output"]
    read_rate = rates.get(tier + "read", fresh_rate)
    write_rate = rates.get("write", fresh_rate)
    fresh = prompt - read - write
    return (fresh * fresh_rate + read * read_rate + write * write_rate + output * out_rate) / 1_000_000


def raw_reply(form: str, prompt: int, read: int, write: int, answer: int, thoughts: int) -> dict[str, Any]:
    """The reply as each provider writes it: who includes what in which figure is the point of this test."""
    if form == "anthropic":
        usage = {
            "input_tokens": prompt - read - write,
            "cache_read_input_tokens": read,
            "cache_creation_input_tokens": write,
            "output_tokens": answer + thoughts,
            "output_tokens_details": {"thinking_tokens": thoughts},
        }
        return {"type": "message", "content": [], "stop_reason": "end_turn", "usage": usage}
    if form == "google-ai-studio":
        figures = {
            "promptTokenCount": prompt,
            "cachedContentTokenCount": read,
            "candidatesTokenCount": answer,
            "thoughtsTokenCount": thoughts,
        }
        # Zeros are left out on this wire.
        return {
            "candidates": [{"finishReason": "STOP"}],
            "usageMetadata": {k: v for k, v in figures.items() if v},
        }
    usage = {
        "prompt_tokens": prompt,
        "completion_tokens": answer + thoughts,
        "total_tokens": prompt + answer + thoughts,
        "prompt_tokens_details": {"cached_tokens": read, "cache_write_tokens": write},
        "completion_tokens_details": {"reasoning_tokens": thoughts},
    }
    return {"choices": [{"message": {"content": ""}, "finish_reason": "stop"}], "usage": usage}


CASES = [
    (form, name, figures)
    for form in FORMATS
    for name in PRICES
    for figures in FIGURES
    if not (form == "google-ai-studio" and figures[2])  # Gemini reports no cache writes
]


def test_there_are_at_least_two_hundred_cases() -> None:
    """Formats times prices times figures."""
    assert len(CASES) >= 200


def model(form: str, name: str) -> Target:
    return replace(target(form), price=price_of(name), context_tokens=2_000_000, max_output_tokens=200_000)


def usage_read(form: str, reply: dict[str, Any]) -> Usage:
    return wire_format(form).parse(target(form), 200, {}, json.dumps(reply).encode()).usage


@pytest.mark.parametrize(("form", "name", "figures"), CASES, ids=lambda v: str(v).replace(" ", ""))
def test_raw_usage_becomes_exact_dollars(
    form: str, name: str, figures: tuple[int, int, int, int, int]
) -> None:
    """The charge of a paid call and the list value of a free one, to the last digit."""
    prompt, read, write, answer, thoughts = figures
    paid = model(form, name)
    usage = usage_read(form, raw_reply(form, *figures))
    expected = by_hand(name, prompt, read, write, answer + thoughts)
    request = ask(max_output_tokens=200_000)
    assert usage.total_input == prompt
    assert usage.thinking_tokens == thoughts
    bill = bill_of(paid, request, usage, Decimal(10**6))
    assert bill.charge is not None
    assert Fraction(bill.charge) == expected
    value = list_value_of(paid, request, usage)
    assert value is not None
    assert Fraction(value) == expected


def test_a_sum_to_follow_on_paper() -> None:
    """1,189 prompt tokens at 3 and 266 output tokens at 15 USD a million: 0.003567 + 0.00399 = 0.007557 USD."""
    usage = Usage(input_tokens=1_189, output_tokens=266)
    assert price_of("sonnet").cost(usage) == Decimal("0.007557")


def test_what_is_cached_for_an_hour_has_its_own_price() -> None:
    """100 fresh at 3, 20 read at 0.30, 300 written at 3.75, 700 for an hour at 6, 10 out at 15: 0.005781 USD."""
    reply = raw_reply("anthropic", 1_120, 20, 1_000, 10, 0)
    reply["usage"]["cache_creation"] = {"ephemeral_5m_input_tokens": 300, "ephemeral_1h_input_tokens": 700}
    usage = usage_read("anthropic", reply)
    assert (usage.cache_write_tokens, usage.cache_write_1h_tokens) == (1_000, 700)
    price = replace(price_of("sonnet"), cache_write_1h_usd_per_mtok=Decimal(6))
    assert price.cost(usage) == Decimal("0.005781")
    assert price_of("sonnet").cost(usage) == Decimal("0.004206")


def test_the_two_figures_of_a_cache_write_may_differ() -> None:
    """The sum left out, or smaller than its parts: the larger holds."""
    reply = raw_reply("anthropic", 10, 0, 0, 1, 0)
    reply["usage"]["cache_creation_input_tokens"] = None
    reply["usage"]["cache_creation"] = {"ephemeral_5m_input_tokens": 5, "ephemeral_1h_input_tokens": 7}
    assert usage_read("anthropic", reply).cache_write_tokens == 12
    reply["usage"]["cache_creation"] = {"ephemeral_1h_input_tokens": "many"}
    assert usage_read("anthropic", reply).flag == "usage_invalid"


def test_openrouters_own_figure_beats_the_table() -> None:
    """What was charged is known to the provider; the price table is a guess beside it."""
    reply = raw_reply("openai-compatible", 550, 0, 0, 12, 0)
    reply["usage"]["cost"] = 0.00183
    usage = usage_read("openrouter", reply)
    bill = bill_of(replace(target("openrouter"), price=price_of("sonnet")), ask(), usage, Decimal(1))
    assert bill.charge == Decimal("0.00183")


def test_a_figure_called_cost_counts_from_openrouter_only() -> None:
    """A gateway of one's own may report 0, or credits: the price of the configuration holds there."""
    reply = raw_reply("openai-compatible", 550, 0, 0, 12, 0)
    reply["usage"]["cost"] = 0
    usage = usage_read("openai-compatible", reply)
    bill = bill_of(model("openai-compatible", "sonnet"), ask(), usage, Decimal(1))
    assert bill.charge == Decimal("0.00183")


def test_a_free_key_costs_nothing_and_saves_the_list_price() -> None:
    """Free is a property of the key's plan: 1,000 x 0.59 + 100 x 0.79 a million = 0.000669 USD saved."""
    free = replace(model("groq", "no cache price"), billing="free")
    usage = usage_read("groq", raw_reply("openai-compatible", 1_000, 0, 0, 100, 0))
    assert free_bill_of(free, ask(max_output_tokens=200), usage).charge == Decimal(0)
    assert list_value_of(free, ask("x" * 5_000, max_output_tokens=200), usage) == Decimal("0.000669")


def test_usage_that_cannot_be_trusted_has_no_price() -> None:
    """The bound is charged instead."""
    usage = usage_read("groq", {"choices": [{"message": {"content": "4"}}], "usage": {"prompt_tokens": -1}})
    assert bill_of(model("groq", "sonnet"), ask(), usage, Decimal(1)).charge is None
