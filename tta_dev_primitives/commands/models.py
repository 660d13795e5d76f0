"""`tta models`: the catalogue."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date
from typing import Any

from tta_dev_primitives.commands._options import Json
from tta_dev_primitives.commands._output import say, table
from tta_dev_primitives.config.errors import ConfigError, UnknownPriceError
from tta_dev_primitives.config.models.catalogue import Catalogue, ModelEntry, load_catalogue, today_utc
from tta_dev_primitives.config.models.price_lookup import list_price
from tta_dev_primitives.config.models.targets import Price


def models(*, provider: str | None = None, json: Json = False) -> int:
    """List the models that the catalogue knows, with list price, free plan and retirement.

    Args:
        provider: Only this provider's: anthropic, google-ai-studio, groq or openrouter.
    """
    catalogue, today = load_catalogue(), today_utc()
    if provider is not None and provider not in catalogue.providers:
        known = ", ".join(sorted(catalogue.providers))
        raise ConfigError(f"--provider {provider!r} is unknown. Must be one of: {known}.")
    rows = [_row(m, catalogue, today) for m in catalogue.models if provider in (None, m.provider)]
    columns = ["model", "provider", "USD/M in", "USD/M out", "free plan", "state"]
    cells = [
        [r["model"], r["provider"], r["input"] or "?", r["output"] or "?", r["free_plan"], r["state"]]
        for r in rows
    ]
    return say(
        {"checked_on": str(catalogue.checked_on), "models": rows},
        table("Models", columns, cells, right=columns[2:4]),
        f"Looked up on {catalogue.checked_on}; the provider's own answer decides.",
        json=json,
    )


def _row(entry: ModelEntry, catalogue: Catalogue, today: date) -> dict[str, Any]:
    price = _price(entry, catalogue, today)
    life = entry.lifecycle
    return {
        "model": entry.name,
        "aliases": list(entry.names[1:]),
        "provider": entry.provider,
        "family": entry.family,
        "input": None if price is None else f"{price.input_usd_per_mtok:f}",
        "output": None if price is None else f"{price.output_usd_per_mtok:f}",
        "free_plan": "-" if entry.free_tier is None else ", ".join(_limits(entry)) or "yes",
        "retires": None if life is None else str(life.retires),
        "source": None if life is None else life.source,
        "checked_on": None if life is None else str(life.checked_on),
        "replacement": entry.replacement,
        "state": _state(entry, today),
    }


def _price(entry: ModelEntry, catalogue: Catalogue, today: date) -> Price | None:
    try:
        return list_price(entry.provider, entry.name, catalogue=catalogue, today=today)
    except UnknownPriceError:
        return None


def _limits(entry: ModelEntry) -> Iterator[str]:
    for name, figure in (entry.free_tier or {}).items():
        yield f"{figure:,} {name.upper()}"


def _state(entry: ModelEntry, today: date) -> str:
    if entry.lifecycle is None:
        return "served"
    verb = "retired" if entry.retired_on(today) else "retires"
    instead = f"; use {entry.replacement}" if entry.replacement else ""
    return f"{verb} {entry.lifecycle.retires}{instead}"
