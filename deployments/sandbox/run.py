"""Runs the sandbox in the foreground, for `tta sandbox` and `python -m`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from tta_dev_primitives.config.errors import ConfigError
from tta_dev_primitives.deployments.sandbox.sandbox import BASE_PATHS, Sandbox

__all__ = ["main", "run_sandbox", "snippet"]

_EXAMPLES = {
    "anthropic": ("claude-sonnet-4.5", "ANTHROPIC_API_KEY", "expert"),
    "google-ai-studio": ("gemini-2.5-pro", "GOOGLE_API_KEY", "moderate, complex"),
    "groq": ("llama-3.3-70b-versatile", "GROQ_API_KEY", "simple, speed-critical"),
    "openrouter": ("deepseek/deepseek-r1:free", "OPENROUTER_API_KEY", "complex, reasoning"),
}


def run_sandbox(
    port: int = 0, scenario: str | Path | None = None, *, show: Callable[[str], None] = print
) -> int:
    """Serve until Ctrl-C or SIGTERM, after telling the addresses. Returns the exit code 0.

    Raises:
        ConfigError: The port cannot be had, or the scenario file is wrong.
    """
    sandbox = Sandbox(scenario)

    def tell() -> None:
        show(announcement(sandbox))

    sandbox.serve(port, on_start=tell)
    answered = sum(call.endpoint == "chat" for call in sandbox.calls)
    show(f"Sandbox stopped after {answered} calls.")
    return 0


def announcement(sandbox: Sandbox) -> str:
    """Addresses and a configuration to copy."""
    width = max(map(len, BASE_PATHS))
    addresses = "\n".join(f"  {name:<{width}}  {sandbox.base_url(name)}" for name in BASE_PATHS)
    return (
        f"Sandbox provider on {sandbox.url}. Any key is taken, answers are labelled [sandbox], nothing is "
        "paid.\n\n"
        f"Base URLs, as each official SDK takes them:\n{addresses}\n\n"
        f"A configuration to try it with (set each api_key_env to any text):\n\n{snippet(sandbox)}\n"
        "Ctrl-C stops it."
    )


def snippet(sandbox: Sandbox) -> str:
    """An orchestration file whose models are all served by `sandbox`."""
    model, variable, _ = _EXAMPLES["anthropic"]
    lines = [
        "orchestration:",
        "  allow_private_hosts: true",
        "  orchestrator:",
        f"    model: {model}",
        f"    api_key_env: {variable}",
        f'    base_url: "{sandbox.base_url("anthropic")}"',
        "  executors:",
    ]
    for provider, (model, variable, use_cases) in _EXAMPLES.items():
        if provider != "anthropic":
            lines += [
                f'    - model: "{model}"' if ":" in model else f"    - model: {model}",
                f"      provider: {provider}",
                f"      api_key_env: {variable}",
                f'      base_url: "{sandbox.base_url(provider)}"',
                f"      use_cases: [{use_cases}]",
            ]
    lines += [
        "  fallback_strategy:",
        "    models: [gemini-2.5-pro, llama-3.3-70b-versatile, claude-sonnet-4.5]",
    ]
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """`python -m tta_dev_primitives.deployments.sandbox [--port N] [--scenario F]`."""
    parser = argparse.ArgumentParser(
        prog="python -m tta_dev_primitives.deployments.sandbox", description="Serve the sandbox provider."
    )
    parser.add_argument("--port", type=int, default=0, help="port of 127.0.0.1; 0 (default) takes a free one")
    parser.add_argument("--scenario", help="scenario file, YAML or JSON")
    given = parser.parse_args(arguments)
    try:
        return run_sandbox(given.port, given.scenario, show=lambda text: print(text, flush=True))
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 2
