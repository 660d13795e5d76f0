"""Provider credentials as Prefect blocks: a key, the host it is bound to, and a client that uses both.

Importing this module imports Prefect. Runs get at keys through `blocks.credentials.keys.load_key`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from prefect.blocks.abstract import CredentialsBlock
from pydantic import ConfigDict, Field, HttpUrl, SecretStr

from tta_dev_primitives.blocks.providers.address_rules import host_of
from tta_dev_primitives.blocks.providers.block_client import BoundClient


class ProviderCredentials(CredentialsBlock):
    """API key of one model provider, bound to the host it may be sent to.

    Use one of the five kinds: Anthropic, Google AI Studio, Groq, OpenRouter, or OpenAI-compatible.

    Example:
        Load stored credentials and list the models the key may use:
        ```python
        from tta_dev_primitives.blocks import ProviderCredentials

        credentials = ProviderCredentials.load("BLOCK_NAME")
        ```
    """

    # A key that is no text must not be repeated by the error about it.
    model_config = ConfigDict(hide_input_in_errors=True)

    _block_type_name: ClassVar[str | None] = "TTA Provider Credentials"
    _block_type_slug: ClassVar[str | None] = "tta-provider-credentials"
    _logo_url: ClassVar[HttpUrl | None] = HttpUrl("https://github.com/PrefectHQ.png?size=200")
    _documentation_url: ClassVar[HttpUrl | None] = HttpUrl("https://docs.prefect.io/v3/concepts/blocks")

    provider: ClassVar[str] = "openai-compatible"
    """Name of the provider, as the configuration writes it."""

    api_key: SecretStr | None = Field(
        default=None,
        title="API key",
        description="The provider's API key. It is sent in one header, to the host of the base URL only.",
    )
    base_url: str | None = Field(
        default=None,
        title="Base URL",
        description="Another address than the provider's own, written as its official SDK takes it.",
    )
    allow_private_hosts: bool = Field(
        default=False,
        title="Allow private hosts",
        description="Allow a base URL on this machine or a private network.",
    )

    @property
    def host(self) -> str:
        """The host that the key is bound to."""
        return host_of(self.provider, self.base_url)

    def get_client(self, *_args: Any, **_options: Any) -> BoundClient:
        """Return a client for single calls with this key; use it with `async with`.

        Calls made with it stand outside the budget: only the orchestration flows reserve before they send.

        Raises:
            ConfigError: The base URL breaks a rule.
        """
        return BoundClient(
            provider=self.provider,
            key=self.api_key or SecretStr(""),
            base_url=self.base_url,
            allow_private_hosts=self.allow_private_hosts,
        )


class AnthropicCredentials(ProviderCredentials):
    """API key for Anthropic's Messages API.

    Example:
        Ask a model one question:
        ```python
        from tta_dev_primitives.blocks import AnthropicCredentials

        credentials = AnthropicCredentials.load("BLOCK_NAME")
        async with credentials.get_client() as client:
            reply = await client.chat("claude-haiku-4-5", "Say hello.")
        ```
    """

    _block_type_name = "TTA Anthropic Credentials"
    _block_type_slug = "tta-anthropic-credentials"
    _logo_url = HttpUrl("https://github.com/anthropics.png?size=200")
    _documentation_url = HttpUrl("https://docs.claude.com/en/api/overview")
    provider: ClassVar[str] = "anthropic"


class GoogleAIStudioCredentials(ProviderCredentials):
    """API key for the Gemini API of Google AI Studio.

    Example:
        Ask a model one question:
        ```python
        from tta_dev_primitives.blocks import GoogleAIStudioCredentials

        credentials = GoogleAIStudioCredentials.load("BLOCK_NAME")
        async with credentials.get_client() as client:
            reply = await client.chat("gemini-3.5-flash-lite", "Say hello.")
        ```
    """

    _block_type_name = "TTA Google AI Studio Credentials"
    _block_type_slug = "tta-google-ai-studio-credentials"
    _logo_url = HttpUrl("https://github.com/google-gemini.png?size=200")
    _documentation_url = HttpUrl("https://ai.google.dev/gemini-api/docs/api-key")
    provider: ClassVar[str] = "google-ai-studio"


class GroqCredentials(ProviderCredentials):
    """API key for Groq.

    Example:
        Ask a model one question:
        ```python
        from tta_dev_primitives.blocks import GroqCredentials

        credentials = GroqCredentials.load("BLOCK_NAME")
        async with credentials.get_client() as client:
            reply = await client.chat("openai/gpt-oss-20b", "Say hello.")
        ```
    """

    _block_type_name = "TTA Groq Credentials"
    _block_type_slug = "tta-groq-credentials"
    _logo_url = HttpUrl("https://github.com/groq.png?size=200")
    _documentation_url = HttpUrl("https://console.groq.com/docs/quickstart")
    provider: ClassVar[str] = "groq"


class OpenRouterCredentials(ProviderCredentials):
    """API key for OpenRouter.

    Example:
        Ask a model one question:
        ```python
        from tta_dev_primitives.blocks import OpenRouterCredentials

        credentials = OpenRouterCredentials.load("BLOCK_NAME")
        async with credentials.get_client() as client:
            reply = await client.chat("openai/gpt-oss-120b:free", "Say hello.")
        ```
    """

    _block_type_name = "TTA OpenRouter Credentials"
    _block_type_slug = "tta-openrouter-credentials"
    _logo_url = HttpUrl("https://github.com/OpenRouterTeam.png?size=200")
    _documentation_url = HttpUrl("https://openrouter.ai/docs/api-reference/authentication")
    provider: ClassVar[str] = "openrouter"


class OpenAICompatibleCredentials(ProviderCredentials):
    """Address and key of any server that speaks OpenAI's chat format: Ollama, vLLM, llama.cpp, LM Studio.

    Example:
        Ask a model one question:
        ```python
        from tta_dev_primitives.blocks import OpenAICompatibleCredentials

        credentials = OpenAICompatibleCredentials.load("BLOCK_NAME")
        async with credentials.get_client() as client:
            reply = await client.chat("qwen3:0.6b", "Say hello.")
        ```
    """

    _block_type_name = "TTA OpenAI-compatible Credentials"
    _block_type_slug = "tta-openai-compatible-credentials"
    _logo_url = HttpUrl("https://github.com/openai.png?size=200")
    _documentation_url = HttpUrl("https://platform.openai.com/docs/api-reference/chat")
    provider: ClassVar[str] = "openai-compatible"


CREDENTIALS: Mapping[str, type[ProviderCredentials]] = {
    kind.provider: kind
    for kind in (
        AnthropicCredentials,
        GoogleAIStudioCredentials,
        GroqCredentials,
        OpenRouterCredentials,
        OpenAICompatibleCredentials,
    )
}
"""The block class of each provider."""


def credentials_of(provider: str) -> type[ProviderCredentials]:
    """The block class for keys of `provider`; a preset's keys are those of an OpenAI-compatible server."""
    return CREDENTIALS.get(provider, OpenAICompatibleCredentials)
