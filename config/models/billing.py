"""Who pays: what a key of a provider costs when the file does not say."""

from __future__ import annotations

from typing import Literal

Billing = Literal["free", "paid"]


def default_billing(provider: str, model: str) -> Billing | None:
    """What a key of this provider costs when the file does not say; None if the file must say."""
    if provider == "anthropic":
        return "paid"
    if provider in ("google-ai-studio", "groq"):
        return "free"
    if provider == "openrouter":
        return "free" if model.endswith(":free") or model == "openrouter/free" else "paid"
    if provider == "openai-compatible":
        return None
    from tta_dev_primitives.config.models.catalogue import load_catalogue

    entry = load_catalogue().providers.get(provider)
    return entry.billing if entry is not None else None  # type: ignore[return-value]
