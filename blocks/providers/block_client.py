"""A client with its key and address filled in, for a person with a block in hand and one question to ask."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from pydantic import SecretStr

from tta_dev_primitives.blocks.providers.address_rules import base_of
from tta_dev_primitives.blocks.wire.types import ChatReply, ChatRequest, Message, ModelInfo
from tta_dev_primitives.config.models.catalogue import load_catalogue
from tta_dev_primitives.config.models.targets import Target

if TYPE_CHECKING:
    from tta_dev_primitives.blocks.providers.client import ProviderClient


class BoundClient:
    """Calls one provider with one key. Outside the budget: nothing is reserved or recorded.

    Raises:
        ConfigError: `base_url` breaks a rule.
    """

    def __init__(
        self, *, provider: str, key: SecretStr, base_url: str | None = None, allow_private_hosts: bool = False
    ) -> None:
        self.provider = provider
        self._key = key
        self._base_url = base_url
        self._allow_private_hosts = allow_private_hosts
        self._client: ProviderClient | None = None
        self.host = base_of(self.target("any")).host

    def target(self, model: str) -> Target:
        """Describe `model` at this address, with what the catalogue knows of it."""
        known = load_catalogue()
        entry, provider = known.find(model, self.provider), known.providers[self.provider]
        return Target(
            name=model,
            provider=self.provider,
            api_model=entry.name if entry else model,
            billing="paid",
            api_key_env=provider.api_key_env,
            family=entry.family if entry else "",
            price=None,
            base_url=self._base_url,
            capabilities=known.capabilities_of(entry.name if entry else model, self.provider),
            allow_private_hosts=self._allow_private_hosts,
        )

    async def chat(self, model: str, request: ChatRequest | str) -> ChatReply:
        """Ask `model` one question.

        Raises:
            ProviderError: The call failed.
        """
        asked = ChatRequest((Message("user", request),)) if isinstance(request, str) else request
        return await self._open().send(self.target(model), asked, key=self._key)

    async def list_models(self) -> tuple[ModelInfo, ...]:
        """List the models that the key may use.

        Raises:
            ProviderError: The call failed.
        """
        return await self._open().list_models(self.target("any"), key=self._key)

    async def aclose(self) -> None:
        """Close the connections."""
        if self._client is not None:
            await self._client.aclose()

    def _open(self) -> ProviderClient:
        # aiohttp takes a third of a second to import; a block that is only loaded or saved must not pay it.
        from tta_dev_primitives.blocks.providers.client import ProviderClient

        if self._client is None:
            self._client = ProviderClient()
        return self._client

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()
