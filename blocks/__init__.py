"""Everything outside this process, as Prefect blocks: provider credentials, the spend ledger, quotas.

The names are loaded on first use: `blocks.client`, `blocks.wire` and `blocks.ledger` import without Prefect,
which costs two seconds.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tta_dev_primitives.blocks.credentials.provider_credentials import (
        AnthropicCredentials,
        GoogleAIStudioCredentials,
        GroqCredentials,
        OpenAICompatibleCredentials,
        OpenRouterCredentials,
        ProviderCredentials,
    )
    from tta_dev_primitives.blocks.credentials.sync import sync_blocks
    from tta_dev_primitives.blocks.ledger.block import SpendLedger

__all__ = [
    "AnthropicCredentials",
    "GoogleAIStudioCredentials",
    "GroqCredentials",
    "OpenAICompatibleCredentials",
    "OpenRouterCredentials",
    "ProviderCredentials",
    "SpendLedger",
    "sync_blocks",
]

_HOME = {
    "SpendLedger": "tta_dev_primitives.blocks.ledger.block",
    "sync_blocks": "tta_dev_primitives.blocks.credentials.sync",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(
        import_module(_HOME.get(name, "tta_dev_primitives.blocks.credentials.provider_credentials")), name
    )


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
