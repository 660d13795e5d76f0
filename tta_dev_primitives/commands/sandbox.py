"""`tta sandbox`: the loopback provider, its addresses and a configuration to copy."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from tta_dev_primitives.commands._output import counted
from tta_dev_primitives.config.template import todays_config, write_new_file

if TYPE_CHECKING:
    from tta_dev_primitives.deployments.sandbox import Sandbox

_KEY = "SANDBOX_API_KEY"


def sandbox(*, port: int = 8765, scenario: Path | None = None, write_config: Path | None = None) -> int:
    """Serve the sandbox provider on 127.0.0.1 until Ctrl-C; prints the addresses and a configuration to copy.

    Args:
        port: The port; 0 takes a free one.
        scenario: A YAML or JSON file that scripts answers, errors, delays and quotas.
        write_config: Write a configuration whose models it serves to this new file.
    """
    from tta_dev_primitives.deployments.sandbox import Sandbox

    provider = Sandbox(scenario)

    def announce() -> None:
        if write_config is not None and not write_new_file(write_config, snippet(provider, _KEY)):
            print(f"{write_config} exists already and was left as it is; its addresses may be others.\n")
        print(announcement(provider, write_config), flush=True)

    provider.serve(port, on_start=announce)
    answered = sum(call.endpoint == "chat" for call in provider.calls)
    print(f"Sandbox stopped after {counted(answered, 'call')}.", flush=True)
    return 0


def announcement(sandbox: Sandbox, written: Path | None = None) -> str:
    """Addresses and a configuration to copy, or where it was written."""
    from tta_dev_primitives.deployments.sandbox.sandbox import BASE_PATHS

    width = max(map(len, BASE_PATHS))
    addresses = "\n".join(f"  {name:<{width}}  {sandbox.base_url(name)}" for name in BASE_PATHS)
    config = (
        f"The configuration is in {written}."
        if written
        else f"Put this configuration into a file:\n\n{snippet(sandbox, _KEY)}"
    )
    return (
        f"Sandbox provider on {sandbox.url}. It takes any key.\n"
        "Its answers are labelled [sandbox]. Nothing is paid.\n\n"
        f"Base URLs, as each official SDK takes them:\n{addresses}\n\n"
        "In the other terminal:\n"
        f"  export {_KEY}=sandbox\n{config}\n\n"
        "Ctrl-C stops it."
    )


def snippet(sandbox: Sandbox, key_variable: str | None = None) -> str:
    """The full example with today's models, all of them served by `sandbox`.

    Args:
        sandbox: Whose addresses they get.
        key_variable: One variable for all keys, so that no key of a provider goes to it; default: the providers' own.
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
