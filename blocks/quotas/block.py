"""The free-quota scheduler as a Prefect block: which database its windows are kept in."""

from __future__ import annotations

from typing import ClassVar

from prefect.blocks.core import Block
from pydantic import ConfigDict, Field, HttpUrl, SecretStr, field_validator

from tta_dev_primitives.blocks.ledger.database.protocol import database_for, default_ledger_url
from tta_dev_primitives.blocks.quotas.availability import Availability
from tta_dev_primitives.blocks.quotas.quota import Quota as QuotaScheduler
from tta_dev_primitives.config.errors import LedgerError


class Quota(Block):
    """Free quotas (requests and tokens by minute and day) shared by every run that uses the same database.

    Example:
        ```python
        from tta_dev_primitives.blocks.quotas.block import Quota

        quota = Quota.load("BLOCK_NAME").get_quota()
        ```
    """

    # A URL with a password must not be repeated by the error about it.
    model_config = ConfigDict(hide_input_in_errors=True)

    _block_type_name: ClassVar[str | None] = "TTA Quota"
    _block_type_slug: ClassVar[str | None] = "tta-quota"
    _description: ClassVar[str | None] = (
        "Keeps every process within the providers' request and token limits by minute and day, and remembers "
        "which models are out until when."
    )
    _logo_url: ClassVar[HttpUrl | None] = HttpUrl(
        "https://cdn.sanity.io/images/3ugk85nk/production/3c7dff04f70aaf4528e184a3b028f9e40b98d68c-250x250.png"
    )
    _documentation_url: ClassVar[HttpUrl | None] = HttpUrl("https://github.com/theinterneti/TTA.dev")

    url: SecretStr | None = Field(
        default=None,
        description=(
            "Where the windows are kept, usually the ledger's database: sqlite:///path or "
            "postgresql://user:password@host/name. Empty: the SQLite file of this machine."
        ),
    )

    @field_validator("url")
    @classmethod
    def _known_url(cls, url: SecretStr | None) -> SecretStr | None:
        if url is not None:
            try:
                database_for(url.get_secret_value())
            except LedgerError as error:
                raise ValueError(str(error)) from None
        return url

    def get_quota(self) -> QuotaScheduler:
        """The scheduler over this block's database."""
        return QuotaScheduler(database_for(self._place()))

    def get_availability(self) -> Availability:
        """The memory of models and keys that are out, over the same database."""
        return Availability(database_for(self._place()))

    def _place(self) -> str:
        return self.url.get_secret_value() if self.url is not None else default_ledger_url()
