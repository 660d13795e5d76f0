"""Who pays: what a key of a provider costs when the file does not say."""

from __future__ import annotations

from typing import Literal

__all__ = ["Billing", "default_billing"]

Billing = Literal["free", "paid"]


def default_billing(provider: str, model: str) -> Billing | None:
    """What a key of this provider costs when the file does not say; None if the file must say."""
    if provider == "anthropic":
        return "paid"
    if provider in ("google-ai-studio", "groq"):
        return "free"
    if provider == "openrouter" and (model.endswith(":free") or model == "openrouter/free"):
        return "free"
    return None
