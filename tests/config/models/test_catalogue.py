"""The catalogue and the prices: names, dates, replacements, and exact money."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from datetime import date, timedelta
from decimal import Decimal

import pytest

from tta_dev_primitives.config import load_catalogue
from tta_dev_primitives.config.errors import UnknownPriceError
from tta_dev_primitives.config.models.catalogue import ModelEntry
from tta_dev_primitives.config.models.price_lookup import bundled_price, list_price
from tta_dev_primitives.config.models.targets import Usage
from tta_dev_primitives.config.options import PriceConfig

TODAY = date(2026, 11, 26)
CATALOGUE = load_catalogue()


@pytest.mark.parametrize(
    ("name", "provider", "api_id"),
    [
        ("claude-sonnet-4.5", "anthropic", "claude-sonnet-4-5"),
        ("claude-sonnet-4-5-20250929", "anthropic", "claude-sonnet-4-5"),
        ("claude-opus-4", "anthropic", "claude-opus-4-0"),
        ("claude-3.7-sonnet", "anthropic", "claude-3-7-sonnet-latest"),
        ("gemini-2.5-pro", "google-ai-studio", "gemini-2.5-pro"),
        ("llama-3.3-70b-versatile", "groq", "llama-3.3-70b-versatile"),
        ("deepseek/deepseek-r1:free", "openrouter", "deepseek/deepseek-r1:free"),
        ("anthropic/claude-sonnet-4.5", "openrouter", "anthropic/claude-sonnet-4.5"),
    ],
)
def test_the_guides_names_lead_to_the_ids_of_the_api(name: str, provider: str, api_id: str) -> None:
    """The dot form is a name of the guide, not of Anthropic's API."""
    entry = CATALOGUE.find(name)
    assert entry is not None
    assert (entry.provider, entry.name) == (provider, api_id)


@pytest.mark.parametrize(
    ("name", "day", "replacement"),
    [
        ("claude-sonnet-4.5", "2026-11-30", "claude-sonnet-5-5"),
        ("claude-opus-4", "2026-06-15", "claude-opus-5-5"),
        ("gemini-2.5-pro", "2026-12-01", "gemini-3.8-flash"),
        ("llama-3.3-70b-versatile", "2026-08-16", "openai/gpt-oss-120b"),
        ("deepseek/deepseek-r1:free", "2026-02-28", "openai/gpt-oss-120b:free"),
        ("gemini-2.5-flash", "2026-12-01", "gemini-3.5-flash-lite"),
        ("gemini-2.0-flash", "2026-06-01", "gemini-3.5-flash-lite"),
        ("llama-3.1-8b-instant", "2026-08-16", "openai/gpt-oss-20b"),
        ("claude-3-7-sonnet-20250219", "2026-02-19", "claude-sonnet-5-5"),
        ("claude-3-5-haiku-latest", "2026-02-19", "claude-haiku-4-5"),
    ],
)
def test_the_guides_models_and_other_known_ones_are_flagged_today(
    name: str, day: str, replacement: str
) -> None:
    """Retired or within 30 days of it, with the date and the model to name instead."""
    (warning,) = CATALOGUE.lifecycle_warnings(name, TODAY)
    assert warning.startswith(f"{name} w")
    assert day in warning
    assert warning.endswith(f"replacement: {replacement}")


def test_the_warning_begins_thirty_days_before() -> None:
    """31 days before: nothing; 30 days before: soon; on the day: retired."""
    day = date(2026, 11, 30)
    assert CATALOGUE.lifecycle_warnings("claude-sonnet-4.5", day - timedelta(31)) == []
    assert "in 30 days" in CATALOGUE.lifecycle_warnings("claude-sonnet-4.5", day - timedelta(30))[0]
    assert "in 1 day)" in CATALOGUE.lifecycle_warnings("claude-sonnet-4.5", day - timedelta(1))[0]
    assert "was retired" in CATALOGUE.lifecycle_warnings("claude-sonnet-4.5", day)[0]
    assert CATALOGUE.lifecycle_warnings("nobody-knows-this", day) == []


def test_replacements_are_known_models_of_the_same_provider_that_are_still_served() -> None:
    """And a free one is replaced by one that the free plan covers."""
    for entry in CATALOGUE.models:
        if entry.lifecycle is None:
            continue
        assert entry.lifecycle.checked_on <= TODAY
        assert entry.lifecycle.source
        successor = CATALOGUE.successor(entry, TODAY)
        assert successor is not None, entry.name
        assert successor.provider == entry.provider
        assert not CATALOGUE.lifecycle_warnings(successor.name, TODAY, provider=entry.provider)
        if entry.provider != "anthropic":
            assert successor.free_tier is not None


def test_names_are_unique_within_a_provider() -> None:
    """No alias leads to two models."""
    names = [(entry.provider, name) for entry in CATALOGUE.models for name in entry.names]
    assert len(names) == len(set(names))


def test_family_is_guessed_from_the_name_where_the_catalogue_is_silent() -> None:
    """Agreement counts across families only."""
    assert CATALOGUE.family_of("gpt-oss:20b", "openai-compatible") == "gpt-oss"
    assert CATALOGUE.family_of("llama3.2:3b", "openai-compatible") == "llama"
    assert CATALOGUE.family_of("qwen/qwen3-32b", "groq") == "qwen"
    assert CATALOGUE.family_of("claude-next", "anthropic") == "claude"


@pytest.mark.parametrize("entry", CATALOGUE.models, ids=lambda e: f"{e.provider}-{e.name}")
def test_catalogue_prices_agree_with_the_bundled_tables(entry: ModelEntry) -> None:
    """Two sources, one price (for prompts below the long-context tiers)."""
    ours, theirs = entry.price_on(TODAY), bundled_price(entry.provider, entry.name, TODAY)
    if ours is None or theirs is None:
        assert ours or theirs or entry.name.endswith(":free")
        return
    usage = Usage(input_tokens=1189, cache_read_tokens=310, output_tokens=77)
    assert ours.cost(usage) == theirs.cost(usage)


@pytest.mark.parametrize(
    ("provider", "model", "input_usd", "output_usd"),
    [
        ("anthropic", "claude-sonnet-4-5", "3", "15"),
        ("anthropic", "claude-opus-4-0", "15", "75"),
        ("anthropic", "claude-opus-5-5", "4", "20"),
        ("google-ai-studio", "gemini-3.8-flash", "0.75", "3.75"),
        ("google-ai-studio", "gemini-3.5-flash-lite", "0.30", "2.50"),
        ("groq", "llama-3.3-70b-versatile", "0.59", "0.79"),
        ("groq", "openai/gpt-oss-120b", "0.15", "0.60"),
        ("openrouter", "deepseek/deepseek-r1", "0.70", "2.50"),
        ("openrouter", "deepseek/deepseek-r1:free", "0.70", "2.50"),
        ("openrouter", "openrouter/free", "0", "0"),
        ("anthropic", "claude-opus-4-8", "5", "25"),
    ],
)
def test_list_prices(provider: str, model: str, input_usd: str, output_usd: str) -> None:
    """USD per million tokens; a free variant shows what its paid twin would cost."""
    price = list_price(provider, model, catalogue=CATALOGUE, today=TODAY)
    assert (price.input_usd_per_mtok, price.output_usd_per_mtok) == (Decimal(input_usd), Decimal(output_usd))
    assert price.source


def test_a_new_rate_holds_from_its_day_on() -> None:
    """Gemini 3.8 Flash is dearer from 2027 on; old runs keep their cost."""
    prices = [
        list_price("google-ai-studio", "gemini-3.8-flash", catalogue=CATALOGUE, today=day)
        for day in (date(2026, 12, 31), date(2027, 1, 1))
    ]
    assert [price.input_usd_per_mtok for price in prices] == [Decimal("0.75"), Decimal("1.5")]


def test_long_prompts_cost_the_long_price() -> None:
    """Gemini 2.5 Pro: above 200,000 prompt tokens the whole call is dearer."""
    price = list_price("google-ai-studio", "gemini-2.5-pro", catalogue=CATALOGUE, today=TODAY)
    assert price.cost(Usage(input_tokens=200_000, output_tokens=1000)) == Decimal("0.26")
    assert price.cost(Usage(input_tokens=200_001, output_tokens=1000)) == Decimal("0.5150025")


def test_tiers_of_the_bundled_tables_are_kept() -> None:
    """Prompt, output and cache-read tiers of a model that only genai-prices knows."""
    price = bundled_price("openrouter", "anthropic/claude-sonnet-4.5", TODAY)
    assert price is not None
    assert price.long_context_above == 200_000
    assert (price.long_input_usd_per_mtok, price.long_output_usd_per_mtok) == (Decimal(6), Decimal("22.5"))


def test_the_files_own_price_stands_above_all() -> None:
    """Exact, from the text of the file."""
    own = PriceConfig(input_usd_per_mtok=Decimal("0.1"), output_usd_per_mtok=Decimal("0.000001"))
    price = list_price("anthropic", "claude-sonnet-4-5", catalogue=CATALOGUE, today=TODAY, own=own)
    assert price.cost(Usage(input_tokens=3, output_tokens=1)) == Decimal("3.00001E-7")


@pytest.mark.parametrize("provider", ["anthropic", "groq", "openrouter", "openai-compatible"])
def test_an_unknown_price_is_an_error_and_never_zero(provider: str) -> None:
    """The message says how to give one."""
    with pytest.raises(UnknownPriceError, match=r"nobody-knows-this .* price: \{input_usd_per_mtok"):
        list_price(provider, "nobody-knows-this", catalogue=CATALOGUE, today=TODAY)


def test_loading_a_configuration_imports_neither_prefect_nor_price_tables() -> None:
    """`tta --help` and `tta check` must stay quick."""
    code = (
        "import sys; from tta_dev_primitives.config import *; "
        "resolve_targets(load_orchestration_config()); "
        "print(sorted({'prefect', 'genai_prices', 'httpx'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_replacement_that_is_gone_itself_is_passed_over() -> None:
    """The chain is followed to a model that is still served, and a circle ends."""
    old = CATALOGUE.find("claude-sonnet-4-0")
    assert old is not None
    middle = replace(old, name="middle", aliases=(), replacement="claude-sonnet-5-5")
    chain = replace(CATALOGUE, models=(replace(old, replacement="middle"), middle, *CATALOGUE.models))
    successor = chain.successor(chain.models[0], TODAY)
    assert successor is not None
    assert successor.name == "claude-sonnet-5-5"
    circle = replace(
        CATALOGUE, models=(replace(old, replacement="middle"), replace(middle, replacement=old.name))
    )
    assert circle.successor(circle.models[0], TODAY) is None
    assert "no replacement is known" in circle.lifecycle_warnings("middle", TODAY)[0]
