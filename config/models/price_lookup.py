"""List prices: the file's own, else the catalogue's, else genai-prices' bundled tables. Never a guess."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, date, datetime, time
from decimal import Decimal
from typing import Any

from tta_dev_primitives.config.errors import UnknownPriceError
from tta_dev_primitives.config.models.catalogue import Catalogue
from tta_dev_primitives.config.models.providers import load_providers
from tta_dev_primitives.config.models.targets import Price
from tta_dev_primitives.config.options import PriceConfig

OWN_PRICE = "configuration"
"""`Price.source` of a price that the user gave."""
_FREE_SUFFIX = ":free"
_ZERO = Decimal(0)


def list_price(
    provider: str, api_model: str, *, catalogue: Catalogue, today: date, own: PriceConfig | None = None
) -> Price:
    """The list price of a model on a day.

    A `:free` model of OpenRouter gets the list price of its paid variant (what a free answer saves), or 0
    where there is no paid variant to compare with.

    Args:
        own: The `price:` of the configuration, which stands above all.

    Raises:
        UnknownPriceError: The price is unknown.
    """
    if own is not None:
        return Price(**own.model_dump(), source=OWN_PRICE)
    api_model = api_model.removeprefix("models/")
    free_variant = provider == "openrouter" and api_model.endswith(_FREE_SUFFIX)
    sought = api_model.removesuffix(_FREE_SUFFIX) if free_variant else api_model
    entry = catalogue.find(sought, provider)
    price = (entry and entry.price_on(today)) or bundled_price(
        provider, entry.name if entry else sought, today
    )
    if price is not None:
        return price
    if free_variant:
        return Price(_ZERO, _ZERO, source="free variant without a paid one")
    raise UnknownPriceError(
        f"The price of {api_model} at {provider} is not known. Give it in the configuration: "
        "price: {input_usd_per_mtok: ..., output_usd_per_mtok: ...}"
    )


def bundled_price(provider: str, api_model: str, today: date) -> Price | None:
    """The price in the tables that genai-prices ships, exact; None if they have none for text."""
    genai_provider = load_providers()[provider].genai_prices
    if genai_provider is None:
        return None
    from genai_prices.data_snapshot import get_snapshot  # 0.2 s: only when no other source knows

    try:
        _, model = get_snapshot().find_provider_model(api_model, None, genai_provider, None)
    except LookupError:
        return None
    if not _is_named(api_model, model):
        return None
    prices = model.get_prices(datetime.combine(today, time(12), tzinfo=UTC))
    if prices.input_mtok is None or prices.output_mtok is None:
        return None
    amounts = (prices.input_mtok, prices.output_mtok, prices.cache_read_mtok)
    tiers = [tier for value in amounts for tier in getattr(value, "tiers", ())]
    long_above = min((tier.start for tier in tiers), default=None)
    found: dict[str, Any] = {}
    for token_class in ("input", "output", "cache_read", "cache_write", "cache_write_1h"):
        value = getattr(prices, f"{token_class}_mtok")
        if value is not None:
            found[f"{token_class}_usd_per_mtok"] = _base(value)
            if tiers:
                found[f"long_{token_class}_usd_per_mtok"] = _dearest(value)
    return Price(**found, long_context_above=long_above, source=f"genai-prices ({model.id})")


_DATED = re.compile(r"[-@](?:20\d{6}|20\d\d-\d\d-\d\d)")


def _is_named(api_model: str, model: Any) -> bool:
    """Whether the tables mean this very model: many of their entries take every name that begins like theirs.

    `gemini-3.8-flash-cyber` is not `gemini-3.8-flash`; a date at the end names a snapshot of the same model.
    """
    names = {model.id, *_names_in(model.match)}
    return api_model in names or any(
        api_model.startswith(name) and _DATED.fullmatch(api_model[len(name) :]) for name in names
    )


def _names_in(clause: Any) -> Iterator[str]:
    for attribute in ("equals", "starts_with"):
        name = getattr(clause, attribute, None)
        if isinstance(name, str):
            yield name
    for part in [*(getattr(clause, "or_", None) or ()), *(getattr(clause, "and_", None) or ())]:
        yield from _names_in(part)


def _base(value: Any) -> Decimal:
    return Decimal(getattr(value, "base", value))


def _dearest(value: Any) -> Decimal:
    """The highest of all tiers: with more tiers than one, a price that is right or too high."""
    return max([_base(value), *(Decimal(tier.price) for tier in getattr(value, "tiers", ()))])
