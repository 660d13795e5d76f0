"""Our prices against the tables they come from: genai-prices works out the same sum for every model it knows."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime, time
from decimal import Decimal
from typing import Any

import pytest
from genai_prices import Usage as TheirUsage
from genai_prices.data_snapshot import get_snapshot

from tta_dev_primitives.config.errors import UnknownPriceError
from tta_dev_primitives.config.models.catalogue import load_catalogue
from tta_dev_primitives.config.models.price_lookup import list_price
from tta_dev_primitives.config.models.targets import Usage

DAYS = (date(2026, 11, 22), date(2027, 1, 2))
THEIRS = {
    "anthropic": "anthropic",
    "google-ai-studio": "google",
    "groq": "groq",
    "openrouter": "openrouter",
}
# fresh, read, written for five minutes, written for an hour, output
FIGURES = [
    (1_000, 0, 0, 0, 500),
    (2_000, 3_000, 0, 0, 10),
    (3_000, 0, 2_000, 0, 10),
    (0, 1_000, 0, 3_000, 77),
    (1_300, 1_000, 1_500, 700, 77),
    (200_000, 0, 0, 0, 1),
    (200_001, 0, 0, 0, 1),
    (270_000, 10_000, 5_000, 15_000, 5),
    (1_000_000, 5, 0, 0, 5),
]
# Three tiers: from the first step on the dearest holds, so that a call is never taken as cheaper than it is.
DEAREST = {"qwen/qwen3-coder-flash", "qwen/qwen3.7-flash"}


def sums(provider: str, model: Any, day: date) -> Iterator[tuple[Decimal, Decimal]]:
    ours = list_price(provider, model.id, catalogue=load_catalogue(), today=day)
    theirs = model.get_prices(datetime.combine(day, time(12), tzinfo=UTC))
    for fresh, read, short, hour, output in FIGURES:
        usage = Usage(fresh, read, short + hour, output, cache_write_1h_tokens=hour)
        raw = TheirUsage(
            input_tokens=fresh + read + short + hour,
            cache_read_tokens=read,
            cache_write_tokens=short + hour,
            cache_write_1h_tokens=hour,
            output_tokens=output,
        )
        yield ours.cost(usage), theirs.calc_price(raw)["total_price"]


@pytest.mark.parametrize("day", DAYS, ids=str)
@pytest.mark.parametrize("provider", list(THEIRS))
def test_every_model_costs_what_the_tables_say(provider: str, day: date) -> None:
    """Each token class, each tier, to the last digit; models without a price for text are refused."""
    theirs = next(p for p in get_snapshot().providers if p.id == THEIRS[provider])
    priced = 0
    for model in theirs.models:
        if model.id.endswith(":free"):
            continue  # ours shows what the paid twin costs
        try:
            both = list(sums(provider, model, day))
        except UnknownPriceError:
            prices = model.get_prices(datetime.combine(day, time(12), tzinfo=UTC))
            assert prices.input_mtok is None or prices.output_mtok is None, model.id
            continue
        priced += 1
        if model.id in DEAREST:
            assert all(ours >= table for ours, table in both), model.id
        else:
            assert [ours for ours, _ in both] == [table for _, table in both], model.id
    assert priced >= 20
