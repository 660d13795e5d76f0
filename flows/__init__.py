"""The work: plan, execute and validate, bulk runs and reports, and the pure decisions between them.

The flows are loaded on first use: importing them brings Prefect, which takes seconds that `tta --help` must not pay.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tta_dev_primitives.flows.bulk.bulk_flow import orchestrate_bulk
    from tta_dev_primitives.flows.orchestrate_flow import orchestrate
    from tta_dev_primitives.flows.reporting.spend_report_flow import spend_report

__all__ = ["orchestrate", "orchestrate_bulk", "spend_report"]

_HOMES = {
    "orchestrate": "orchestrate_flow",
    "orchestrate_bulk": "bulk.bulk_flow",
    "spend_report": "reporting.spend_report_flow",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
