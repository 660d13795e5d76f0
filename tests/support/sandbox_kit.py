"""Requests and small helpers that the sandbox's tests share."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest

from tta_dev_primitives.deployments.sandbox import Sandbox

PROVIDERS = ("anthropic", "google-ai-studio", "groq", "openrouter", "openai-compatible")
MODELS = {
    "anthropic": "claude-sonnet-4-5",
    "google-ai-studio": "gemini-2.5-pro",
    "groq": "llama-3.3-70b-versatile",
    "openrouter": "deepseek/deepseek-r1:free",
    "openai-compatible": "sandbox-model",
}
KEYS = {
    "anthropic": {"x-api-key": "any", "anthropic-version": "2023-06-01"},
    "google-ai-studio": {"x-goog-api-key": "any"},
    "groq": {"authorization": "Bearer any"},
    "openrouter": {"authorization": "Bearer any"},
    "openai-compatible": {"authorization": "Bearer any"},
}
PATHS = {
    "anthropic": "/v1/messages",
    "groq": "/openai/v1/chat/completions",
    "openrouter": "/api/v1/chat/completions",
    "openai-compatible": "/v1/chat/completions",
}


http = httpx.Client(timeout=110, trust_env=False, limits=httpx.Limits(max_keepalive_connections=0))
"""One client for all tests: making one costs more than the call. It keeps no connection open."""


def path_of(provider: str, model: str | None = None, *, stream: bool = False) -> str:
    """Where a chat request goes."""
    if provider != "google-ai-studio":
        return PATHS[provider]
    method = "streamGenerateContent?alt=sse" if stream else "generateContent"
    return f"/v1beta/models/{model or MODELS[provider]}:{method}"


def body_of(
    provider: str, text: str = "Hello?", *, model: str | None = None, system: str = "", stream: bool = False
) -> dict[str, Any]:
    """The smallest good request in the provider's words."""
    if provider == "google-ai-studio":
        body: dict[str, Any] = {"contents": [{"role": "user", "parts": [{"text": text}]}]}
        return body | ({"systemInstruction": {"parts": [{"text": system}]}} if system else {})
    messages = [{"role": "user", "content": text}]
    body = {"model": model or MODELS[provider], "messages": messages} | ({"stream": True} if stream else {})
    if provider == "anthropic":
        return body | {"max_tokens": 512} | ({"system": system} if system else {})
    if system:
        messages.insert(0, {"role": "system", "content": system})
    return body


def ask(
    sandbox: Sandbox,
    provider: str,
    text: str = "Hello?",
    /,
    *,
    model: str | None = None,
    system: str = "",
    stream: bool = False,
    headers: Mapping[str, str] | None = None,
    body: Mapping[str, Any] | None = None,
    **more: Any,
) -> httpx.Response:
    """One chat request over HTTP; `more` are further fields of the body."""
    content = (
        dict(body) if body is not None else body_of(provider, text, model=model, system=system, stream=stream)
    )
    return http.post(
        sandbox.url + path_of(provider, model, stream=stream),
        headers=KEYS[provider] if headers is None else headers,
        json=content | more,
    )


def text_of(provider: str, body: Any) -> str:
    """The answer's text in a whole reply."""
    if provider == "anthropic":
        return "".join(b["text"] for b in body["content"] if b["type"] == "text")
    if provider == "google-ai-studio":
        parts = body["candidates"][0]["content"].get("parts", [])
        return "".join(p["text"] for p in parts if "text" in p and not p.get("thought"))
    return str(body["choices"][0]["message"]["content"])


def events_of(response: httpx.Response) -> list[Any]:
    """The JSON of each `data:` line of an event stream."""
    lines = [line[6:] for line in response.text.splitlines() if line.startswith("data: ")]
    return [json.loads(line) for line in lines if line != "[DONE]"]


def shared(part: str) -> Path:
    """A file of the shared data, or a skip."""
    root = Path(os.environ.get("TTA_SHARED") or Path(__file__).resolve().parents[3] / "shared") / "data"
    if not (root / part).exists():
        pytest.skip(f"the shared data ({part}) is not here; set TTA_SHARED")
    return root / part
