"""The prompt cache of Anthropic: what a request marks is written, and read by the next one with the same beginning."""

from __future__ import annotations

from dataclasses import replace

from tta_dev_primitives.config.models.catalogue import load_catalogue
from tta_dev_primitives.config.models.targets import Usage
from tta_dev_primitives.deployments.sandbox.chat import Ask, estimate_tokens

_KEPT_S = {"5m": 300.0, "1h": 3600.0}


class PromptCache:
    """Beginnings of prompts by key and model. One is there once the reply that wrote it has begun."""

    def __init__(self) -> None:
        self._kept: dict[tuple[str, str, str], tuple[float, float]] = {}

    def usage(self, ask: Ask, key: str, usage: Usage, *, now: float, latency: float) -> Usage:
        """The usage of an answered request, its prompt tokens split into fresh, written and read ones."""
        least = load_catalogue().capabilities_of(ask.model, ask.provider).cache_min_tokens
        read = written = hour = 0
        for text, lifetime in ask.marked:
            tokens = min(estimate_tokens(text), usage.input_tokens)
            if not least or tokens < least:
                continue
            name, kept_s = (key, ask.model, text), _KEPT_S[lifetime]
            since, until = self._kept.get(name, (now, 0.0))
            if since <= now < until:
                read, written, hour = tokens, 0, 0
                self._kept[name] = since, max(until, now + kept_s)
                continue
            more = tokens - read - written
            written, hour = written + more, hour + (more if lifetime == "1h" else 0)
            self._kept[name] = now + latency, now + latency + kept_s
        return replace(
            usage,
            input_tokens=usage.input_tokens - read - written,
            cache_read_tokens=read,
            cache_write_tokens=written,
            cache_write_1h_tokens=hour,
        )
