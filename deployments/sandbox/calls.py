"""The provider's own books: each call, and what it would be billed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from tta_dev_primitives.config.errors import UnknownPriceError
from tta_dev_primitives.config.models.targets import Price, Usage
from tta_dev_primitives.deployments.sandbox.http_reply import token

BATCH_RATE = Decimal("0.5")
"""What a request of a batch costs against one alone."""
PriceOf = Callable[[str, str], Price | None]


@dataclass(slots=True)
class Call:
    """One request that reached the sandbox. It holds no key."""

    number: int
    provider: str
    endpoint: str
    """`chat`, `models`, `batches` or `unknown`."""
    status: int = 0
    """HTTP status sent."""
    model: str = ""
    prompt: str = ""
    """`plan`, `verdict` or `solve`."""
    stream: bool = False
    usage: Usage = field(default_factory=Usage)
    """The true usage, whatever the reply claimed."""
    billed: bool = False
    """Whether the provider charges for this call."""
    rule: str | None = None
    """Name of the scenario rule that answered."""
    error: str | None = None
    """Kind of the error that was sent."""
    text: str = ""
    """The answer's text."""
    body: Mapping[str, Any] = field(default_factory=dict)
    """The request as it came."""
    batch: bool = False
    """It came in a batch, and costs half."""
    at: float = 0.0
    """When it was decided, epoch seconds of the sandbox's clock."""

    @property
    def request_id(self) -> str:
        """What the reply's header names it."""
        return f"req_{token('request', self.number)}"

    def cost(self, price_of: PriceOf) -> Decimal:
        """USD the provider charges: 0 when it does not.

        Raises:
            LookupError: The call is billed and its price is not known.
        """
        if not self.billed:
            return Decimal(0)
        if self.usage.reported_cost_usd is not None:
            return self.usage.reported_cost_usd
        price = price_of(self.provider, self.model)
        if price is None:
            raise LookupError(f"No price for {self.model} of {self.provider}.")
        cost = price.cost(self.usage)
        return cost * BATCH_RATE if self.batch else cost


def catalogue_price(provider: str, model: str) -> Price | None:
    """The list price of today, from the catalogue, 0 for `:free` models; None when it is unknown."""
    from tta_dev_primitives.config.models.catalogue import load_catalogue, today_utc
    from tta_dev_primitives.config.models.price_lookup import list_price

    if model.endswith(":free"):
        return Price(Decimal(0), Decimal(0), source="free variant")
    try:
        return list_price(provider, model, catalogue=load_catalogue(), today=today_utc())
    except UnknownPriceError:
        return None
