"""Flows that stored deployments of version 0.1.0 still look for at their old places."""

from collections.abc import Callable
from typing import Any

from tta_dev_primitives.config.errors import ConfigError

_FLOWS = "tta_dev_primitives.flows"
MOVED = {
    f"{_FLOWS}.bulk.orchestrate_bulk": f"{_FLOWS}.bulk.bulk_flow.orchestrate_bulk",
    f"{_FLOWS}.report.spend_report": f"{_FLOWS}.reporting.spend_report_flow.spend_report",
    f"{_FLOWS}.upkeep.check_models": f"{_FLOWS}.maintenance.check_models",
    f"{_FLOWS}.upkeep.sweep_ledger": f"{_FLOWS}.maintenance.sweep_ledger",
    f"{_FLOWS}.upkeep.resume_crashed": f"{_FLOWS}.maintenance.resume_crashed",
}
"""Entrypoint of version 0.1.0 to entrypoint of today."""


def moved_from(module: str) -> Callable[[str], Any]:
    """The `__getattr__` of `module`, which held flows in version 0.1.0.

    Raises:
        ConfigError: One of the flows is asked for; the message names the remedy.
    """

    def getattr_(name: str) -> Any:
        if f"{module}.{name}" in MOVED:
            raise ConfigError(
                f"The flow {module}.{name} moved with version 0.2.0. "
                "To fix: run `tta deploy`, which updates the stored deployments."
            )
        raise AttributeError(f"module {module!r} has no attribute {name!r}")

    return getattr_
