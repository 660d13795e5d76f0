"""The model catalogue: what `models.yaml` says of models, with their providers (`providers.yaml`)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Any

from tta_dev_primitives.config.models.providers import ProviderEntry, load_providers
from tta_dev_primitives.config.models.targets import Capabilities, Price, Target
from tta_dev_primitives.config.reading.strict_yaml import read_yaml

WARN_DAYS = 30
"""A model that retires within so many days is warned of."""


@dataclass(frozen=True, slots=True)
class Lifecycle:
    """Until when a model is served, who says so, and when that was looked up."""

    retires: date
    source: str
    checked_on: date
    note: str | None = None


@dataclass(frozen=True, slots=True)
class DatedPrice:
    """A list price and the day from which it holds (None: since ever)."""

    since: date | None
    price: Price


@dataclass(frozen=True, slots=True)
class ModelEntry:
    """One model of one provider."""

    name: str
    """The id that the provider's API takes."""
    provider: str
    family: str
    capabilities: Capabilities
    aliases: tuple[str, ...] = ()
    """Names that people use and the API does not take."""
    snapshots: tuple[str, ...] = ()
    """Dated ids of this model that the API takes: one that is named is sent as it is."""
    context_tokens: int | None = None
    max_output_tokens: int | None = None
    free_tier: Mapping[str, int] | None = None
    """Limits of the provider's free plan (empty: not published); None: not in the free plan, or not known."""
    prices: tuple[DatedPrice, ...] = ()
    lifecycle: Lifecycle | None = None
    replacement: str | None = None
    """A model of the same provider that does the same work."""

    @property
    def names(self) -> tuple[str, ...]:
        """Every name by which this model is known."""
        return (self.name, *self.aliases, *self.snapshots)

    def api_id(self, name: str) -> str:
        """The id to send for one of `names`."""
        return name if name in self.snapshots else self.name

    def price_on(self, day: date) -> Price | None:
        """The list price that holds on `day`; None if the catalogue has none."""
        holding = [dated.price for dated in self.prices if dated.since is None or dated.since <= day]
        return holding[-1] if holding else None

    def retired_on(self, day: date) -> bool:
        """Whether the model is said to be retired by `day`. The provider's own answer decides, not this."""
        return self.lifecycle is not None and self.lifecycle.retires <= day


@dataclass(frozen=True)
class Catalogue:
    """All entries, found by name or alias."""

    models: tuple[ModelEntry, ...]
    providers: Mapping[str, ProviderEntry]
    checked_on: date
    patterns: tuple[tuple[re.Pattern[str], Mapping[str, Any]], ...] = ()
    """Abilities of models that have no entry, by the start of their name."""

    def capabilities_of(self, api_model: str, provider: str) -> Capabilities:
        """What a model takes: its entry's word, else its provider's with what the name says of its series."""
        entry = self.find(api_model, provider)
        if entry is not None:
            return entry.capabilities
        known = dict(self.providers[provider].capabilities)
        for pattern, capabilities in self.patterns:
            if pattern.match(api_model):
                known |= {
                    name: value
                    for name, value in capabilities.items()
                    # Gemini's API has its own name for the limit.
                    if name != "max_tokens_field" or known.get(name) != "maxOutputTokens"
                }
        return Capabilities(**known)

    def find(self, name: str, provider: str | None = None) -> ModelEntry | None:
        """The entry for a name or alias, of `provider` or else of the first provider that has it."""
        name = name.removeprefix("models/")  # Gemini's API lists `models/x` for x
        return next(
            (entry for entry in self.models if name in entry.names and provider in (None, entry.provider)),
            None,
        )

    def is_compatible(self, provider: str) -> bool:
        """Whether a provider is `openai-compatible` or a preset of it."""
        return provider == "openai-compatible" or (
            provider in self.providers and self.providers[provider].base_url is not None
        )

    def successor(self, entry: ModelEntry, today: date) -> ModelEntry | None:
        """The replacement that is still served today, of the same provider; None if there is none."""
        seen = {entry.name}
        while entry.replacement and entry.replacement not in seen:
            found = self.find(entry.replacement, entry.provider)
            if found is None or not found.retired_on(today):
                return found
            seen.add(found.name)
            entry = found
        return None

    def lifecycle_warnings(
        self, name: str, today: date | None = None, *, provider: str | None = None
    ) -> list[str]:
        """What to say about a model that is retired or retires within 30 days: date, source, replacement."""
        day = today or today_utc()
        entry = self.find(name, provider)
        if entry is None or entry.lifecycle is None:
            return []
        left = (entry.lifecycle.retires - day).days
        if left > WARN_DAYS:
            return []
        when, days = entry.lifecycle.retires, f"{left} day{'s' if left != 1 else ''}"
        said = f"was retired on {when}" if left <= 0 else f"will be retired on {when} (in {days})"
        successor = self.successor(entry, day)
        instead = f"replacement: {successor.name}" if successor else "no replacement is known"
        note = f" ({entry.lifecycle.note})" if entry.lifecycle.note else ""
        return [f"{name} {said} by {entry.provider}{note}; {instead}"]

    def warnings_of(self, target: Target, today: date | None = None) -> list[str]:
        """As `lifecycle_warnings`, for a model that a configuration names, under any of its names."""
        for name in dict.fromkeys((target.name, target.api_model)):
            found = self.lifecycle_warnings(name, today, provider=target.provider)
            if found:
                return found
        return []

    def family_of(self, name: str, provider: str) -> str:
        """Who trained a model that has no entry, as far as its name says."""
        default = self.providers[provider].family if provider in self.providers else None
        if default:
            return default
        last = name.rsplit("/", 1)[-1].lower()
        known = sorted({entry.family for entry in self.models}, key=len, reverse=True)
        found = next((family for family in known if last.startswith(family)), None)
        letters = re.match(r"[a-z]+", last)
        return found or (letters[0] if letters else last)


def today_utc() -> date:
    """The day by which lifetimes and prices are judged."""
    return datetime.now(UTC).date()


@cache
def load_catalogue() -> Catalogue:
    """The catalogue that ships with this package, read once."""
    data = read_yaml(Path(__file__).with_name("models.yaml"), shown_as="models.yaml").checked().data
    providers = load_providers()
    models = tuple(_model(fields, providers) for fields in data["models"])
    patterns = tuple((re.compile(one["name"]), one["capabilities"]) for one in data["series"])
    return Catalogue(models, providers, date.fromisoformat(data["checked_on"]), patterns)


def _model(fields: dict[str, Any], providers: Mapping[str, ProviderEntry]) -> ModelEntry:
    rest = dict(fields)
    provider = providers[rest["provider"]]
    capabilities = Capabilities(**{**provider.capabilities, **rest.pop("capabilities", {})})
    lifecycle = rest.pop("lifecycle", None)
    return ModelEntry(
        capabilities=capabilities,
        aliases=tuple(rest.pop("aliases", ())),
        snapshots=tuple(rest.pop("snapshots", ())),
        prices=tuple(_prices(rest.pop("prices", ()))),
        lifecycle=Lifecycle(**lifecycle | _dates(lifecycle, "retires", "checked_on")) if lifecycle else None,
        **rest,
    )


def _dates(fields: dict[str, Any], *names: str) -> dict[str, date]:
    return {name: date.fromisoformat(fields[name]) for name in names}


def _prices(rows: Iterable[dict[str, Any]]) -> Iterable[DatedPrice]:
    for row in rows:
        rest = dict(row)
        since = rest.pop("since", None)
        source, long_above = rest.pop("source"), rest.pop("long_above", None)
        amounts = {f"{key}_usd_per_mtok": Decimal(value) for key, value in rest.items()}
        price = Price(**amounts, long_context_above=long_above, source=f"catalogue, {source}")
        yield DatedPrice(date.fromisoformat(since) if since else None, price)
