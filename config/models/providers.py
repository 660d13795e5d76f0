"""The providers that a configuration may name: what `providers.yaml` says of each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tta_dev_primitives.config.models.targets import Limits
from tta_dev_primitives.config.reading.strict_yaml import read_yaml


@dataclass(frozen=True, slots=True)
class BatchEntry:
    """A provider's batch API, what it costs against the list price, and who says so."""

    format: str
    price_factor: Decimal
    source: str
    checked_on: date


@dataclass(frozen=True, slots=True)
class ProviderEntry:
    """What holds for all models of a provider unless their entry says otherwise."""

    name: str
    api_key_env: str
    """The variable that usually holds its key."""
    capabilities: Mapping[str, Any]
    family: str | None = None
    reset_zone: str = "UTC"
    tokens_counted: str = "total"
    free_pool: str | None = None
    base_url: str | None = None
    """A preset: the address of a server that speaks OpenAI's chat format, with `/v1`."""
    billing: str | None = None
    """What a key of a preset costs, where that is certain."""
    batch: BatchEntry | None = None
    """Its batch API, where it has one that we speak."""
    genai_prices: str | None = None
    """Its name in the price tables of genai-prices, where they have it."""

    @property
    def own_server(self) -> bool:
        """A server that users run themselves: it may go without a key."""
        return self.base_url is not None and self.base_url.startswith("http://")

    def limits(self, figures: Mapping[str, int] | None = None, *, source: str, pooled: bool) -> Limits:
        """Limits with this provider's reset zone, pool and way of counting."""
        return Limits(
            **(figures or {}),
            reset_zone=self.reset_zone,
            source=source,  # type: ignore[arg-type]
            pool=self.free_pool if pooled else None,
            tokens_counted=self.tokens_counted,  # type: ignore[arg-type]
        )


@cache
def load_providers() -> Mapping[str, ProviderEntry]:
    """All providers by name, in the order of the file that ships with this package; read once."""
    data = read_yaml(Path(__file__).with_name("providers.yaml"), shown_as="providers.yaml").checked().data
    return {name: _provider(name, fields) for name, fields in data.items()}


def _provider(name: str, fields: dict[str, Any]) -> ProviderEntry:
    batch = fields.get("batch")
    if batch is not None:
        typed = {
            "checked_on": date.fromisoformat(batch["checked_on"]),
            "price_factor": Decimal(batch["price_factor"]),
        }
        fields = fields | {"batch": BatchEntry(**batch | typed)}
    return ProviderEntry(name=name, **fields)


# For a type checker any text; at run time the names of the file, which the JSON Schema and the messages list too.
if TYPE_CHECKING:
    ProviderName = str
else:
    ProviderName = Literal[tuple(load_providers())]
