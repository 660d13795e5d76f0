"""A configuration whose models are all served by a sandbox, with a ledger of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx
import yaml

from tta_dev_primitives.deployments.sandbox import Sandbox
from tta_dev_primitives.orchestration import MultiModelWorkflow

KEY = "TTA_TEST_SANDBOX_KEY"
KEY_VALUE = "sandbox-test-key-5d1c"
GEMINI, LLAMA, CLAUDE = "gemini-2.5-pro", "llama-3.3-70b-versatile", "claude-sonnet-4.5"


def executor(
    sandbox: Sandbox, model: str, provider: str, use_cases: Sequence[str], **more: Any
) -> dict[str, Any]:
    """One executor that the sandbox serves."""
    return {
        "model": model,
        "provider": provider,
        "api_key_env": KEY,
        "use_cases": list(use_cases),
        "base_url": sandbox.base_url(provider),
        **more,
    }


def sandbox_config(sandbox: Sandbox, folder: Path, **changes: Any) -> dict[str, Any]:
    """Gemini and Llama as free executors, Claude as the orchestrator; `changes` replace whole sections."""
    everything = ["simple", "moderate", "complex", "expert", "speed-critical", "reasoning"]
    tracking = {"ledger_url": f"sqlite:///{folder / 'ledger.db'}", **changes.pop("cost_tracking", {})}
    return {
        "allow_private_hosts": True,
        "planning": "never",
        "orchestrator": {"model": CLAUDE, "api_key_env": KEY, "base_url": sandbox.base_url("anthropic")},
        "executors": [
            executor(sandbox, GEMINI, "google-ai-studio", everything),
            executor(sandbox, LLAMA, "groq", everything),
        ],
        "fallback_strategy": {"models": [GEMINI, LLAMA, CLAUDE]},
        "cost_tracking": tracking,
        **changes,
    }


def workflow_of(config: Mapping[str, Any], folder: Path) -> MultiModelWorkflow:
    """The workflow of a configuration, written to `folder` and loaded as a user's file is."""
    path = folder / "orchestration-config.yaml"
    path.write_text(yaml.safe_dump({"orchestration": dict(config)}), encoding="utf-8")
    return MultiModelWorkflow(path, use_env_overrides=False)


MakeWorkflow = Callable[..., MultiModelWorkflow]


class ToSandbox(httpx.AsyncBaseTransport):
    """Answers the providers' own hosts from a sandbox, so that a test can leave `base_url` out."""

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = httpx.URL(sandbox.url)
        self._inner = httpx.AsyncHTTPTransport()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send the request as it is, to another address."""
        there = request.url.copy_with(
            scheme=self._sandbox.scheme, host=self._sandbox.host, port=self._sandbox.port
        )
        request.url = there
        return await self._inner.handle_async_request(request)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._inner.aclose()
