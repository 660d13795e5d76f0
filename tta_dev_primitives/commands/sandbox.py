"""`tta sandbox`: the loopback provider."""

from __future__ import annotations

from pathlib import Path

__all__ = ["sandbox"]


def sandbox(*, port: int = 8765, scenario: Path | None = None, write_config: Path | None = None) -> int:
    """Serve the sandbox provider on 127.0.0.1 until Ctrl-C; prints the addresses and a configuration to copy.

    Args:
        port: The port; 0 takes a free one.
        scenario: A YAML or JSON file that scripts answers, errors, delays and quotas.
        write_config: Write a configuration whose models it serves to this new file.
    """
    from tta_dev_primitives.deployments.sandbox.run import run_sandbox

    run_sandbox(port=port, scenario=scenario, write_config=write_config)
    return 0
