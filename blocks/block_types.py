"""All block types in one import: what Prefect's collection entry point loads at server start."""

from __future__ import annotations

from tta_dev_primitives.blocks.credentials.provider_credentials import (
    AnthropicCredentials,
    GoogleAIStudioCredentials,
    GroqCredentials,
    OpenAICompatibleCredentials,
    OpenRouterCredentials,
)
from tta_dev_primitives.blocks.ledger.block import SpendLedger

__all__ = [
    "AnthropicCredentials",
    "GoogleAIStudioCredentials",
    "GroqCredentials",
    "OpenAICompatibleCredentials",
    "OpenRouterCredentials",
    "SpendLedger",
]
