"""The spend ledger as a Prefect block: which database, whose budget, which calendar."""

from __future__ import annotations

from decimal import Decimal
from typing import ClassVar

from prefect.blocks.core import Block
from pydantic import ConfigDict, Field, HttpUrl, SecretStr, field_validator

from tta_dev_primitives.blocks.ledger.database.protocol import database_for
from tta_dev_primitives.blocks.ledger.ledger import Ledger
from tta_dev_primitives.blocks.ledger.months import zone


class SpendLedger(Block):
    """The ledger that keeps a month's spending under its limit, over any number of runs and machines.

    Example:
        ```python
        import asyncio

        from tta_dev_primitives.blocks import SpendLedger

        block = SpendLedger.load("BLOCK_NAME")
        balance = asyncio.run(block.get_ledger().balance())
        print(balance.month, balance.spent, balance.held)
        ```
    """

    # A URL with a password must not be repeated by the error about it.
    model_config = ConfigDict(hide_input_in_errors=True)

    _block_type_name: ClassVar[str | None] = "TTA Spend Ledger"
    _block_type_slug: ClassVar[str | None] = "tta-spend-ledger"
    _description: ClassVar[str | None] = (
        "Keeps a month's spending on language models under its limit: money is set aside before each paid "
        "call and settled after it, in SQLite or PostgreSQL."
    )
    _logo_url: ClassVar[HttpUrl | None] = HttpUrl(
        "https://cdn.sanity.io/images/3ugk85nk/production/3c7dff04f70aaf4528e184a3b028f9e40b98d68c-250x250.png"
    )
    _documentation_url: ClassVar[HttpUrl | None] = HttpUrl("https://github.com/theinterneti/TTA.dev")

    url: SecretStr | None = Field(
        default=None,
        description=(
            "Where the ledger is: sqlite:///path or postgresql://user:password@host/name. Empty: the SQLite "
            "file of this machine."
        ),
    )
    scope: str = Field(
        default="default",
        min_length=1,
        max_length=200,
        description="Whose budget this is; several budgets may share one database.",
    )
    timezone: str = Field(
        default="UTC", description="The time zone whose calendar months count, such as Europe/Berlin."
    )

    @field_validator("url")
    @classmethod
    def _known_url(cls, url: SecretStr | None) -> SecretStr | None:
        if url is not None:
            database_for(url.get_secret_value())
        return url

    @field_validator("timezone")
    @classmethod
    def _known_zone(cls, name: str) -> str:
        zone(name)
        return name

    def get_ledger(self, *, alert_threshold: Decimal | None = Decimal("0.8")) -> Ledger:
        """The ledger of this block.

        Args:
            alert_threshold: Share of the limit whose crossing raises an alert, besides 100 %.
        """
        url = None if self.url is None else self.url.get_secret_value()
        return Ledger.open(url, scope=self.scope, timezone=self.timezone, alert_threshold=alert_threshold)
