"""Runs the sandbox in the foreground, for `tta sandbox` and `python -m`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tta_dev_primitives.config.template import todays_config, write_new_file
from tta_dev_primitives.deployments.sandbox.sandbox import BASE_PATHS, Sandbox

__all__ = ["run_sandbox", "snippet"]

_KEY = "SANDBOX_API_KEY"


def _say(text: str) -> None:
    print(text, flush=True)


def run_sandbox(
    port: int = 0,
    scenario: str | Path | None = None,
    *,
    write_config: Path | None = None,
    show: Callable[[str], None] = _say,
) -> int:
    """Show the addresses, then serve until Ctrl-C or SIGTERM. Returns the exit code 0.

    Args:
        port: The port; 0 takes a free one.
        scenario: A scenario file.
        write_config: Write the configuration to this new file instead of showing it.
        show: Shows a text to a person.

    Raises:
        ConfigError: The port cannot be had, the scenario file is wrong, or the configuration cannot be written.
    """
    sandbox = Sandbox(scenario)

    def announce() -> None:
        if write_config is not None and not write_new_file(write_config, snippet(sandbox, _KEY)):
            show(f"{write_config} exists already and was left as it is; its addresses may be others.\n")
        show(announcement(sandbox, write_config))

    sandbox.serve(port, on_start=announce)
    answered = sum(call.endpoint == "chat" for call in sandbox.calls)
    show(f"Sandbox stopped after {answered} calls.")
    return 0


def announcement(sandbox: Sandbox, written: Path | None = None) -> str:
    """Addresses and a configuration to copy, or where it was written."""
    width = max(map(len, BASE_PATHS))
    addresses = "\n".join(f"  {name:<{width}}  {sandbox.base_url(name)}" for name in BASE_PATHS)
    config = f"It is in {written}." if written else f"Put this into a file:\n\n{snippet(sandbox, _KEY)}"
    return (
        f"Sandbox provider on {sandbox.url}. Any key is taken, answers are labelled [sandbox], nothing is "
        "paid.\n\n"
        f"Base URLs, as each official SDK takes them:\n{addresses}\n\n"
        "A configuration to try it with needs some text as its key, in the other terminal:\n"
        f"  export {_KEY}=sandbox\n{config}\n\n"
        "Ctrl-C stops it."
    )


def snippet(sandbox: Sandbox, key_variable: str | None = None) -> str:
    """The full example with today's models, all of them served by `sandbox`.

    Args:
        sandbox: Whose addresses they get.
        key_variable: One variable for all keys, so that nobody's own keys go to it; default: the providers' own.
    """
    lines: list[str] = []
    provider = "anthropic"  # the orchestrator's, which the example does not name
    for line in todays_config().splitlines():
        key, _, value = line.strip().partition(": ")
        lines.append(line)
        if line == "orchestration:":
            lines.append("  allow_private_hosts: true")
        elif key == "provider":
            provider = value
        elif key == "api_key_env":
            indent = " " * (len(line) - len(line.lstrip()))
            if key_variable is not None:
                lines[-1] = f"{indent}{key}: {key_variable}"
            lines.append(f'{indent}base_url: "{sandbox.base_url(provider)}"')
    return "\n".join(lines) + "\n"
